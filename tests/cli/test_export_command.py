"""`depthwise export` as a person and as a program sees it: one table or one document, and nobody else's chatter."""

import json
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import pytest

from depthwise.cli.app import run


def test_a_document(tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "network.onnx"
    command = [
        "export",
        str(tiny_bundle),
        "--format",
        "onnx",
        "--out",
        str(out),
        "--data",
        "digits",
        "--json",
    ]
    assert run(command) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    document = json.loads(printed.out)
    assert 0 <= document.pop("error") <= 1e-4
    assert document == {
        "files": [str(out)],
        "num_bytes": out.stat().st_size,
        "format": "onnx",
        "runtime": "onnxruntime",
        "version": onnxruntime.__version__,
        "num_images": 8,
        "data": "digits",
    }


def test_a_table_of_a_file_that_replaces_another(
    tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "network.pt2"
    out.write_text("old")
    command = ["export", str(tiny_bundle), "--format", "torch", "--out", str(out)]
    assert run(command) == 1
    assert "network.pt2 exists and is not overwritten" in capfd.readouterr().err
    assert out.read_text() == "old"

    assert run([*command, "--force"]) == 0
    printed = capfd.readouterr()
    assert printed.err == "compared on 8 made-up images: --data compares on real ones\n"
    (row,) = (line for line in printed.out.splitlines() if ".pt2" in line)
    assert row.split()[0] == str(out)
    assert row.split()[-2:] == ["torch", version("torch")]


def test_wrong_usage(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(tiny_bundle), "--out", str(tmp_path / "network.onnx"), "--format"]
    assert run([*command, "coreml"]) == 2
    assert "coreml" in capsys.readouterr().err
    assert run([*command, "torch"]) == 2
    assert "does not end in .pt2" in capsys.readouterr().err
    assert run([*command, "onnx", "--data", str(tmp_path / "nowhere")]) == 2
    assert "is not there" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
