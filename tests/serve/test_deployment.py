"""The Dockerfile and the unit of systemd, against the command and a server that they start."""

import json
import re
import shlex
import signal
import subprocess
import sys
from configparser import ConfigParser
from os import kill
from pathlib import Path

import pytest
from tests.serve.serving import serving
from tests.test_install import ROOT, SOURCES

from depthwise.cli.app import app

Instructions = list[tuple[str, str]]


@pytest.fixture(scope="module")
def stages() -> list[Instructions]:
    """Of the Dockerfile, from FROM to FROM: each instruction with what stands behind it."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    stages: list[Instructions] = [[]]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            if name == "FROM":
                stages.append([])
            stages[-1].append((name, rest.strip()))
    return stages


def of(stage: Instructions, name: str) -> str:
    """What stands behind the one instruction of this name."""
    (found,) = (rest for each, rest in stage if each == name)
    return found


def words(form: str) -> list[str]:
    """Of the exec form, in which the program itself is process 1 and gets the signals; any other raises."""
    found = json.loads(form)
    assert all(isinstance(word, str) for word in found)
    return found


def unit() -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / "deploy/depthwise.service")
    return parser


def test_the_image_is_built_of_what_makes_a_wheel(stages: list[Instructions]) -> None:
    _, build, final = stages
    copied = {Path(path).name for name, rest in build if name == "COPY" for path in rest.split()[:-1]}
    assert copied == set(SOURCES)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == copied
    assert [rest for name, rest in final if name == "COPY"] == ["--from=build /opt/depthwise /opt/depthwise"]
    # No index's address, but the one that is given; and of torch what the package itself asks for.
    text = (ROOT / "Dockerfile").read_text()
    assert "://" not in text
    script = re.search(r'python -c "(import tomllib.*?)" > torch.txt', text)
    assert script
    found = subprocess.run([sys.executable, "-c", script[1]], cwd=ROOT, capture_output=True, text=True)
    assert [line.partition(">")[0] for line in found.stdout.split()] == ["torch", "torchvision"]


def test_what_starts_the_service_has_options_that_it_knows(stages: list[Instructions]) -> None:
    final = stages[-1]
    user = of(final, "USER")
    assert 0 not in map(int, user.split(":"))
    service = unit()["Service"]
    for command in (
        words(of(final, "ENTRYPOINT")) + words(of(final, "CMD")),
        shlex.split(service["ExecStart"]),
    ):
        assert Path(command[0]).name == "depthwise"
        assert command[1] == "serve"
        bound = app.parse_args(command[1:], print_error=False, exit_on_error=False)[1].arguments
        assert bound["port"] == int(of(final, "EXPOSE"))
        (bundle,) = bound["bundle"]
        assert Path(bundle).is_absolute()
    # What is in the service's own hands: the stop that waits for answers, and longer than these may take.
    assert service["KillSignal"] == "SIGTERM"
    assert "-HUP $MAINPID" in service["ExecReload"]
    assert int(service["TimeoutStopSec"]) > 10 + 5


def test_the_health_check_sees_a_service_and_its_end(stages: list[Instructions], tiny_bundle: Path) -> None:
    final = stages[-1]
    check = words(of(final, "HEALTHCHECK").partition("CMD")[2])
    assert check[:2] == ["python", "-c"]
    entry = words(of(final, "ENTRYPOINT"))
    options = entry[2 : entry.index("--port")]  # any free port is taken
    with serving(tiny_bundle, *options) as (client, server):
        port = str(client.base_url).rstrip("/").rpartition(":")[2]
        assert check[2].count("8000") == 1
        command = [sys.executable, "-c", check[2].replace("8000", port)]
        assert subprocess.run(command, env={"http_proxy": "http://127.0.0.1:1"}).returncode == 0
        kill(server.pid, signal.SIGTERM)
        assert server.code() == 0
        assert subprocess.run(command, capture_output=True).returncode == 1
