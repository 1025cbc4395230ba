"""A hundred damaged and hostile files of weights: each is imported, or refused in a sentence, and no more is done."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

FILES = 100
MEMORY = 1.5e9


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network in every format that can be imported."""
    folder = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    state = timm.create_model("mobilenetv2_050", num_classes=3).state_dict()
    safetensors.torch.save_file(state, folder / "mobilenet_v2-a.safetensors")
    torch.save({"model": state, "epoch": 1}, folder / "mobilenet_v2-zip.pth")
    torch.save(state, folder / "mobilenet_v2-legacy.pth", _use_new_zipfile_serialization=False)
    os.environ["KERAS_BACKEND"] = "torch"
    keras: Any = import_module("keras")
    model = keras.applications.MobileNet((128, 128, 3), alpha=0.25, weights=None, classes=3)
    model.save(folder / "mobilenet_v1-a.keras")
    model.save_weights(folder / "mobilenet_v1-a.weights.h5")
    model.save(folder / "mobilenet_v1-a.h5")
    return folder


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
def test_no_file_of_weights_does_harm(bases: Path, fuzz_seed: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("mutations.py")),
            str(bases),
            str(fuzz_seed),
            str(FILES),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads(done.stdout)
    whole, mutated = document["results"][:6], document["results"][6:]
    assert [entry["outcome"][0] for entry in whole] == [0] * 6, whole
    assert len(mutated) == FILES
    for entry in mutated:
        code, said = entry["outcome"]
        assert code in (0, 1), entry
        assert "unexpected" not in said, entry
        assert "Traceback" not in said, entry
        if code:
            # One sentence, with nothing in it that steers a terminal.
            (line,) = (line for line in said.splitlines() if line.startswith("error: "))
            assert line.isprintable(), entry
            assert len(line) < 2000, entry
    assert document["deeds"] == []
    assert document["memory"] < MEMORY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"bundle"}
