"""What lies where: nested classes, spellings of a name, and all that is no image of a class."""

import os
import shutil
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from depthwise.data import open_dataset
from depthwise.data.names import natural_key, shortened, some
from depthwise.data.sources.listing import ignored_kinds, images_below, list_folder
from depthwise.errors import DepthwiseError

MakeFolder = Callable[[dict[str, int]], Path]

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def kinds(root: Path, *, nested: bool = False) -> tuple[str, ...]:
    return ignored_kinds(list_folder(root, nested=nested).ignored)


def counts(root: Path, *, nested: bool = False) -> dict[str, dict[str, int]]:
    parts = list_folder(root, nested=nested).parts
    return {part: {label: len(names) for label, names in classes.items()} for part, classes in parts.items()}


# Folders in folders


def test_nested_classes_are_called_by_their_paths(make_folder: MakeFolder) -> None:
    root = make_folder({"animals/cat": 2, "animals/dog": 1, "plants/rose": 1, "moss": 1, "moss/wet/deep": 3})
    assert counts(root, nested=True) == {
        "": {"animals/cat": 2, "animals/dog": 1, "moss": 1, "moss/wet/deep": 3, "plants/rose": 1}
    }
    assert list_folder(root, nested=True).empty == ()
    dataset = open_dataset(root, nested=True)
    assert dataset.nested
    assert dataset.classes == ("animals/cat", "animals/dog", "moss", "moss/wet/deep", "plants/rose")


def test_parts_stand_above_nested_classes(make_folder: MakeFolder) -> None:
    root = make_folder({f"{part}/{place}": 2 for part in ("train", "val") for place in ("a/b", "a/c")})
    assert counts(root, nested=True) == {part: {"a/b": 2, "a/c": 2} for part in ("train", "val")}


def test_a_folder_too_high_names_all_that_may_be_meant(make_folder: MakeFolder) -> None:
    root = make_folder({"animals/cat": 1, "animals/dog": 1, "plants/rose": 1})
    with pytest.raises(DepthwiseError) as error:
        list_folder(root)
    assert str(error.value) == (
        f"{root} has no image in a class's folder: did you mean {shortened(f'{root}/animals')} or "
        f"{shortened(f'{root}/plants')}? With nested=True every folder with images is a class by its path, animals/cat "
        "for one"
    )


@pytest.mark.parametrize("nested", [False, True])
def test_links_in_a_circle_end(make_folder: MakeFolder, nested: bool) -> None:
    root = make_folder({"cat": 2, "cat/wild": 2, "dog": 2})
    for link, target in {
        "up": ".",
        "cat/up": "..",
        "cat/same": ".",
        "cat/wild/cat": "..",
        "dog/cat": "../cat",
        "self": "self",
        "dog/a.png": "b.png",
        "dog/b.png": "a.png",
    }.items():
        (root / link).symlink_to(target)
    listing = list_folder(root, nested=nested)
    found = {label: len(names) for label, names in listing.parts[""].items()}
    assert found == {"cat": 2, "dog": 4} | ({"cat/wild": 2} if nested else {})
    told = {stray.path: stray.kind for stray in listing.ignored}
    assert told["self"] == "link that leads back to itself"
    assert "folder" in told["up/"]
    # As pictures they are named with the rest of what cannot be read.
    bad = open_dataset(root, nested=nested, max_bad=1.0).bad
    assert {image.path: image.reason for image in bad} == dict.fromkeys(
        ("dog/a.png", "dog/b.png"), os.strerror(40)
    )


def test_a_linked_folder_is_a_class_once(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": 2, "b": 2})
    shutil.copytree(root / "b", tmp_path / "elsewhere/deep")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    (root / "d").symlink_to(root / "b")
    assert counts(root, nested=True) == {"": {"a": 2, "b": 2, "c/deep": 2}}
    assert kinds(root, nested=True) == ("1 link to a folder that is listed already (d/)",)


# Spellings


@pytest.mark.parametrize("part", ["", "train/"])
def test_two_spellings_in_one_part_are_one_class(make_folder: MakeFolder, part: str) -> None:
    root = make_folder({f"{part}{NFC}": 3, f"{part}{NFD}": 2, f"{part}tea": 3})
    assert counts(root) == {part.rstrip("/"): {NFC: 5, "tea": 3}}
    assert sorted(os.listdir(root / part)) == sorted([NFC, NFD, "tea"])
    assert open_dataset(root).notes == (
        "'cafe\\u0301' and 'caf\\xe9' are two spellings of one class, café: they are taken together",
    )


def test_two_spellings_in_two_parts_are_one_class(make_folder: MakeFolder) -> None:
    root = make_folder({f"train/{NFC}": 3, "train/tea": 3, f"val/{NFD}": 2, "val/tea": 1})
    dataset = open_dataset(root)
    assert dataset.classes == (NFC, "tea")
    assert dataset.splits["val"].labels.tolist() == [0, 0, 1]
    assert dataset.splits["val"].image(0).shape[0] == 3
    assert dataset.notes == ()


# What is no image of a class


def test_what_is_ignored_is_said_by_kind(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder({"cat": 3, "dog": 3, "dog/old": 1, "dog/more": 0})
    for i in range(4):
        (root / f"cat/{i}.NEF").write_bytes(b"II*\0raw data of a camera")
    (root / "cat/a.txt").write_text("text")
    (root / "cat/LICENSE").write_text("Permission")
    (root / "README.md").write_text("text")
    shutil.copy(root / "cat/000.png", root / "loose.png")
    shutil.copy(root / "cat/000.png", root / "cat/000.dat")
    os.mkfifo(root / "cat/pipe")
    (root / "cat/zero").symlink_to("/dev/zero")
    (root / "cat/gone").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(root)  # a socket's path is short
        server.bind("socket")
        assert kinds(root) == (
            "4 .nef files (cat/0.NEF, ...)",
            "1 image in 2 folders inside classes (dog/more/, ...: --nested makes a class of each folder with images)",
            "1 image beside the classes' folders (loose.png: move it into one)",
            "1 socket (socket)",
            "1 .md file (README.md)",
            "1 link that leads nowhere (cat/gone)",
            "1 pipe (cat/pipe)",
            "1 device (cat/zero)",
            "1 .dat file that holds an image (cat/000.dat: give it an image's extension)",
            "1 file without an extension (cat/LICENSE)",
            "1 .txt file (cat/a.txt)",
        )
        assert sum(len(split) for split in open_dataset(root).splits.values()) == 6


@pytest.mark.parametrize(
    "name", ["noext", "img.0001", "photo.jpg_large", "photo.jpg?size=large", "St. Bernard 3"]
)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_an_extension_that_says_nothing_leaves_it_to_the_content(
    make_folder: MakeFolder, name: str, format: str
) -> None:
    root = make_folder({"a": 2, "b": 2})
    Image.new("RGB", (40, 30), "red").save(root / "a" / name, format=format)
    (root / "b" / name).write_text("Python, BM, P1, GIF, JFIF: words")
    assert counts(root) == {"": {"a": 3, "b": 2}}
    assert kinds(root) == (f"1 file without an extension (b/{name})",)
    assert images_below(root)[2] == str(root / "a" / name)
    assert not open_dataset(root).bad


def test_many_names_and_long_ones_make_no_long_line() -> None:
    assert some(map(str, range(8))) == "0, 1, 2, 3, 4 and 3 more"
    assert some(["a"]) == "a"
    long = "folder/" + "x" * 300 + "/image.png"
    assert shortened(long) == f"{long[:30]}…{long[-29:]}"
    assert len(shortened(long)) == 60
    assert len(some([long] * 1000)) < 330


def test_people_count_9_before_10() -> None:
    ordered = ["10", "9", "2", "010", "100", "a", "a1", "a2", "a10", "a10b", "b", "9" * 5000]
    assert sorted(ordered, key=natural_key) == [
        *("2", "9", "10", "010", "100", "9" * 5000, "a", "a1", "a2", "a10", "a10b", "b"),
    ]
