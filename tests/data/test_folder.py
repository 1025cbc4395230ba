"""A folder as a data set: what is found, how it is divided, and what is said about what is wrong."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depthwise.data import Dataset, FileSplit, TooManyUnreadableError, open_dataset, source
from depthwise.data.folder import divide
from depthwise.data.verify import Fact, verify
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
    assert source.val_split(dataset) == ("val", dataset.splits["val"])
    assert source.test_split(dataset) == ("test", dataset.splits["test"])
    assert dataset.notes == dataset.bad == dataset.ignored == ()


@pytest.mark.parametrize("name", ["valid", "validation", "Val"])
def test_parts_go_by_their_other_names(make_folder: MakeFolder, name: str) -> None:
    dataset = open_dataset(str(make_folder({"Train/a": 2, "Train/b": 2, f"{name}/a": 1, f"{name}/b": 1})))
    assert list(dataset.splits) == ["train", "val"]
    assert source.test_split(dataset)[0] == "val"


def test_train_and_test_need_no_val(make_folder: MakeFolder) -> None:
    dataset = open_dataset(str(make_folder({"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})))
    assert list(dataset.splits) == ["train", "test"]
    assert source.val_split(dataset)[0] == "test"


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
        open_dataset(str(make_folder({"cat": 3}) / "cat"))


def test_a_folder_too_high(make_folder: MakeFolder) -> None:
    root = make_folder({"archive/cat": 3, "archive/dog": 3})
    with pytest.raises(DepthwiseError, match=r"did you mean .*archive"):
        open_dataset(str(root))


def test_one_class(make_folder: MakeFolder) -> None:
    with pytest.raises(DepthwiseError, match=r"has one class, cat: .*takes two"):
        open_dataset(str(make_folder({"cat": 3})))


def test_classes_that_only_val_has(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 2, "train/b": 2, "val/a": 1, "val/zebra": 1})
    with pytest.raises(DepthwiseError, match=r"val has classes that train has not \(zebra\)"):
        open_dataset(str(root))


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
    assert reasons == {"a/pipe.png": "not a regular file", "a/dangling.png": "No such file or directory"}


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


def test_a_file_is_decoded_once_and_again_only_when_it_changes(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 70, "b": 70})
    names = [f"a/{i:03}.png" for i in range(70)]
    calls: list[tuple[int, int]] = []
    first = verify(root, names, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, 70) for i in range(70)]
    calls.clear()
    assert verify(root, names, progress=lambda done, total: calls.append((done, total))) == first
    assert calls == []
    Image.new("RGB", (3, 3)).save(root / names[5])
    spoil(root / names[6])
    facts, bad = verify(root, names, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(69, 70), (70, 70)]
    assert facts[names[5]].width == 3
    assert [image.path for image in bad] == [names[6]]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 0}', '{"format": 1, "facts": {"a/000.png": 3}}']
)
def test_a_damaged_memory_is_no_memory(make_folder: MakeFolder, content: str) -> None:
    root = make_folder({"a": 2, "b": 2})
    first = open_dataset(str(root))
    memories = list((Path(os.environ["XDG_CACHE_HOME"]) / "depthwise" / "verified").iterdir())
    assert len(memories) == 1
    memories[0].write_text(content)
    assert open_dataset(str(root)).fingerprint == first.fingerprint


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
    return {name: Fact(1, 1, content, 1, 1, 1, "PNG", "L") for name, content in contents.items()}


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
        source.val_split(dataset)
