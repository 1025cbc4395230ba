"""What `data check`, `data stats` and the contact sheet tell of a set, good or bad."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthwise.data import Decoding, open_dataset
from depthwise.data.check import check, contact_sheet, stats
from depthwise.data.sources.verify import verify
from depthwise.errors import DepthwiseError, UsageError

MakeFolder = Callable[[dict[str, int]], Path]


def test_a_good_set_is_ok(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 4, "train/b": 3, "val/a": 2, "val/b": 1})
    report = check(str(root))
    assert report.ok
    assert report.error is None
    assert report.counts == {"train": {"a": 4, "b": 3}, "val": {"a": 2, "b": 1}}
    assert report.fingerprint == open_dataset(str(root)).fingerprint
    assert report.modes == {"PNG RGB": 10}
    assert report.heights == (12, 12, 12)
    assert report.widths == (10, 10.5, 12)
    nothing = (report.unreadable, report.duplicates, report.conflicts, report.leaks, report.ignored)
    assert not any(nothing)


def test_the_same_image_twice_is_found_within_across_classes_and_across_parts(
    make_folder: MakeFolder,
) -> None:
    root = make_folder({"train/a": 4, "train/b": 3, "val/a": 2, "val/b": 1})
    shutil.copy(root / "train/a/000.png", root / "train/a/copy.png")
    shutil.copy(root / "train/a/001.png", root / "train/b/copy.png")
    shutil.copy(root / "train/a/002.png", root / "val/a/copy.png")
    report = check(str(root))
    within = ("train/a/000.png", "train/a/copy.png")
    across_classes = ("train/a/001.png", "train/b/copy.png")
    across_parts = ("train/a/002.png", "val/a/copy.png")
    assert set(report.duplicates) == {within, across_classes, across_parts}
    assert report.conflicts == (across_classes,)
    assert report.leaks == (across_parts,)
    assert not report.ok


def test_copies_in_an_undivided_folder_do_not_leak(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 10, "b": 10})
    for path in list((root / "a").iterdir()):
        shutil.copy(path, path.with_stem(f"{path.stem}-copy"))
    report = check(str(root))
    assert len(report.duplicates) == 10
    assert report.leaks == ()
    assert report.ok


def test_a_set_too_bad_for_training_is_told_whole(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 6, "train/b": 3, "val/a": 1})
    for index in range(3):
        (root / f"train/a/00{index}.png").write_bytes(b"")
    (root / "train/a/notes.txt").write_text("ignored")
    report = check(str(root))
    assert not report.ok
    assert report.error is not None
    assert report.error.startswith("over 1% of the 10 images cannot be read, which stops a training: mend")
    assert [image.path for image in report.unreadable] == [f"train/a/00{index}.png" for index in range(3)]
    assert report.counts == {"train": {"a": 3, "b": 3}, "val": {"a": 1}}
    assert report.ignored == ("train/a/notes.txt",)
    told = json.loads(json.dumps(report.to_json()))
    assert told["ok"] is False
    assert told["unreadable"][0] == {"path": "train/a/000.png", "reason": "the file is empty (0 bytes)"}
    assert told["heights"] == {"lowest": 12, "median": 12, "highest": 12}


def test_what_stops_training_is_told_not_raised(make_folder: MakeFolder) -> None:
    report = check(str(make_folder({"train/a": 2, "val/zebra": 1})))
    assert report.error is not None
    assert "one class, a" in report.error
    assert report.fingerprint is None


def test_without_an_image_there_is_nothing_to_tell(make_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there"):
        check(str(tmp_path / "missing"))
    root = make_folder({"a": 1, "b": 1})
    for path in root.glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(DepthwiseError, match=r"none of the 2 images .*empty"):
        check(str(root))


def test_built_in_sets_are_checked_too() -> None:
    report = check("digits")
    assert report.ok
    assert sum(report.counts["train"].values()) == 1437
    assert report.modes == {"array": 1797}


def test_stats_are_the_numbers_of_the_pixels(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 6, "train/b": 2, "val/a": 1, "val/b": 1})
    report = stats(str(root))
    pictures = [np.array(Image.open(path)) / 255 for path in sorted((root / "train").glob("*/*.png"))]
    mean = np.mean([picture.mean(axis=(0, 1)) for picture in pictures], axis=0)
    variance = np.mean([((picture - mean) ** 2).mean(axis=(0, 1)) for picture in pictures], axis=0)
    assert report.mean == pytest.approx(mean)
    assert report.std == pytest.approx(np.sqrt(variance))
    assert report.measured == 8
    assert report.imbalance == 3
    assert report.counts["train"] == {"a": 6, "b": 2}
    assert report.split_source == "as found in train/, val/"
    assert json.loads(json.dumps(report.to_json()))["widths"]["highest"] == 12
    assert stats(str(root), measure=3).measured == 3


def test_stats_of_a_set_too_bad_for_training_are_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(DepthwiseError, match="one class"):
        stats(str(make_folder({"a": 2})))


def test_the_contact_sheet_shows_images_of_each_class_in_its_row(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    root = make_folder({"train/red": 0, "train/green": 0, "train/a very long name, longer than its place": 0})
    colours = {
        "red": (255, 0, 0),
        "green": (0, 128, 0),
        "a very long name, longer than its place": (0, 0, 255),
    }
    for name, colour in colours.items():
        for index in range(5):
            Image.new("RGB", (20, 10 + index), colour).save(root / "train" / name / f"{index}.png")
    dataset = open_dataset(str(root))
    contact_sheet(dataset, tmp_path / "sheet.png", per_class=3, side=40)
    sheet = Image.open(tmp_path / "sheet.png")
    for row, name in enumerate(dataset.classes):
        for column in range(3):
            assert sheet.getpixel((180 + 44 * column + 20, 4 + 44 * row + 20)) == colours[name]
    assert sheet.size == (180 + 3 * 44, 3 * 44 + 4)
    with pytest.raises(DepthwiseError, match="cannot be written"):
        contact_sheet(dataset, tmp_path / "sheet.png" / "sheet.png")
    with pytest.raises(UsageError, match=r"sheet.pn does not end as a picture does: name it sheet.png"):
        contact_sheet(dataset, tmp_path / "sheet.pn")


def test_the_range_of_16_bit_images_is_said_with_the_setting_that_suits(tmp_path: Path) -> None:
    for place, highest in (("train/a", 4011), ("train/b", 900), ("val/a", 1000), ("val/b", 30)):
        (tmp_path / place).mkdir(parents=True)
        for index in range(2):
            values = np.full((6, 5), highest - index, np.uint16)
            values[0, 0] = index
            Image.fromarray(values).save(tmp_path / place / f"{index}.png")
    dark, bright = check(str(tmp_path)), check(str(tmp_path), decoding=Decoding(white_level=4095))
    assert dark.deep == bright.deep == (8, 0, 4011)
    assert dark.to_json()["deep"]["note"].endswith(
        "dark with white_level=65535: train with --set white_level=4095"
    )
    assert bright.to_json()["deep"]["note"] == ""
    cut = stats(str(tmp_path), decoding=Decoding(white_level=255))
    assert cut.to_json()["deep"]["note"].endswith(
        "above white_level=255 is white: train with --set white_level=4095"
    )
    means = [stats(str(tmp_path), decoding=Decoding(white_level=level)).mean[0] for level in (65535, 4095)]
    assert means[1] > 10 * means[0]


def test_what_is_read_is_remembered_by_how_it_was_read(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2})
    path = root / "train/a/000.png"
    path.write_bytes(path.read_bytes()[:-60])
    taken = Decoding(allow_truncated=True)
    for _ in range(2):
        assert open_dataset(str(root), decoding=taken).bad == ()
        assert [image.path for image in open_dataset(str(root), max_bad=0.5).bad] == ["train/a/000.png"]
        assert verify(root, ["train/b/000.png"], decoding=Decoding(max_pixels=100)).bad
    assert open_dataset(str(root), decoding=taken).splits["train"].image(0).shape[0] == 3
