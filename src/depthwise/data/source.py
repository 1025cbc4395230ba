"""Where images come from: built-in array sets and folders of class/image, as named splits of (image, label)."""

import gzip
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from depthwise.data.image import to_channels
from depthwise.errors import DepthwiseError, unknown_name

ARRAY_SETS = ("digits", "fashion-mnist")


@dataclass(frozen=True)
class BadImage:
    path: str
    reason: str


class Split(Protocol):
    """Labelled images in a fixed order."""

    @property
    def labels(self) -> Tensor:
        """int64 [n]"""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Tensor:
        """uint8 [C, H, W]"""

    def name(self, index: int) -> str: ...


@dataclass(frozen=True)
class ArraySplit:
    """Images of one size held in memory: uint8 [n, C, H, W], with labels int64 [n]."""

    images: Tensor
    labels: Tensor
    prefix: str

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"{self.prefix}/{index}"


@dataclass(frozen=True)
class Dataset:
    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    channels: int
    fingerprint: str
    split_source: str
    bad: tuple[BadImage, ...] = ()
    ignored: tuple[str, ...] = field(default=())


def open_dataset(spec: str, *, seed: int = 0, channels: int | None = None) -> Dataset:
    if spec == "digits":
        return _digits(channels or 1)
    if spec == "fashion-mnist":
        return _fashion_mnist(channels or 1)
    raise unknown_name("data set", spec, ARRAY_SETS)


def val_split(dataset: Dataset) -> tuple[str, Split]:
    """The split to validate on during training: val, else test."""
    return _first_of(dataset, "val", "test")


def test_split(dataset: Dataset) -> tuple[str, Split]:
    """The split to report on at the end: test, else val."""
    return _first_of(dataset, "test", "val")


def _first_of(dataset: Dataset, *names: str) -> tuple[str, Split]:
    for name in names:
        if name in dataset.splits:
            return name, dataset.splits[name]
    raise DepthwiseError(
        f"{dataset.name} has no {' or '.join(names)} part: evaluation needs one, add a folder of it"
    )


def _digits(channels: int) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    images = torch.from_numpy((raw.images * (255 / 16)).round().astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(raw.target.astype(np.int64))
    parts = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=raw.target)
    splits = {
        name: (images[np.sort(part)], labels[np.sort(part)])
        for name, part in zip(("train", "test"), parts, strict=True)
    }
    return _array_dataset(
        "digits", tuple("0123456789"), splits, channels, "stratified 80/20 of scikit-learn's digits, seed 0"
    )


FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def _fashion_mnist(channels: int) -> Dataset:
    def read(stem: str, dims: int) -> Tensor:
        raw = gzip.decompress((FASHION_FOLDER / f"{stem}-ubyte.gz").read_bytes())
        shape = [int.from_bytes(raw[4 + 4 * d : 8 + 4 * d]) for d in range(dims)]
        return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape).copy())

    splits = {
        part: (read(f"{stem}-images-idx3", 3).unsqueeze(1), read(f"{stem}-labels-idx1", 1).long())
        for part, stem in (("train", "train"), ("test", "t10k"))
    }
    return _array_dataset(
        "fashion-mnist", FASHION_CLASSES, splits, channels, "the published 60000/10000 split"
    )


def _array_dataset(
    name: str,
    classes: tuple[str, ...],
    parts: dict[str, tuple[Tensor, Tensor]],
    channels: int,
    split_source: str,
) -> Dataset:
    digest = hashlib.sha256()
    for part, (images, labels) in parts.items():
        digest.update(part.encode())
        digest.update(images.numpy())
        digest.update(labels.numpy())
    splits: dict[str, Split] = {
        part: ArraySplit(to_channels(images, channels), labels, f"{name}/{part}")
        for part, (images, labels) in parts.items()
    }
    return Dataset(name, classes, splits, channels, digest.hexdigest(), split_source)
