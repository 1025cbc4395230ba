"""Commands on a system that gives them too little: they do without, or say in one sentence what is missing."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from depthwise.data import open_dataset
from depthwise.data.export import export

COMMAND = [sys.executable, "-m", "depthwise"]
SMALL = ["--set", "width=0.05", "middle=(8,)", "size=8", "epochs=1", "batch_size=20"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    dataset = open_dataset("digits")
    export(dataset.splits["test"], dataset.classes, folder, prefix="test", limit=60)
    return folder


def ends(*command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What the command came to: done, or failed with a sentence as its last line, and neither in a surprising way."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, **(environment or {})}
    )
    assert done.returncode in (0, 1), done
    assert not re.search(
        "traceback|unexpected|exception|terminate called|libgomp", done.stderr, re.IGNORECASE
    ), done
    if done.returncode:
        assert done.stderr.splitlines()[-1].startswith("error: "), done
    return done


def limited(*limits: str) -> list[str]:
    return ["prlimit", *limits, *COMMAND]


@pytest.mark.parametrize("megabytes", [300, 1200, 3400])
def test_little_memory(megabytes: int, tiny_bundle: Path, digits: Path) -> None:
    done = ends(*limited(f"--as={megabytes}000000"), "predict", str(tiny_bundle), str(digits / "0"))
    if megabytes < 1000:
        assert done.returncode == 1
    if done.returncode:
        assert "error: out of memory: use a smaller batch" in done.stderr


def test_little_memory_for_the_import_of_torch(tiny_bundle: Path, digits: Path) -> None:
    """About what torch takes, its C++ ends the process itself, or OpenBLAS waits for ever."""
    program = "import torch\nprint(open('/proc/self/status').read())"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    peak = int(re.findall(r"VmPeak:\s+(\d+) kB", said)[0]) * 1024
    for share in (0.93, 0.97, 1.05):
        ends(*limited(f"--as={int(peak * share)}"), "eval", str(tiny_bundle), "--data", str(digits))


@pytest.mark.parametrize("files", [12, 16])
def test_few_open_files_for_workers(files: int, digits: Path, tmp_path: Path) -> None:
    arguments = ["train", "--data", str(digits), "--out", str(tmp_path / "run"), *SMALL]
    done = ends(*limited(f"--nofile={files}"), *arguments)
    assert done.returncode == 1
    assert re.search(
        rf"2 data workers take up to \d+ open files, and this process may have {files}: allow", done.stderr
    )


@pytest.mark.parametrize("command", ["eval", "check"])
def test_few_open_files(command: str, tiny_bundle: Path, digits: Path) -> None:
    arguments = {
        "eval": ["eval", str(tiny_bundle), "--data", str(digits)],
        "check": ["data", "check", str(digits)],
    }
    ends(*limited("--nofile=12"), *arguments[command])


@pytest.mark.parametrize("command", ["predict", "train"])
def test_no_threads(command: str, tiny_bundle: Path, digits: Path, tmp_path: Path) -> None:
    arguments = {
        "predict": ["predict", str(tiny_bundle), str(next((digits / "0").iterdir()))],
        "train": ["train", "--data", str(digits), "--out", str(tmp_path / "run"), "--workers", "0", *SMALL],
    }
    # The limit does not hold for root.
    capability = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    nobody = ["setpriv", "--reuid=4321", *capability] if os.geteuid() == 0 else []
    environment = {"OMP_NUM_THREADS": "4", "XDG_CACHE_HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path)}
    done = ends(*nobody, *limited("--nproc=1"), *arguments[command], environment=environment)
    if done.returncode:
        assert "error: no more threads or processes may be started: allow more (ulimit -u)" in done.stderr


def test_shared_memory_that_cannot_be_written(digits: Path, tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o ro tmpfs /dev/shm && exec "$@"'
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    done = ends(*inside, *COMMAND, "train", "--data", str(digits), "--out", str(tmp_path / "run"), *SMALL)
    assert done.returncode == 1
    assert "error: no shared memory can be had for 4 batches" in done.stderr
    assert "make /dev/shm writable, or use --workers 0" in done.stderr


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = ends(*limited("--fsize=6000"), "train", "--data", "digits", "--out", str(out), *SMALL)
    assert done.returncode == 1
    assert (
        f"error: {out}/checkpoints/last.safetensors cannot be written (File too large): choose" in done.stderr
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_python_shuts_down_says_nothing(number: int) -> None:
    program = (
        "import atexit, sys, threading, time\n"
        "from depthwise.cli import main\n"
        "atexit.register(time.sleep, 60)\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "sys.argv = ['depthwise', '--version']\n"
        "main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=50)
    assert process.returncode == 130
    assert errors.removeprefix("interrupted: nothing is half written, give the command again\n") == ""
