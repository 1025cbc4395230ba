"""A checkpoint is whole or absent, and what is damaged is refused."""

import os
from pathlib import Path

import pytest
import torch

from depthwise.errors import DepthwiseError
from depthwise.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

CHECKPOINT = Checkpoint({"step": 3, "progress": {"seconds": 1.5}}, {"a": torch.arange(6.0).view(2, 3)})


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "deep" / "last.safetensors", CHECKPOINT)
    read = load_checkpoint(tmp_path / "deep" / "last.safetensors")
    assert read.state == CHECKPOINT.state
    assert torch.equal(read.tensors["a"], CHECKPOINT.tensors["a"])
    assert os.listdir(tmp_path / "deep") == ["last.safetensors"]


@pytest.mark.parametrize("length", [0, 4, 60, -1])
def test_a_cut_off_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, CHECKPOINT)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DepthwiseError, match=r"last.safetensors cannot be read .*--force"):
        load_checkpoint(path)


def test_another_files_format_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    with pytest.raises(DepthwiseError, match=r"its format is 'pt', not 1"):
        load_checkpoint(tmp_path / "x.safetensors")
