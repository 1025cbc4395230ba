"""The built-in data sets, held in memory: scikit-learn's digits and Zalando's Fashion-MNIST (arXiv 1708.07747)."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from depthwise.data.cache import cache_folder
from depthwise.data.dataset import ArraySplit, Dataset, Split
from depthwise.data.image import to_channels
from depthwise.errors import DepthwiseError

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
FASHION_PACKAGE = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it

Parts = dict[str, tuple[Tensor, Tensor]]


def open_arrays(name: str, channels: int | None) -> Dataset:
    """One of ARRAY_SETS (places.py); both are grey, so `channels` None gives 1."""
    if name == "digits":
        return _dataset(
            name, tuple("0123456789"), _digits(), channels or 1, "seeded stratified 80/20, seed 0"
        )
    source = "as published, 60000/10000"
    return _dataset(name, FASHION_CLASSES, _fashion_mnist(), channels or 1, source)


def _digits() -> Parts:
    """1,797 images of 8x8 whose 17 grey levels are spread over 0 to 255."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    images = torch.from_numpy((raw.images * (255 / 16)).round().astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(raw.target.astype(np.int64))
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=raw.target)
    return {
        part: (images[np.sort(rows)], labels[np.sort(rows)])
        for part, rows in (("train", train), ("test", test))
    }


def _fashion_mnist() -> Parts:
    folder = FASHION_PACKAGE if FASHION_PACKAGE.is_dir() else _downloaded_fashion_mnist()
    return {
        part: (
            _read_idx(folder / f"{stem}-images-idx3-ubyte.gz").unsqueeze(1),
            _read_idx(folder / f"{stem}-labels-idx1-ubyte.gz").long(),
        )
        for part, stem in (("train", "train"), ("test", "t10k"))
    }


def _downloaded_fashion_mnist() -> Path:
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(cache_folder()), download=True)
    except (OSError, RuntimeError) as error:
        raise DepthwiseError(
            f"fashion-mnist is not on this machine and cannot be downloaded ({error}): install Debian's package "
            f"dataset-fashion-mnist, or put the four files of the set into {cache_folder() / 'FashionMNIST/raw'}"
        ) from error
    return cache_folder() / "FashionMNIST" / "raw"


def _read_idx(path: Path) -> Tensor:
    """The idx format of uint8: 0, 0, type, number of dimensions, then each as a big-endian int32, then the bytes."""
    try:
        raw = gzip.decompress(path.read_bytes())
        shape = [int.from_bytes(raw[at : at + 4]) for at in range(4, 4 + 4 * raw[3], 4)]
        return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy())
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DepthwiseError(f"{path} is damaged ({error}): install or download it again") from error


def _dataset(name: str, classes: tuple[str, ...], parts: Parts, channels: int, split_source: str) -> Dataset:
    digest = hashlib.sha256()
    splits: dict[str, Split] = {}
    for part, (images, labels) in parts.items():
        digest.update(part.encode())
        digest.update(images.numpy().data)
        digest.update(labels.numpy().data)
        splits[part] = ArraySplit(to_channels(images, channels), labels, f"{name}/{part}")
    return Dataset(name, classes, splits, channels, digest.hexdigest(), split_source)
