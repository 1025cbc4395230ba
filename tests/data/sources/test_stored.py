"""Images in parquet and tars: of a JPEG training decodes no more than of a file's."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from depthwise.data import Augment, Preprocess, Split, open_dataset
from depthwise.data.dataset import undecoded
from depthwise.data.pack import pack
from depthwise.data.sources.stored import holds_jpeg

SIZE = Preprocess((24, 24), 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two classes with smooth JPEGs, large beside what they are cut to."""
    root = tmp_path / "photos"
    for k in range(6):
        small = Image.fromarray(np.random.default_rng(k).integers(0, 256, (5, 6, 3), np.uint8))
        place = root / "ab"[k % 2]
        place.mkdir(parents=True, exist_ok=True)
        small.resize((240, 200), Image.Resampling.BICUBIC).save(place / f"{k}.jpg", quality=90)
    return root


def packed_in_tar(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.glob("*/*.jpg")):
            for name, data in (
                (file.name, file.read_bytes()),
                (f"{file.stem}.cls", file.parent.name.encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def crops(split: Split) -> list[bytes]:
    """Of each image by a seed of its own, in the order of what they show."""
    found = []
    for index in range(len(split)):
        torch.manual_seed(0)
        image = Augment(scale=(0.3, 0.6)).image(undecoded(split.reader, split.key(index)), SIZE)
        found.append(image.numpy().tobytes())
    return sorted(found)


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_crops_are_those_of_the_same_files(folder: Path, tmp_path: Path, kind: str) -> None:
    files = open_dataset(folder, whole=True).splits["all"]
    if kind == "parquet":
        pack(open_dataset(folder, whole=True), tmp_path / "set", format="parquet")
        place = tmp_path / "set"
    else:
        place = packed_in_tar(folder, tmp_path / "set.tar")
    (stored,) = open_dataset(place, whole=True).splits.values()
    assert crops(stored) == crops(files)
    torch.manual_seed(0)
    whole = Augment(scale=(0.3, 0.6)).image(files.image(0), SIZE)
    assert whole.numpy().tobytes() not in crops(stored), "the whole image was decoded"
    assert (holds_jpeg(stored), holds_jpeg(files)) == (True, False)


def test_png_in_parquet_is_no_jpeg(folder: Path, tmp_path: Path) -> None:
    for file in folder.glob("*/*.jpg"):
        Image.open(file).resize((8, 8)).save(file.with_suffix(".png"))
        file.unlink()
    pack(open_dataset(folder, whole=True), tmp_path / "set", format="parquet")
    (stored,) = open_dataset(tmp_path / "set", whole=True).splits.values()
    assert not holds_jpeg(stored)
