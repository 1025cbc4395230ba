"""No command asks for a name or connects anywhere, whatever library it loads, and nobody is numbered."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v2

from depthwise import telemetry

RUN_ALL = (
    "import sys, json; from depthwise.cli.app import run\nprint('@', [run(c) for c in json.load(sys.stdin)])"
)
CALLS = "connect,sendto,sendmsg,sendmmsg,socket"


def traced(folder: Path, program: str, stdin: str = "") -> tuple[str, list[str]]:
    """What `program` prints, and the calls by which it or a process that it starts reaches for the internet."""
    if shutil.which("strace") is None:
        pytest.fail("Calls to the network are seen with strace, and there is none: apt-get install strace.")
    # As at home: without what tells libraries that this is a test, and with nothing that says no for them.
    kept = ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    environment = {name: os.environ[name] for name in kept if name in os.environ} | {
        "HOME": str(folder / "home")
    }
    (folder / "home").mkdir(exist_ok=True)
    log = folder / "calls"
    strace = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-e",
        "signal=none",
        "-e",
        f"trace={CALLS}",
        "-o",
        str(log),
    ]
    done = subprocess.run(
        [*strace, sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr, [line for line in log.read_text().splitlines() if "AF_INET" in line]


def test_a_look_up_is_seen(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', "
        "'import socket\\ntry: socket.getaddrinfo(\"example.invalid\", 80)\\nexcept OSError: pass'])"
    )
    assert traced(tmp_path, program)[1]


def test_no_command_reaches_for_the_internet(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle, images = str(tiny_bundle), str(tmp_path / "pictures")
    torch.save(mobilenet_v2(num_classes=3).state_dict(), tmp_path / "mobilenet.pth")
    commands = [
        ["data", "export", "digits", "--split", "test", "--limit", "40", "--out", images],
        ["train", "--data", "digits", "--out", "run", "--set", "epochs=1", "width=0.05", "batch_size=512"],
        ["eval", "run", "--data", "digits", "--report", "report.html"],
        ["import", "mobilenet.pth", "--model", "mobilenet_v2", "--out", "imported"],
        *(
            ["compile", bundle, "--engine", engine, "--out", engine]
            for engine in ("openvino", "onnxruntime", "fastest")
        ),
        ["predict", "openvino", images, "--topk", "1", "--out", "own.csv"],
        ["predict", "openvino", images, "--topk", "1", "--engine", "bundle", "--out", "openvino.csv"],
        ["predict", bundle, images, "--topk", "1", "--engine", "onnxruntime", "--out", "onnxruntime.csv"],
        ["export", "run", "--format", "onnx", "--out", "network.onnx", "--data", "digits"],
        ["export", bundle, "--format", "openvino", "--out", "network.xml"],
        ["export", bundle, "--format", "torch", "--out", "network.pt2"],
        [
            "bench",
            "separable_vgg",
            "--set",
            "stem=small",
            "widths=((16,), (16,))",
            "--size",
            "32",
            "--rounds",
            "2",
            "--threads",
            "1",
            "--engines",
            "openvino int8",
            "torch.compile",
        ],
    ]
    shown, reached = traced(tmp_path, RUN_ALL, json.dumps(commands))
    codes = json.loads(shown.partition("@")[2].partition("]")[0] + "]")
    assert codes == [0] * len(commands), shown
    assert reached == []
    # Where OpenVINO and ONNX Runtime keep the number that they report a person by.
    assert not (tmp_path / "home" / "intel").exists()
    assert not (tmp_path / "home" / ".cache" / "Microsoft").exists()


def test_what_is_loaded_already_is_silenced(tmp_path: Path) -> None:
    """The program's own import of OpenVINO is its own affair; what we do with it then sends nothing."""
    program = (
        "import openvino, onnxruntime, torch, os, sys\n"
        "from openvino_telemetry.backend.backend_ga4 import GA4Backend\n"
        "GA4Backend.send = lambda *_: print('sent')\n"
        "if 'ours' in sys.argv: from depthwise.telemetry import switch_off; switch_off()\n"
        "network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())\n"
        "openvino.convert_model(network, example_input=torch.zeros(1, 3, 8, 8))"
    )
    # As at home: their own telemetry is silent where CI is set.
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    sent = [
        subprocess.run(
            [sys.executable, "-c", program, *ours],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout.count("sent")
        for ours in ([], ["ours"])
    ]
    assert sent[0] > 0
    assert sent[1] == 0


def test_what_a_person_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    telemetry.switch_off()
    assert os.environ["DO_NOT_TRACK"] == "0"
