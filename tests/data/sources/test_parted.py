"""A data set whose parts are named one by one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from depthwise.data import Columns, Dataset, open_dataset
from depthwise.data.pack import pack
from depthwise.data.sources.open import open_images
from depthwise.errors import DepthwiseError, UsageError
from depthwise.places import absolute, short_name

Manifest = Callable[[Path, str, range], Path]


@pytest.fixture
def pictures(make_folder: Callable[[dict[str, int]], Path]) -> Path:
    """A folder with the classes cat and dog, in which no two images are alike."""
    return make_folder({"cat": 6, "dog": 6})


def manifest(pictures: Path, name: str, numbers: range) -> Path:
    file = pictures / name
    paths = sorted(path for path in pictures.glob("*/*.png") if int(path.stem) in numbers)
    rows = [f"{path.relative_to(pictures)},{path.parent.name};animal" for path in paths]
    file.write_text("\n".join(["path,tags", *rows]))
    return file


def names(dataset: Dataset) -> dict[str, list[str]]:
    return {part: [split.name(k) for k in range(len(split))] for part, split in dataset.splits.items()}


def test_a_manifest_for_each_part(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = manifest(pictures, "a.csv", range(4)), manifest(pictures, "b.csv", range(4, 6))
    found = open_dataset(f"train={train},test={test}")
    assert found.task == "multi-label"
    assert found.classes == ("animal", "cat", "dog")
    assert names(found) == {
        "train": [f"{label}/{k:03}.png" for label in ("cat", "dog") for k in range(4)],
        "test": [f"{label}/{k:03}.png" for label in ("cat", "dog") for k in (4, 5)],
    }
    assert found.split_source == "as given by a.csv and b.csv"
    assert found.name == "train=a.csv,test=b.csv"
    # The same files as train.csv and test.csv of one folder: nothing else is said by either.
    same = tmp_path / "same"
    same.mkdir()
    for part, file in (("train", train), ("test", test)):
        (same / f"{part}.csv").write_bytes(file.read_bytes())
    alike = open_dataset(same, columns=Columns(image_root=str(pictures)))
    assert alike.fingerprint == found.fingerprint
    monkeypatch.chdir(pictures)
    assert absolute("train=a.csv,test=b.csv") == f"train={train},test={test}"
    assert open_dataset("train=a.csv,test=b.csv").fingerprint == found.fingerprint


def test_paths_begin_where_each_manifest_lies(pictures: Path) -> None:
    for label in ("cat", "dog"):
        (pictures / label / "list.csv").write_text(
            "\n".join(["path,label", *(f"{k:03}.png,{k % 2}" for k in range(6))])
        )
    found = open_dataset(f"train={pictures / 'cat/list.csv'},val={pictures / 'dog/list.csv'}")
    assert names(found) == {
        "train": [f"cat/{k:03}.png" for k in (0, 2, 4, 1, 3, 5)],
        "val": [f"dog/{k:03}.png" for k in (0, 2, 4, 1, 3, 5)],
    }
    (pictures / "dog/list.csv").write_text("path,label\n../cat/000.png,1\n")
    with pytest.raises(
        DepthwiseError, match=r"'\.\./cat/000\.png', which is not in .*dog: nothing else is read"
    ):
        open_dataset(f"train={pictures / 'cat/list.csv'},val={pictures / 'dog/list.csv'}")


def test_a_folder_for_each_part(make_folder: Callable[[dict[str, int]], Path]) -> None:
    root = make_folder({"a/cat": 3, "a/dog": 3, "b/cat": 2, "b/dog": 2})
    (root / "a").rename(root / "learned")
    found = open_dataset(f"train={root / 'learned'},val={root / 'b'}")
    assert (found.task, found.classes) == ("single-label", ("cat", "dog"))
    assert [(part, len(split)) for part, split in found.splits.items()] == [("train", 6), ("val", 4)]
    assert found.splits["val"].targets(torch.arange(4)).tolist() == [0, 0, 1, 1]
    assert found.notes[0] == "learned and b: an image has one label, from its folder, its path from its name"
    only = open_images(f"test={root / 'b'}")
    assert [(part, len(split)) for part, split in only.splits.items()] == [("test", 4)]


def test_what_cannot_be_a_part(pictures: Path, tmp_path: Path) -> None:
    train = manifest(pictures, "a.csv", range(6))
    pack(open_dataset(train), tmp_path / "shards")
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "divided/train").mkdir(parents=True)
    for label in ("cat", "dog"):
        (tmp_path / "divided/train" / label).symlink_to(pictures / label)
    for wrong, kind, sentence in (
        (f"train={train},train={train}", UsageError, "names its train part twice"),
        (f"train={train},val=nowhere.csv", UsageError, "'nowhere.csv', the val part of .* is not there"),
        (f"train={train},val={tmp_path / 'notes.txt'}", UsageError, "is neither a folder nor a manifest"),
        (
            f"train={train},val={tmp_path / 'shards'}",
            DepthwiseError,
            "is a set of shards, which has its own parts",
        ),
        (f"train={tmp_path / 'divided'}", DepthwiseError, "has the parts train/ itself: name one of them"),
        (f"train={train},val={train}", DepthwiseError, "into val, and it is in train already"),
    ):
        with pytest.raises(kind, match=sentence):
            open_dataset(wrong)
    assert short_name(train) == "a.csv"
