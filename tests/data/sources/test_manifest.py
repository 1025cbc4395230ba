"""A manifest as a data set: what is read, how it is divided, and that one label an image is the folder over again."""

import csv
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import depthwise
from depthwise.data import Columns, Dataset, FileSplit, TooManyUnreadableError, open_dataset
from depthwise.data.check import check
from depthwise.data.targets import class_counts
from depthwise.errors import DepthwiseError, UsageError

MakeFolder = Callable[[dict[str, int]], Path]
TINY: dict[str, Any] = {"width": 0.05, "middle": (8,), "size": 16, "epochs": 1, "batch_size": 5}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 30 different images, 00.png to 29.png."""
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    return tmp_path


def write(path: Path, rows: Sequence[Sequence[Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def write_lines(path: Path, objects: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(values) + "\n" for values in objects), encoding="utf-8")
    return str(path)


def said(dataset: Dataset, part: str = "train") -> dict[str, tuple[list[str], list[str]]]:
    """By image, the classes it shows and those that it was looked at for and does not show."""
    split, found = dataset.splits[part], {}
    for index, row in enumerate(split.targets(torch.arange(len(split))).reshape(len(split), -1).tolist()):
        found[split.name(index)] = (
            [dataset.classes[k] for k in row if k >= 0],
            [dataset.classes[-k - 2] for k in row if k < -1],
        )
    return found


def shown(dataset: Dataset) -> dict[str, list[str]]:
    return {name: classes for part in dataset.splits for name, (classes, _) in said(dataset, part).items()}


# One label an image


def test_a_manifest_of_one_label_is_the_folder_of_the_same_images(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    root = make_folder({"cat": 12, "cat-2": 9, "dog": 7})
    rows = [(str(path.relative_to(tmp_path)), path.parent.name) for path in root.rglob("*.png")]
    random.Random(0).shuffle(rows)
    manifest = write(tmp_path / "set.csv", [("file", "label"), *rows])
    folder, table = open_dataset(root), open_dataset(manifest)
    assert table.classes == folder.classes
    assert table.split_source == folder.split_source
    for part in ("train", "val"):
        ours, theirs = table.splits[part], folder.splits[part]
        assert isinstance(ours, FileSplit)
        assert isinstance(theirs, FileSplit)
        assert [path.removeprefix("set/") for path in ours.paths] == list(theirs.paths)
        assert ours.targets(torch.arange(len(ours))).equal(theirs.targets(torch.arange(len(theirs))))
    runs = [
        depthwise.train(data, out=tmp_path / f"run{k}", workers=0, **TINY)
        for k, data in enumerate((root, manifest))
    ]
    weights = [(run.out / "bundle/model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    assert depthwise.evaluate(runs[1].out, manifest, workers=0).num_images == len(table.splits["val"])
    assert depthwise.evaluate(runs[1].out, root, workers=0).num_images == 28


def test_the_order_of_the_lines_changes_nothing(images: Path) -> None:
    rows = [(f"{k:02}.png", "abc"[k % 3] + ("; red" if k % 2 else "")) for k in range(30)]
    header = ("path", "tags")
    first = open_dataset(write(images / "set.csv", [header, *rows]))
    random.Random(1).shuffle(rows)
    again = open_dataset(write(images / "set.csv", [header, *rows]))
    assert again.fingerprint == first.fingerprint
    assert {part: said(again, part) for part in again.splits} == {
        part: said(first, part) for part in first.splits
    }


def test_the_fingerprint_changes_with_a_label_a_part_and_a_byte(images: Path) -> None:
    def fingerprint(*rows: Sequence[str]) -> str:
        manifest = write(images / "set.csv", [("path", "label", "split"), *rows])
        return open_dataset(manifest, whole=True).fingerprint

    rows = [("00.png", "a", "train"), ("01.png", "b", "val")]
    first = fingerprint(*rows)
    assert fingerprint(("00.png", "b", "train"), rows[1]) != first
    assert fingerprint(rows[0], ("01.png", "b", "test")) != first
    assert fingerprint(*reversed(rows)) == first
    with (images / "00.png").open("ab") as file:
        file.write(b"\0")
    assert fingerprint(*rows) != first


# Any number of labels


def test_a_separator_makes_several_labels_and_is_said(images: Path) -> None:
    rows = [("00.png", "cat;red "), ("01.png", "dog"), ("02.png", "cat; cat"), ("03.png", "")]
    dataset = open_dataset(write(images / "set.csv", [("file", "tags"), *rows]), whole=True)
    assert dataset.task == "multi-label"
    assert shown(dataset) == {"00.png": ["cat", "red"], "01.png": ["dog"], "02.png": ["cat"], "03.png": []}
    assert dataset.notes == (
        "set.csv: an image has any number of labels, from tags parted by ';', its path from file",
        "1 image without a label that is a class (03.png): taken to show none of the classes",
    )


def test_a_list_makes_several_labels_though_none_has_two(images: Path) -> None:
    lines = [{"image": "00.png", "labels": ["a"]}, {"image": "01.png", "labels": ["b, c"]}]
    dataset = open_dataset(write_lines(images / "set.jsonl", lines), whole=True)
    assert dataset.task == "multi-label"
    assert shown(dataset) == {"00.png": ["a"], "01.png": ["b, c"]}


def test_the_first_label_alone_counts_if_it_is_asked_for(images: Path, tmp_path: Path) -> None:
    one = Columns(one_label=True, ignore=("new",))
    objects = [{"path": f"{k:02}.png", "labels": ["new", "ab"[k % 2], "c"]} for k in range(30)]
    found = open_dataset(write_lines(images / "set.jsonl", objects), columns=one)
    assert (found.task, found.classes) == ("single-label", ("a", "b"))
    assert "30 labels left out, after the first of an image" in found.notes
    lines = [["path", "label"], *([f"{k:02}.png", label] for k in range(30) for label in ("ab"[k % 2], "c"))]
    assert shown(open_dataset(write(images / "set.csv", lines), columns=one)) == shown(found)
    single = write(images / "one.csv", [line for line in lines if line[1] != "c"])
    assert open_dataset(single).fingerprint == found.fingerprint
    with pytest.raises(UsageError, match="and negative_column is for any number of labels"):
        Columns(one_label=True, negative_column="not")
    assert one.words() == ["--ignore=new", "--one-label"]
    assert Columns.from_json(one.to_json()) == one


def test_columns_of_0_and_1_are_a_label_each(images: Path) -> None:
    header = ["file", "id", "red", "round", "part"]
    rows = [
        [f"{k:02}.png", k, int(k % 2 == 0), int(k % 3 == 0), "val" if k > 23 else "train"] for k in range(30)
    ]
    flags = open_dataset(write(images / "set.csv", [header, *rows]))
    assert (flags.task, flags.classes, list(flags.splits)) == (
        "multi-label",
        ("red", "round"),
        ["train", "val"],
    )
    assert said(flags, "val")["24.png"] == (["red", "round"], [])
    assert said(flags)["01.png"] == ([], [])
    assert flags.notes[:2] == (
        "set.csv: an image has any number of labels, from 2 columns of 0 and 1 (red, round), parts from part, its "
        "path from file",
        "not used: id, with other values than 0 and 1",
    )
    celeba = [[name, 2 * red - 1, 2 * around - 1] for name, _, red, around, _ in rows]
    minus = open_dataset(write(images / "set.csv", [["file", "red", "round"], *celeba]))
    assert shown(minus) == shown(flags)
    objects = [{"path": name, "red": bool(red), "round": bool(around)} for name, _, red, around, _ in rows]
    assert shown(open_dataset(write_lines(images / "set.jsonl", objects))) == shown(flags)


def test_columns_of_which_one_is_1_are_classes(images: Path) -> None:
    rows = [[f"{k:02}.png", int(k < 15), int(k >= 15)] for k in range(30)]
    flags = open_dataset(write(images / "set.csv", [["path", "cat", "dog"], *rows]))
    assert (flags.task, flags.classes) == ("single-label", ("cat", "dog"))
    assert shown(flags) == {f"{k:02}.png": ["cat" if k < 15 else "dog"] for k in range(30)}


@pytest.mark.parametrize("values", [(0, 1, 2), (-1, 0, 1), ("", "", "")], ids=str)
def test_other_columns_are_no_labels(images: Path, values: tuple[Any, ...]) -> None:
    rows = [[f"{k:02}.png", values[k % 3], int(k % 2), values[k % 3]] for k in range(30)]
    with pytest.raises(
        DepthwiseError, match="no column that is known to hold labels, only path, a, b, c: name it"
    ):
        open_dataset(write(images / "set.csv", [["path", "a", "b", "c"], *rows]))


def test_several_lines_of_one_image_are_its_labels(images: Path) -> None:
    rows = [("00.png", "cat"), ("01.png", "dog"), ("./00.png", "red"), ("01.png", "dog")]
    dataset = open_dataset(write(images / "set.csv", [("path", "label"), *rows]), whole=True)
    assert dataset.task == "multi-label"
    assert shown(dataset) == {"00.png": ["cat", "red"], "01.png": ["dog"]}
    again = open_dataset(write(images / "one.csv", [("path", "label"), *rows[:2], rows[3]]), whole=True)
    assert again.task == "single-label"


def test_commas_are_part_of_names_unless_they_are_asked_for(images: Path) -> None:
    manifest = write(images / "set.csv", [("path", "label"), ("00.png", "a, b"), ("01.png", "c")])
    dataset = open_dataset(manifest, whole=True)
    assert dataset.classes == ("a, b", "c")
    assert "--label-separator , parts them" in dataset.notes[1]
    parted = open_dataset(manifest, whole=True, columns=Columns(label_separator=","))
    assert parted.classes == ("a", "b", "c")


def test_verified_negatives_are_kept_beside_the_labels(images: Path) -> None:
    rows = [
        ("00.png", "cat", "dog|red"),
        ("01.png", "dog", ""),
        ("02.png", "", "cat"),
        ("03.png", "red", "red"),
    ]
    dataset = open_dataset(write(images / "set.csv", [("path", "label", "negatives"), *rows]), whole=True)
    assert said(dataset, "all") == {
        "00.png": (["cat"], ["dog", "red"]),
        "01.png": (["dog"], []),
        "02.png": ([], ["cat"]),
        "03.png": (["red"], []),
    }
    assert "1 image is said to have a label and to lack it" in dataset.notes[1]


def test_what_is_not_named_may_be_unknown(images: Path) -> None:
    rows = [("00.png", "cat", "dog"), ("01.png", "dog", ""), ("02.png", "", "cat"), ("03.png", "", "")]
    manifest = write(images / "set.csv", [("path", "label", "negatives"), *rows])
    columns = Columns(absent="unknown")
    dataset = open_dataset(manifest, columns=columns)
    assert dataset.task == "verified-labels"
    assert {*shown(dataset)} == {"00.png", "01.png", "02.png"}
    assert dataset.unlabelled == 2
    with pytest.raises(DepthwiseError, match="says of no image which labels it lacks"):
        open_dataset(write(images / "set.csv", [("path", "labels"), ("00.png", "a;b")]), columns=columns)


def test_numbers_are_names_of_classes(images: Path) -> None:
    lines = [{"path": "00.png", "label": 10}, {"path": "01.png", "label": 9}, {"path": "02.png"}]
    dataset = open_dataset(write_lines(images / "set.ndjson", lines), whole=True)
    assert (dataset.classes, dataset.task) == (("10", "9"), "single-label")
    assert dataset.notes[1] == "1 image without a label that is a class (02.png): left out"


# Which labels are classes


def test_the_vocabulary_is_as_asked(images: Path) -> None:
    labels = ["cat", "Cat", "kitty", "dog", "dog", "rare", "misc", "cafe\u0301", "caf\u00e9"]
    rows = [(f"{k:02}.png", f"{label}|all") for k, label in enumerate(labels)]
    manifest = write(images / "set.csv", [("path", "tags"), *rows])

    def counts(**given: Any) -> dict[str, int]:
        dataset = open_dataset(manifest, whole=False, columns=Columns(**given))
        numbers = sum(class_counts(split, len(dataset.classes)) for split in dataset.splits.values())
        return dict(zip(dataset.classes, numbers.tolist(), strict=True))

    own = {"Cat": 1, "all": 9, "caf\u00e9": 2, "cat": 1, "dog": 2, "kitty": 1, "misc": 1, "rare": 1}
    assert counts() == own
    assert counts(min_count=2) == {"all": 9, "caf\u00e9": 2, "dog": 2}
    aliases = (("Cat", "cat"), ("kitty", "cat"))
    assert counts(aliases=aliases, min_count=2, ignore=("all",)) == {"caf\u00e9": 2, "cat": 3, "dog": 2}
    assert counts(classes=("dog", "zebra", "cat"), aliases=aliases) == {"dog": 2, "zebra": 0, "cat": 3}
    notes = open_dataset(manifest, columns=Columns(min_count=2, ignore=("all",))).notes
    assert "9 labels ignored as asked" in notes
    assert any("5 labels of under 2 training images, left out: cat (1 image)" in note for note in notes)
    listed = open_dataset(manifest, columns=Columns(classes=("dog", "zebra", "cat")))
    assert any("that the list of classes has not, left out: all (9 images)" in note for note in listed.notes)
    assert any("train has no image of zebra" in note for note in listed.notes)


def test_too_few_classes_are_explained(images: Path) -> None:
    table = write(images / "set.csv", [("path", "tags"), *((f"{k:02}.png", "a;b") for k in range(9))])
    with pytest.raises(
        DepthwiseError, match=r"no label for classes \(2 labels of under 10 training images, left out: a \(9"
    ):
        open_dataset(table, columns=Columns(min_count=10))
    one = write(images / "one.csv", [("path", "label"), ("00.png", "a"), ("01.png", "b")])
    assert "or name one as in train=a.csv,val=b.csv" in (check(one).error or "")


def test_columns_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(UsageError, match="classes has 'a' twice"):
        Columns(classes=("a", "b", "a"))
    with pytest.raises(UsageError, match="'a' is a class and an alias of one"):
        Columns(classes=("a", "b"), aliases=(("a", "b"),))
    with pytest.raises(UsageError, match="min_count=0 must be at least 1"):
        Columns(min_count=0)
    with pytest.raises(
        UsageError, match="unknown field of the columns 'lable_column': use one of label_column"
    ):
        Columns.from_json({"lable_column": "x"})


def test_columns_are_kept_as_json_and_what_is_given_counts_before_what_is_kept() -> None:
    columns = Columns(label_column="tags", min_count=3, aliases=(("a", "b"),), image_root="pictures")
    assert columns.image_root == os.path.abspath("pictures")
    kept = json.loads(json.dumps(columns.to_json()))
    assert Columns.from_json(kept) == columns
    assert Columns.asked(kept, Columns(min_count=5)) == Columns(
        label_column="tags", min_count=5, aliases=(("a", "b"),), image_root="pictures"
    )
    assert Columns.asked(None, None) is None
    assert columns.words()[:2] == ["--label-column", "tags"]
    assert columns.in_files() == ["--aliases"]
    ignoring = Columns(ignore=("-1", "a b"))
    assert (ignoring.words(), ignoring.in_files()) == (["--ignore=-1", "--ignore=a b"], [])
    assert Columns(ignore=tuple(map(str, range(1000)))).in_files() == ["--ignore"]


# Parts


def test_parts_are_as_a_column_says(images: Path) -> None:
    rows = [(f"{k:02}.png", "ab"[k % 2], ["Train", "validation", "test"][k % 3]) for k in range(12)]
    dataset = open_dataset(write(images / "set.csv", [("path", "label", "split"), *rows]))
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 4, "val": 4, "test": 4}
    assert dataset.split_source == "as given by column split"
    assert dataset.seed is None


def test_parts_are_as_files_say(images: Path) -> None:
    for part, numbers in {"train": range(8), "valid": range(8, 12)}.items():
        write(images / f"{part}.csv", [("path", "label"), *((f"{k:02}.png", "ab"[k % 2]) for k in numbers)])
    dataset = open_dataset(images)
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 8, "val": 4}
    assert dataset.split_source == "as given by train.csv and valid.csv"


def test_a_class_is_learned_from_training_images_alone(images: Path) -> None:
    rows = [
        ("00.png", "a", "train"),
        ("01.png", "b", "train"),
        ("02.png", "c", "val"),
        ("03.png", "a", "val"),
    ]
    dataset = open_dataset(write(images / "set.csv", [("path", "label", "split"), *rows]))
    assert dataset.classes == ("a", "b")
    assert len(dataset.splits["val"]) == 1
    assert "1 label that no training image has, left out: c (1 image)" in dataset.notes


def test_train_alone_is_divided(images: Path) -> None:
    rows = [(f"{k:02}.png", "ab"[k % 2], "train") for k in range(20)]
    dataset = open_dataset(write(images / "set.csv", [("path", "label", "split"), *rows]), seed=3)
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 16, "val": 4}
    assert dataset.split_source == "seeded stratified 80/20 of train in column split, seed 3"


def test_a_column_that_is_no_part_is_not_used_unless_it_is_asked_for(images: Path) -> None:
    manifest = write(
        images / "set.csv", [("path", "label", "split"), ("00.png", "a", "0"), ("01.png", "b", "1")]
    )
    assert "column split says '0' of an image's part" in open_dataset(manifest, whole=True).notes[1]
    with pytest.raises(DepthwiseError, match="says '0' of an image's part: write train, val or test"):
        open_dataset(manifest, columns=Columns(split_column="split"))


def test_copies_never_lie_on_both_sides(images: Path) -> None:
    for k in range(10):
        (images / f"copy{k}.png").write_bytes((images / f"{k:02}.png").read_bytes())
    rows = [(f"{k:02}.png", "ab"[k % 2]) for k in range(30)]
    copies = [(f"copy{k}.png", "ba"[k % 2] if k < 5 else "ab"[k % 2]) for k in range(10)]
    for labels in ("label", "labels"):
        both = [(path, f"{label};x" if labels == "labels" else label) for path, label in (*rows, *copies)]
        for seed in range(5):
            dataset = open_dataset(write(images / "set.csv", [("path", labels), *both]), seed=seed)
            contents = [
                {(images / split.name(k)).read_bytes() for k in range(len(split))}
                for split in dataset.splits.values()
            ]
            assert not contents[0] & contents[1]
            assert any("two classes" in text or "different labels" in text for text in dataset.repeated)


# What is wrong


def test_missing_and_damaged_files_are_named(images: Path) -> None:
    (images / "02.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    rows = [(f"{k:02}.png", "ab"[k % 2]) for k in range(29)] + [("gone.png", "a")]
    manifest = write(images / "set.csv", [("path", "label"), *rows])
    with pytest.raises(
        TooManyUnreadableError, match=r"2 of 30 images in .*set.csv.*see them all with `depthwise"
    ):
        open_dataset(manifest)
    dataset = open_dataset(manifest, max_bad=1.0)
    assert {bad.path: bad.reason for bad in dataset.bad}["gone.png"] == "No such file or directory"
    assert len(dataset.bad) == 2


CSV = "path,label\n00.png,a\n01.png,b\n"

ODD: dict[str, tuple[bytes, Any]] = {
    "a byte order mark": (b"\xef\xbb\xbf" + CSV.encode(), ("a", "b")),
    "CRLF and empty lines": (b"\r\npath,label\r\n\r\n00.png,a\r\n\r\n01.png,b\r\n\r\n", ("a", "b")),
    "no last newline": (CSV.encode()[:-1], ("a", "b")),
    "semicolons": (b"path;label\n00.png;a\n01.png;b\n", ("a", "b")),
    "quotes": (b'path,label\n00.png,"a, ""b"""\n"01.png",c\n', ('a, "b"', "c")),
    "other columns": (b",path,width,label\n0,00.png,8,a\n1,01.png,8,b\n", ("a", "b")),
    "two columns": (b"file,breed\n00.png,a\n01.png,b\n", ("a", "b")),
    "a line that ends early": (b"path,label,more\n00.png,a\n01.png,b,x\n", ("a", "b")),
    "nothing": (b"", r"set\.csv is empty: the first line names the columns"),
    "no line": (b"path,label\n", r"set\.csv names no image: write a line for each"),
    "no header": (
        b"00.png,a\n01.png,b\n",
        r"no column that is known to hold paths.*only 00\.png, a: .*path_column",
    ),
    "no label": (
        b"path,a,b\n00.png,1,2\n",
        r"no column that is known to hold labels.*only path, a, b.*label_column",
    ),
    "a name twice": (b"path,label,label\n00.png,a,b\n", r"has 2 columns called label: rename them"),
    "two that may be": (
        b"path,label,tags\n00.png,a,b\n",
        r"columns label and tags, which mean one thing.*label_column",
    ),
    "two separators": (
        b"path,label\n00.png,a;b\n01.png,a|c\n",
        r"hold ';' \(a;b\) and '\|' \(a\|c\).*label_separator",
    ),
    "too many values": (
        b"path,label\n00.png,a\n01.png,b,c\n",
        r"line 3 of .*set\.csv has 3 values for 2 columns: quote",
    ),
    "an open quote": (
        b'path,label\n00.png,"a\n01.png,b\n',
        r"line 3 of .*set\.csv cannot be read .*ends with one",
    ),
    "Latin-1": (
        b"path,label\n00.png,caf\xe9\n",
        r"line 2 of .*set\.csv is not UTF-8: save the file as UTF-8",
    ),
    "UTF-16": (CSV.encode("utf-16"), r"set\.csv is UTF-16: save it as UTF-8"),
    "a URL": (b"path,label\nhttps://a.b/c.png,a\n", r"line 2 .*'https://a\.b/c\.png': nothing is downloaded"),
    "a path outside": (
        b"path,label\n../x.png,a\n",
        r"line 2 .*'\.\./x\.png', which is not in .*image_root",
    ),
    "an absolute path": (
        b"path,label\n/etc/x.png,a\n",
        r"line 2 .*'/etc/x\.png', which is not in .*image_root",
    ),
    "no path": (b"path,label\n00.png,a\n,b\n", r"line 3 of .*set\.csv names no image: write its path"),
    "a NUL": (b"path,label\n0\x000.png,a\n", r"line 2 .*no path holds a NUL"),
    "one class": (
        b"path,label\n00.png,a\n01.png,a\n",
        r"set\.csv has a for classes: telling classes apart takes two",
    ),
    "two parts": (
        b"path,label,split\n00.png,a,train\n00.png,b,val\n",
        r"line 3 .*puts 00\.png into val, and it is in train",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_csv_is_read_or_a_sentence(images: Path, kind: str) -> None:
    content, expected = ODD[kind]
    (images / "set.csv").write_bytes(content)
    if isinstance(expected, tuple):
        assert open_dataset(images / "set.csv", whole=True).classes == expected
    else:
        with pytest.raises(DepthwiseError, match=expected):
            open_dataset(images / "set.csv")


ODD_LINES: dict[str, tuple[str, str]] = {
    "no JSON": (
        '{"path": "00.png", "label": "a"}\n{"path": }\n',
        r"line 2 of .*set\.jsonl is no JSON \(.*an object a line",
    ),
    "a list": ('["00.png", "a"]\n', r"line 1 of .*set\.jsonl is \['00\.png', 'a'\]: write an object a line"),
    "a key twice": ('{"path": "a", "path": "b"}\n', r"line 1 .*it says 'path' twice"),
    "a fraction": (
        '{"path": "00.png", "label": 1.5}\n',
        r"line 1 .*has the label 1\.5: write a text, a whole number",
    ),
    "a truth": ('{"path": "00.png", "label": [true]}\n', r"line 1 .*has the label True"),
    "no path": ('{"path": "00.png", "label": "a"}\n{"label": "b"}\n', r"line 2 .*names no image"),
    "nothing": ("\n\n", r"set\.jsonl is empty: write an object a line"),
}


@pytest.mark.parametrize("kind", ODD_LINES)
def test_odd_json_lines_are_a_sentence(images: Path, kind: str) -> None:
    content, expected = ODD_LINES[kind]
    (images / "set.jsonl").write_text(content)
    with pytest.raises(DepthwiseError, match=expected):
        open_dataset(images / "set.jsonl")


def test_a_column_that_is_not_there_is_refused_with_those_that_are(images: Path) -> None:
    (images / "set.csv").write_text(CSV)
    with pytest.raises(DepthwiseError, match=r"set\.csv has no column tags: it has path, label"):
        open_dataset(images / "set.csv", columns=Columns(label_column="tags"))
    with pytest.raises(DepthwiseError, match=r"column path of .* is asked for twice"):
        open_dataset(images / "set.csv", columns=Columns(label_column="path"))


def test_paths_begin_where_it_is_asked(images: Path, tmp_path: Path) -> None:
    (images / "lists").mkdir()
    manifest = write(
        images / "lists" / "set.tsv", [("path\tlabel",), ("00.png\ta",), (f"{images}/01.png\tb",)]
    )
    dataset = open_dataset(manifest, whole=True, columns=Columns(image_root=str(images)))
    assert shown(dataset) == {"00.png": ["a"], "01.png": ["b"]}
    assert dataset.splits["all"].image(0).shape == (3, 8, 8)


def test_columns_are_for_manifests(make_folder: MakeFolder) -> None:
    with pytest.raises(UsageError, match="is no manifest, and min_count says how one is read"):
        open_dataset(make_folder({"a": 2, "b": 2}), columns=Columns(min_count=2))
    with pytest.raises(UsageError, match="digits is no manifest, and label_column"):
        open_dataset("digits", columns=Columns(label_column="x"))


def test_folders_of_classes_stay_what_they_were_beside_a_csv(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1})
    (root / "train.csv").write_text("path,label\ntrain/a/000.png,x\n")
    assert open_dataset(root).classes == ("a", "b")


def test_check_counts_and_names(images: Path) -> None:
    (images / "copy.png").write_bytes((images / "00.png").read_bytes())
    lines: list[dict[str, Any]] = [
        {"path": f"{k:02}.png", "tags": ["x", "y"][: 1 + k % 2]} for k in range(30)
    ]
    lines += [{"path": f"{k}.png", "tags": []} for k in ("copy", "gone")]
    lines[3]["tags"] = ["p", "q"]
    lines[5]["tags"] = ["p", "q", "nobody knows"]
    write_lines(images / "set.jsonl", lines)
    columns = Columns(classes=("x", "y", "p", "q", "zebra"))
    found = check(str(images / "set.jsonl"), columns=columns)
    assert found.missing == 1
    assert "over 1%" in (found.error or "")
    assert found.together == (("p", "q"),)
    assert (found.conflicts, found.leaks) == ((("00.png", "copy.png"),), ())
    assert found.labels_per_image == (0, 1.0, 3)
    assert not found.ok
    document = json.loads(json.dumps(found.to_json()))
    assert document["labels_per_image"] == {"lowest": 0, "median": 1, "highest": 3}
    assert document["missing"] == 1
    write_lines(images / "set.jsonl", lines[:-1])
    found = check(str(images / "set.jsonl"), columns=columns)
    assert (found.unlabelled, found.unknown_labels, found.missing) == (1, {"nobody knows": 1}, 0)
    assert found.labels_per_image == (0, 1.0, 2)


# Runs


def test_a_run_keeps_its_columns(images: Path, tmp_path: Path) -> None:
    labels = [("ab"[k % 2], "what") for k in range(30)]
    rows = [(f"{k:02}.png", *labels[k]) for k in range(30)]
    manifest = write(images / "set.csv", [("where", "is", "label"), *rows])
    columns = Columns(path_column="where", label_column="is")
    half = depthwise.train(manifest, out=tmp_path / "half", columns=columns, workers=0, **TINY)
    kept = json.loads((half.out / "run.json").read_text())
    assert kept["data"]["columns"] == {"path_column": "where", "label_column": "is"}
    assert kept["command"][-4:] != []
    again = half.resume(epochs=2, force=True)
    assert again.result.step == 2 * half.result.step
    assert depthwise.evaluate(half.out, manifest, workers=0).num_images == 6
    with pytest.raises(DepthwiseError, match="has no column nope"):
        depthwise.evaluate(half.out, manifest, columns=Columns(label_column="nope"), workers=0)
