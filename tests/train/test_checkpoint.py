"""A checkpoint is whole or absent, and what is damaged is refused."""

import json
import os
import random
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
    with pytest.raises(DepthwiseError, match=r"last.safetensors cannot be read .*force=True"):
        load_checkpoint(path)


def test_another_files_format_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    with pytest.raises(DepthwiseError, match=r"its format is 'pt', not 1"):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("seed", range(3))
def test_no_changed_bit_goes_unnoticed(tmp_path: Path, seed: int) -> None:
    """Each bit of the header, a sample of those of the tensors, in a checkpoint with every type that one has."""
    path = tmp_path / "last.safetensors"
    tensors = {
        "float": torch.randn(40, 3),
        "half": torch.randn(4).bfloat16(),
        "count": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "channels last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    }
    save_checkpoint(path, Checkpoint({"step": 3, "progress": {"seconds": 1.5}}, tensors))
    whole = path.read_bytes()
    header = 8 * (8 + int.from_bytes(whole[:8], "little"))
    chance = random.Random(seed)
    bits = [*range(seed, header, 3), *chance.sample(range(header, 8 * len(whole)), 100)]
    for bit in bits:
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(DepthwiseError, match=r"last.safetensors cannot be read .*force=True"):
            load_checkpoint(path)
    path.write_bytes(whole)
    assert load_checkpoint(path).state["step"] == 3


def test_one_of_an_older_version_has_no_digest_and_is_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "last.safetensors"
    save_file(CHECKPOINT.tensors, path, metadata={"format": "1", "state": json.dumps(CHECKPOINT.state)})
    assert load_checkpoint(path).state == CHECKPOINT.state


def test_a_missing_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(DepthwiseError, match=r"last.safetensors is missing: put the file back, or start"):
        load_checkpoint(tmp_path / "last.safetensors")
