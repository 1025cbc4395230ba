"""`make gpu` where there is no GPU: it says so; its parts run on the CPU at a tiny size, and leave JSON and page."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
from benchmarks import gpu

TINY = gpu.Plan(
    parity=gpu.Load("mobilenet_v1", 32, classes=10, arguments={"width": 0.1, "dropout": 0.0}),
    parity_batch=8,
    steps=2,
    loads=(gpu.Load("mobilenet_v1", 32, classes=10),),
    batch=2,
    sweep=(2, 3),
    rounds=2,
    least=0.0,
)


@pytest.mark.usefixtures("one_thread")
def test_every_part_runs_and_is_on_the_page(tmp_path: Path) -> None:
    gpu.write(gpu.document(TINY, torch.device("cpu")), tmp_path / "results")
    found = json.loads((tmp_path / "results" / "gpu.json").read_text())
    parts = found["parts"]
    assert [*parts] == ["training parity", "inference parity", "speed", "batch sizes", "convolutions"]
    assert not any("error" in part for part in parts.values())
    # Here both sides are the CPU's.
    (exact, rounded), inference = parts["training parity"]["rows"], parts["inference parity"]["rows"]
    assert exact["precision"] == "float32"
    assert exact["largest_difference"] == 0
    assert rounded["largest_difference"] > 0
    assert inference[0]["largest_difference"] < 1e-6
    assert [row["precision"] for row in inference] == ["float32", "bfloat16", "float16"]
    assert {(row["what"], row["program"]) for row in parts["speed"]["rows"]} == {
        (what, program)
        for what in ("training", "inference")
        for program in ("depthwise", "timm's mobilenetv1_100")
    }
    assert [row["batch"] for row in parts["batch sizes"]["rows"]] == [2, 3]
    kinds = parts["convolutions"]["rows"]
    assert {row["dtype"] for row in kinds} == {"float32", "bfloat16"}
    assert not any(row["triton"] for row in kinds)
    assert all("did not run" in row["reason"] for row in kinds)
    page = (tmp_path / "results" / "gpu.html").read_text()
    assert all(f"<h2>{name.capitalize()}</h2>" in page for name in parts)
    assert "timm&#39;s mobilenetv1_100" in page
    assert "https://" not in page
    assert "src=" not in page


def test_a_part_that_fails_leaves_the_others(tmp_path: Path) -> None:
    def fails() -> None:
        raise RuntimeError("<b>no kernel image</b>")

    found = {"speed": gpu.attempted("speed", fails), "batch sizes": {"rows": [{"batch": 1}]}}
    gpu.write(
        {
            "date": "2026-01-02",
            "device": {"name": "x"},
            "machine": {"versions": {}},
            "plan": {"rounds": 1},
            "parts": found,
        },
        tmp_path,
    )
    page = (tmp_path / "gpu.html").read_text()
    assert "RuntimeError: &lt;b&gt;no kernel image&lt;/b&gt;" in page
    assert "<td>1</td>" in page


def test_without_a_gpu_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py", "--out", str(tmp_path / "results")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 0
    assert "There is no CUDA device here" in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(
    any(re.match(r"nvidia\d|kfd|dxg", device.name) for device in Path("/dev").iterdir()),
    reason="there is a GPU",
)
def test_without_a_gpu_nothing_is_installed_for_it(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    make = ["make", "--no-print-directory", "-C", str(root), "gpu", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(make, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.partition(",")[0]) == (0, "There is no CUDA device here")
    assert not [*tmp_path.iterdir()]
