"""The built-in data sets are what they are said to be, and say what to do where they are not there."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from depthwise.data import open_dataset
from depthwise.data.sources import arrays as built_in
from depthwise.errors import DepthwiseError


def test_digits_are_scikit_learns_divided_alike_in_every_class() -> None:
    digits = open_dataset("digits")
    assert {part: len(split) for part, split in digits.splits.items()} == {"train": 1437, "test": 360}
    assert digits.classes == tuple("0123456789")
    raw = load_digits()
    known = {
        image.astype(np.uint8).tobytes(): target for image, target in zip(raw.images, raw.target, strict=True)
    }
    for split in digits.splits.values():
        for index in range(len(split)):
            pixels = split.image(index)
            assert pixels.shape == (1, 8, 8)
            levels = (pixels[0].double() * 16 / 255).round().to(torch.uint8)
            assert known[levels.numpy().tobytes()] == split.labels[index]
    for count, in_test in zip(
        np.bincount(raw.target), torch.bincount(digits.splits["test"].labels).tolist(), strict=True
    ):
        assert abs(in_test - 0.2 * count) < 1


def test_fashion_mnist_is_the_published_set() -> None:
    fashion = open_dataset("fashion-mnist")
    assert torch.bincount(fashion.splits["train"].labels).tolist() == [6000] * 10
    assert torch.bincount(fashion.splits["test"].labels).tolist() == [1000] * 10
    assert fashion.splits["train"].image(0).shape == (1, 28, 28)
    assert fashion.classes[fashion.splits["train"].labels[0]] == "Ankle boot"
    mean = (
        torch.stack([fashion.splits["train"].image(i).float().mean() for i in range(0, 60000, 20)]).mean()
        / 255
    )
    assert abs(mean.item() - 0.2860) < 0.005  # the figure everybody normalises with


def test_built_in_sets_come_in_other_channels() -> None:
    digits, grey = open_dataset("digits", channels=3), open_dataset("digits")
    assert digits.channels == 3
    image = grey.splits["train"].image(0)
    assert torch.equal(digits.splits["train"].image(0), image.expand(3, 8, 8))
    assert open_dataset("digits").fingerprint == grey.fingerprint


def test_fashion_mnist_without_files_or_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import FashionMNIST

    monkeypatch.setattr(built_in, "FASHION_PACKAGE", Path("/nowhere"))
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])  # nothing listens there
    with pytest.raises(DepthwiseError, match=r"dataset-fashion-mnist.*FashionMNIST/raw"):
        open_dataset("fashion-mnist")


def test_a_damaged_fashion_mnist_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\0" * 20)[:-9])
    monkeypatch.setattr(built_in, "FASHION_PACKAGE", tmp_path)
    with pytest.raises(DepthwiseError, match=r"train-images.*damaged"):
        open_dataset("fashion-mnist")
