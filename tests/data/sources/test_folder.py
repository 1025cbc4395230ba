"""A folder as a data set: what is found, how it is divided, and what is said about what is wrong."""

import hashlib
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depthwise.data import Dataset, FileSplit, TooManyUnreadableError, open_dataset, val_split
from depthwise.data import test_split as part_to_test
from depthwise.data.sources.facts import ROW, Fact, Facts, Stamp, read, written
from depthwise.data.sources.folder import divide
from depthwise.data.sources.verify import verify
from depthwise.errors import DepthwiseError, UsageError

MakeFolder = Callable[[dict[str, int]], Path]


def files(dataset: Dataset, part: str) -> list[str]:
    split = dataset.splits[part]
    assert isinstance(split, FileSplit)
    return list(split.paths)


def by_class(dataset: Dataset, part: str) -> dict[str, int]:
    counts = torch.bincount(dataset.splits[part].labels, minlength=len(dataset.classes))
    return dict(zip(dataset.classes, counts.tolist(), strict=True))


# What lies where


def test_parts_are_taken_as_found(make_folder: MakeFolder) -> None:
    root = make_folder(
        {"train/cat": 4, "train/dog": 3, "val/cat": 2, "val/dog": 1, "test/cat": 1, "test/dog": 1}
    )
    dataset = open_dataset(str(root))
    assert dataset.classes == ("cat", "dog")
    assert list(dataset.splits) == ["train", "val", "test"]
    assert by_class(dataset, "train") == {"cat": 4, "dog": 3}
    assert files(dataset, "val") == ["val/cat/000.png", "val/cat/001.png", "val/dog/000.png"]
    assert dataset.splits["val"].labels.tolist() == [0, 0, 1]
    assert dataset.split_source == "as found in train/, val/, test/"
    assert val_split(dataset) == ("val", dataset.splits["val"])
    assert part_to_test(dataset) == ("test", dataset.splits["test"])
    assert dataset.notes == dataset.bad == dataset.ignored == ()


@pytest.mark.parametrize("name", ["valid", "validation", "Val"])
def test_parts_go_by_their_other_names(make_folder: MakeFolder, name: str) -> None:
    dataset = open_dataset(str(make_folder({"Train/a": 2, "Train/b": 2, f"{name}/a": 1, f"{name}/b": 1})))
    assert list(dataset.splits) == ["train", "val"]
    assert part_to_test(dataset)[0] == "val"


def test_train_and_test_need_no_val(make_folder: MakeFolder) -> None:
    dataset = open_dataset(str(make_folder({"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})))
    assert list(dataset.splits) == ["train", "test"]
    assert val_split(dataset)[0] == "test"


def test_train_alone_is_divided(make_folder: MakeFolder) -> None:
    dataset = open_dataset(str(make_folder({"train/a": 10, "train/b": 5})))
    assert by_class(dataset, "val") == {"a": 2, "b": 1}
    assert dataset.split_source == "seeded stratified 80/20 of train/, seed 0"


def test_a_set_for_evaluation_alone_has_no_train(make_folder: MakeFolder) -> None:
    dataset = open_dataset(str(make_folder({"test/a": 2, "test/b": 1})))
    assert list(dataset.splits) == ["test"]
    assert dataset.classes == ("a", "b")


def test_train_may_be_a_class_of_trains(make_folder: MakeFolder) -> None:
    dataset = open_dataset(str(make_folder({"bus": 5, "train": 5, "tram": 5})))
    assert dataset.classes == ("bus", "train", "tram")


def test_what_is_no_image_of_a_class_is_named_or_passed_over(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 5, "cat/more": 2, "dog": 5, "cat/looks like.jpg": 1, ".git": 1, "empty": 0})
    for name in ("Thumbs.db", ".DS_Store", "._000.png", "desktop.ini"):
        (root / "cat" / name).write_bytes(b"litter")
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / "README.md").write_text("about")
    (root / "loose.png").write_bytes((root / "cat/000.png").read_bytes())
    dataset = open_dataset(str(root))
    assert dataset.classes == ("cat", "dog")
    assert set(dataset.ignored) == {
        "README.md",
        "loose.png",
        "cat/more/",
        "cat/looks like.jpg/",
        "cat/notes.txt",
    }
    assert dataset.notes == ("empty/ holds no image",)
    assert sum(len(split) for split in dataset.splits.values()) == 10
    assert not dataset.bad


@pytest.mark.parametrize(
    "name",
    [".ipynb_checkpoints", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", "#recycle", "__pycache__"],
)
def test_hidden_and_system_folders_are_passed_over(make_folder: MakeFolder, name: str) -> None:
    root = make_folder({"cat": 5, "dog": 5, name: 2, f"cat/{name}": 1})
    dataset = open_dataset(str(root))
    assert dataset.classes == ("cat", "dog")
    assert dataset.ignored == ()
    parted = make_folder(
        {f"parted/{part}/{place}": 2 for part in ("train", "test") for place in ("a", "b", name)}
    )
    assert open_dataset(str(parted / "parted")).classes == ("a", "b")


def test_beside_parts_other_folders_are_named(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1, "extra": 1})
    assert open_dataset(str(root)).ignored == ("extra/",)


def test_links_are_followed(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": 5, "b": 5})
    (root / "a" / "link.png").symlink_to(root / "b" / "000.png")
    (root / "c").symlink_to(root / "b")
    dataset = open_dataset(str(root))
    assert sum(by_class(dataset, part)["a"] for part in dataset.splits) == 6
    assert sum(by_class(dataset, part)["c"] for part in dataset.splits) == 5


def test_odd_names_of_files_and_classes(make_folder: MakeFolder) -> None:
    root = make_folder({"a b": 1, "línea\nnueva": 1, "猫": 1})
    for folder in root.iterdir():
        for name in ("x y.png", "neu\nline.png", "снег.PNG", os.fsdecode(b"\xff.png"), "-rf.png"):
            picture = np.random.default_rng(len(str(folder) + name)).integers(0, 256, (5, 5), np.uint8)
            Image.fromarray(picture).convert("RGB").save(root / "tmp.png")
            os.replace(root / "tmp.png", folder / name)
    dataset = open_dataset(str(root))
    assert dataset.classes == ("a b", "línea\nnueva", "猫")
    assert sum(len(split) for split in dataset.splits.values()) == 18
    assert open_dataset(str(root)).fingerprint == dataset.fingerprint  # the second time from memory
    for split in dataset.splits.values():
        assert all(split.image(index).shape[0] == 3 for index in range(len(split)))


def test_grey_sets_have_one_channel_and_mixed_ones_three(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3})
    for path in root.glob("*/*.png"):
        Image.open(path).convert("L").save(path)
    assert open_dataset(str(root)).channels == 1
    assert open_dataset(str(root), channels=3).splits["train"].image(0).shape[0] == 3
    Image.new("RGB", (5, 5), "red").save(root / "a" / "red.png")
    assert open_dataset(str(root)).channels == 3
    assert open_dataset(str(root), channels=4).splits["train"].image(0).shape[0] == 4
    with pytest.raises(DepthwiseError, match="2 channels"):
        open_dataset(str(root), channels=2)


# What is wrong with a folder


def test_a_set_that_is_not_there_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match=r"'fashion' is not there.*fashion-mnist"):
        open_dataset("fashion")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DepthwiseError, match=r"a\.zip is a file: give a folder"):
        open_dataset(str(tmp_path / "a.zip"))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DepthwiseError, match=r"has no image.*CLASS/IMAGE"):
        open_dataset(str(tmp_path))


def test_images_without_class_folders(make_folder: MakeFolder) -> None:
    with pytest.raises(DepthwiseError, match=r"side by side.*one folder a class"):
        open_dataset(str(folder := make_folder({"cat": 3}) / "cat"))
    next(folder.glob("*.*")).with_suffix(".txt").write_text("grey")
    with pytest.raises(
        DepthwiseError, match=r"or take the keywords in 000\.txt and others by labels_from sidecar"
    ):
        open_dataset(str(folder))


def test_a_folder_too_high(make_folder: MakeFolder) -> None:
    root = make_folder({"archive/cat": 3, "archive/dog": 3})
    with pytest.raises(DepthwiseError, match=r"did you mean .*archive"):
        open_dataset(str(root))


def test_one_class(make_folder: MakeFolder) -> None:
    with pytest.raises(DepthwiseError, match=r"has one class, cat: .*takes two"):
        open_dataset(str(make_folder({"cat": 3})))


@pytest.mark.parametrize("part", ["val", "test"])
def test_classes_that_train_has_not_are_left_out_of_other_parts(make_folder: MakeFolder, part: str) -> None:
    root = make_folder({"train/a": 2, "train/b": 2, f"{part}/a": 1, f"{part}/b": 1, f"{part}/zebra": 3})
    dataset = open_dataset(str(root))
    assert dataset.classes == ("a", "b")
    assert by_class(dataset, part) == {"a": 1, "b": 1}
    assert dataset.notes == (
        f"{part} has 3 images of zebra, which train has not: left out, for a class is learned from training images "
        "alone",
    )


def test_a_test_part_of_unlabelled_pictures_alone_leaves_train_to_be_divided(make_folder: MakeFolder) -> None:
    dataset = open_dataset(str(make_folder({"train/a": 5, "train/b": 5, "test/unknown": 4})))
    assert by_class(dataset, "val") == {"a": 1, "b": 1}
    assert dataset.split_source == "seeded stratified 80/20 of train/, seed 0"
    assert "test has 4 images of unknown" in dataset.notes[0]


def test_classes_that_val_lacks_are_noted(make_folder: MakeFolder) -> None:
    dataset = open_dataset(str(make_folder({"train/a": 2, "train/b": 2, "val/a": 1})))
    assert dataset.notes == ("val has no image of b",)


def test_two_folders_for_one_part(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1})
    with pytest.raises(DepthwiseError, match="val/ and valid/, both its val part"):
        open_dataset(str(root))


# Files that cannot be read


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def test_an_unreadable_file_is_left_out_and_named(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 60, "b": 60})
    whole = open_dataset(str(root))
    spoil(root / "a/007.png")
    dataset = open_dataset(str(root))
    assert [image.path for image in dataset.bad] == ["a/007.png"]
    assert "truncated" in dataset.bad[0].reason
    kept = {path for part in dataset.splits for path in files(dataset, part)}
    assert kept == {path for part in whole.splits for path in files(whole, part)} - {"a/007.png"}
    assert dataset.fingerprint != whole.fingerprint


def test_over_one_in_a_hundred_stops_with_the_list(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 60, "b": 60})
    spoil(root / "a/007.png")
    (root / "b/003.png").write_text("text")
    with pytest.raises(
        TooManyUnreadableError, match=r"2 of 120 .*over 1%.*a/007\.png \(.*data check"
    ) as error:
        open_dataset(str(root))
    assert {image.path for image in error.value.bad} == {"a/007.png", "b/003.png"}
    dataset = open_dataset(str(root), max_bad=0.02)
    assert {image.path for image in dataset.bad} == {"a/007.png", "b/003.png"}
    assert sum(len(split) for split in dataset.splits.values()) == 118


def test_what_is_no_regular_file_is_not_waited_for(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 2})
    os.mkfifo(root / "a/pipe.png")
    (root / "a/dangling.png").symlink_to(root / "nowhere.png")
    with pytest.raises(TooManyUnreadableError) as error:
        open_dataset(str(root))
    reasons = {image.path: image.reason for image in error.value.bad}
    assert reasons == {
        "a/pipe.png": "a pipe, and only regular files are read",
        "a/dangling.png": "No such file or directory",
    }


def test_a_file_one_may_not_read_is_named(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 2})
    os.chmod(root / "a/000.png", 0)
    for folder in (root, *root.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            os.chmod(folder, folder.stat().st_mode | 0o055)
    user = os.geteuid()
    if user == 0:  # root may read everything: become nobody
        os.seteuid(65534)
    try:
        with pytest.raises(TooManyUnreadableError, match=r"a/000\.png \(Permission denied\)"):
            open_dataset(str(root))
    finally:
        os.seteuid(user)


# What is remembered


def settle() -> None:
    """Until what was written is old enough for a second change to show in its times."""
    time.sleep(0.06)


def test_a_file_is_decoded_once_and_again_only_when_it_changes(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 70, "b": 70})
    settle()
    names = [f"a/{i:03}.png" for i in range(70)]
    calls: list[tuple[int, int]] = []
    first = verify(root, names, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, 70) for i in range(70)]
    assert first.num_trusted == 0
    calls.clear()
    again = verify(root, names, progress=lambda done, total: calls.append((done, total)))
    assert again == first._replace(num_trusted=70)
    assert calls == []
    assert verify(root, names, afresh=True) == first
    Image.new("RGB", (3, 3)).save(root / names[5])
    spoil(root / names[6])
    facts, bad, _ = verify(root, names, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(69, 70), (70, 70)]
    assert facts[names[5]].width == 3
    assert [image.path for image in bad] == [names[6]]


@pytest.mark.parametrize("how", ["written into", "replaced", "another linked"])
def test_a_change_is_seen_though_size_and_time_are_put_back(make_folder: MakeFolder, how: str) -> None:
    root = make_folder({"a": 5, "b": 5})
    path, other = root / "a/001.png", root / "spare"
    first = open_dataset(str(root)).fingerprint
    settle()
    assert open_dataset(str(root)).num_trusted == 0  # written a moment before they were looked at
    assert open_dataset(str(root)).num_trusted == 10
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1  # in the last chunk's checksum, which decoders pass over
    if how == "written into":
        with path.open("r+b") as file:
            file.write(data)
    else:
        other.write_bytes(data)
        if how == "replaced":
            os.replace(other, path)
        else:
            path.unlink()
            path.symlink_to(other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    changed = open_dataset(str(root))
    assert changed.num_trusted == 9
    assert changed.fingerprint != first


def memory() -> Path:
    (found,) = (Path(os.environ["XDG_CACHE_HOME"]) / "depthwise" / "verified").iterdir()
    return found


def sealed(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


HEAD = {"format": 4, "words": ["PNG", "RGB"], "count": 0, "name_bytes": 0}
BROKEN: list[dict[str, object]] = [
    {"format": 3},
    {"words": 3},
    {"words": [3]},
    {"count": -1},
    {"count": 10**12},
    {"count": "x"},
    {"name_bytes": 5},
    {"name_bytes": -8},
]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\x00\xff" * 1000,
        sealed(b""),
        sealed(b"[]\n"),
        sealed(b"[" * 200_000),
        *(sealed(json.dumps(HEAD | broken).encode() + b"\n" + bytes(8)) for broken in BROKEN),
        sealed(json.dumps(HEAD | {"name_bytes": 1}).encode() + b"\n" + b"\x02" + bytes(7) + b"a"),
    ],
    ids=range(15),
)
def test_a_damaged_memory_is_no_memory(make_folder: MakeFolder, content: bytes) -> None:
    root = make_folder({"a": 2, "b": 2})
    settle()
    first = open_dataset(str(root))
    memory().write_bytes(content)
    again = open_dataset(str(root))
    assert again.fingerprint == first.fingerprint
    assert again.num_trusted == 0
    assert open_dataset(str(root)).num_trusted == 4  # and a good one has taken its place


def test_a_memory_with_another_byte_is_no_memory(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 2})
    settle()
    first = open_dataset(str(root))
    path = memory()
    data = bytearray(path.read_bytes())
    at = data.index(bytes.fromhex(verify(root, ["a/000.png"]).facts["a/000.png"].sha256))
    data[at] ^= 1
    path.write_bytes(data)
    again = open_dataset(str(root))
    assert (again.fingerprint, again.num_trusted) == (first.fingerprint, 0)


IMPOSSIBLE: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("width", "height", "counted"), (-1, 0)),
    **dict.fromkeys(("format", "mode"), (2, 255)),
    **dict.fromkeys(("low", "high"), (-2, 0, 2**16)),
    **dict.fromkeys(Stamp._fields, (0, 1, 2**31 - 1)),
    "channels": (0, 2, 255),
    "truncated": (1,),
}


@pytest.mark.parametrize("field", IMPOSSIBLE)
def test_an_entry_that_no_file_can_have_is_dropped(make_folder: MakeFolder, field: str) -> None:
    root = make_folder({"a": 2, "b": 2})
    settle()
    first = open_dataset(str(root))
    whole = memory().read_bytes()
    assert {*IMPOSSIBLE, "sha256"} == {*(ROW.names or ())}
    for wrong in IMPOSSIBLE[field]:
        found = read(whole)
        facts = Facts([*found.names, "../outside.png", "a/gone.png"], found.words)
        facts.rows[:4], facts.known[:] = found.rows, True
        place = found.place("a/000.png")
        assert place is not None
        facts.rows[field][place] = wrong
        facts.rows[4:] = facts.rows[place]
        memory().write_bytes(written(facts, facts.known))
        again = open_dataset(str(root))
        assert again.fingerprint == first.fingerprint
        assert [again.splits[part].image(0).shape for part in again.splits] == [
            first.splits[part].image(0).shape for part in first.splits
        ]
        assert again.num_trusted == 3, wrong


def test_facts_are_kept_as_they_were() -> None:
    stamp = Stamp(1, -2, 2**62, 2**63, 2**64 - 1)
    given = {
        "a": Fact("00" * 31 + "ff", 3, 4, 3, "PNG", "RGB", stamp, 12),
        "naïve \udcff": Fact("ff" * 31 + "00", 1, 2**31 - 1, 1, "TIFF", "I;16", stamp, 2**39, True, 0, 65535),
    }
    facts = Facts([*given, "unknown"])
    for place, fact in enumerate(given.values()):
        facts.put(place, fact)
    assert facts == given
    assert "unknown" not in facts
    again = read(written(facts, facts.known))
    assert again == given
    assert again.stamp(0) == stamp


def test_without_a_place_to_remember_files_are_read_again(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"a": 2, "b": 2})
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert open_dataset(str(root)).fingerprint == open_dataset(str(root)).fingerprint


# The fingerprint, and how a folder is divided


def test_the_fingerprint_changes_with_a_byte_a_name_or_a_file_and_with_nothing_else(
    make_folder: MakeFolder,
) -> None:
    root = make_folder({"a": 5, "b": 5})
    first = open_dataset(str(root)).fingerprint
    os.utime(root / "a/000.png", (1, 1))
    assert open_dataset(str(root), seed=3, channels=1).fingerprint == first
    moved = root.rename(root.with_name("elsewhere"))
    assert open_dataset(str(moved)).fingerprint == first
    path = moved / "a/000.png"
    data = path.read_bytes()
    path.write_bytes(data + b"\0")
    assert open_dataset(str(moved)).fingerprint != first
    path.write_bytes(data)
    assert open_dataset(str(moved)).fingerprint == first
    path.rename(moved / "a/renamed.png")
    assert open_dataset(str(moved)).fingerprint != first


def facts_of(contents: dict[str, str]) -> dict[str, Fact]:
    stamp = Stamp(1, 1, 1, 1, 1)
    return {name: Fact(content, 1, 1, 1, "PNG", "L", stamp) for name, content in contents.items()}


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.lists(st.integers(0, 30), min_size=1, max_size=40), min_size=1
    ),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_a_division_is_disjoint_complete_stratified_and_of_no_order(
    contents: dict[str, list[int]], seed: int, shuffler: random.Random
) -> None:
    whole = {label: [f"{label}/{i}" for i in range(len(of_class))] for label, of_class in contents.items()}
    facts = facts_of(
        {name: f"{label}{contents[label][i]}" for label in whole for i, name in enumerate(whole[label])}
    )
    parts, undivided = divide(whole, facts, seed)
    for label, names in whole.items():
        train, val = parts["train"][label], parts.get("val", {}).get(label, [])
        assert sorted(train + val) == sorted(names)
        assert not {facts[name].sha256 for name in train} & {facts[name].sha256 for name in val}
        different = len(set(contents[label]))
        in_val = len({facts[name].sha256 for name in val})
        assert in_val == (0 if different == 1 else max(1, round(different / 5)))
        assert (label in undivided) == (different == 1)
    shuffled = {label: shuffler.sample(names, len(names)) for label, names in whole.items()}
    again, _ = divide(shuffled, facts, seed)
    assert {
        part: {label: set(names) for label, names in classes.items()} for part, classes in again.items()
    } == {part: {label: set(names) for label, names in classes.items()} for part, classes in parts.items()}


def test_a_folder_is_divided_alike_each_time_and_otherwise_with_another_seed(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 40, "b": 20, "c": 1})
    dataset = open_dataset(str(root))
    assert by_class(dataset, "train") == {"a": 32, "b": 16, "c": 1}
    assert by_class(dataset, "val") == {"a": 8, "b": 4, "c": 0}
    assert dataset.split_source == "seeded stratified 80/20, seed 0"
    assert dataset.notes == (
        "too few different images to divide, all kept in train: c",
        "val has no image of c",
    )
    assert files(open_dataset(str(root)), "val") == files(dataset, "val")
    assert files(open_dataset(str(root), seed=1), "val") != files(dataset, "val")


def test_with_nothing_to_divide_there_is_no_val_and_that_is_said(make_folder: MakeFolder) -> None:
    dataset = open_dataset(str(make_folder({"a": 1, "b": 1})))
    assert list(dataset.splits) == ["train"]
    with pytest.raises(DepthwiseError, match="has only train: evaluation needs a part called val or test"):
        val_split(dataset)
