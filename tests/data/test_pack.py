"""Any data set becomes shards that hold every byte, label and key of it, in an order that is known."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from depthwise.data import Dataset, FileSplit, open_dataset
from depthwise.data import pack as packing
from depthwise.data.dataset import ArraySplit, Split, all_targets, encoded
from depthwise.data.pack import pack
from depthwise.data.sources.shard_file import Row
from depthwise.data.targets import LabelLists
from depthwise.errors import DepthwiseError

MakeFolder = Callable[[dict[str, int]], Path]

ALL = {"train/cat": 9, "train/dog": 7, "val/cat": 3, "val/dog": 4}


def contents(dataset: Dataset, part: str) -> dict[str, tuple[bytes, object]]:
    """By name, the file and the labels of every image."""
    split = dataset.splits[part]
    targets = all_targets(split).tolist()
    return {split.name(i): (encoded(split, i), targets[i]) for i in range(len(split))}


@pytest.fixture
def folder(make_folder: MakeFolder) -> Path:
    root = make_folder(ALL)
    Image.new("RGB", (40, 30), "red").save(root / "train/cat/photo.jpg", exif=b"Exif\0\0MM\0*" + b"\0" * 40)
    Image.new("CMYK", (9, 9)).save(root / "val/dog" / os.fsdecode(b"\xff'\n.tif"))
    return root


@pytest.mark.parametrize("size", [2**28, 2000])
def test_every_byte_label_and_key_comes_back(folder: Path, tmp_path: Path, size: int) -> None:
    made = open_dataset(folder)
    packed = pack(made, tmp_path / "shards", shard_bytes=size)
    again = open_dataset(tmp_path / "shards")
    assert list(again.splits) == ["train", "val"]
    for part in made.splits:
        assert contents(again, part) == contents(made, part)
        assert again.splits[part].blocks == tuple(record.images for record in packed.manifest.records[part])
    assert contents(again, "train")["train/cat/photo.jpg"][0] == (folder / "train/cat/photo.jpg").read_bytes()
    assert (again.classes, again.channels, again.task) == (made.classes, made.channels, made.task)
    assert again.split_source == made.split_source
    assert packed.manifest.counts == {"train": [10, 7], "val": [3, 5]}


def test_one_shard_keeps_the_order_and_several_are_shuffled_over_all(folder: Path, tmp_path: Path) -> None:
    made = open_dataset(folder)
    names = [made.splits["train"].name(i) for i in range(17)]
    for size, shards in ((2**28, 1), (2000, 4)):
        out = tmp_path / str(size)
        pack(made, out, shard_bytes=size)
        split = open_dataset(out).splits["train"]
        assert len(split.blocks) == shards
        found = [split.name(i) for i in range(17)]
        assert sorted(found) == sorted(names)
        assert (found == names) == (shards == 1)
        if shards > 1:  # both classes in each
            ends = torch.tensor(split.blocks).cumsum(0).tolist()
            firsts = [0, *ends[:-1]]
            classes = [set(all_targets(split)[a:b].tolist()) for a, b in zip(firsts, ends, strict=True)]
            assert classes == [{0, 1}] * shards


def test_arrays_become_png_of_the_same_pixels(tmp_path: Path) -> None:
    digits = open_dataset("digits")
    pack(digits, tmp_path / "shards")
    again = open_dataset(tmp_path / "shards")
    for part, split in digits.splits.items():
        assert torch.equal(all_targets(again.splits[part]), all_targets(split))
        for index in range(0, len(split), 97):
            assert torch.equal(again.splits[part].image(index), split.image(index))
            assert again.splits[part].name(index) == f"digits/{part}/{index}"


def test_sets_of_labels_and_what_was_looked_for_in_vain(tmp_path: Path) -> None:
    lists = [[2, 0], [], [-3, 1], [0, 1, 2, -2]]  # -3: not of class 1
    pixels = torch.arange(4 * 3 * 5 * 5, dtype=torch.int64).to(torch.uint8).reshape(4, 3, 5, 5)
    splits = {
        "train": ArraySplit(pixels, LabelLists.of(lists)),
        "val": ArraySplit(pixels[:1], LabelLists.of([[1]])),
    }
    made = Dataset("tags", ("a", "b", "c"), splits, 3, "made", "by hand", task="multi-label")
    pack(made, tmp_path / "shards", shard_bytes=200)
    again = open_dataset(tmp_path / "shards").splits["train"]
    names = [again.name(i) for i in range(4)]
    for place, row in enumerate(again.targets(torch.arange(4)).tolist()):
        wanted = lists[int(names[place].rpartition("/")[2])]
        assert sorted(value for value in row if value != -1) == sorted(wanted)
    assert again.targets(torch.tensor([names.index("image/1")])).shape[1] >= 1


def test_undivided_a_set_is_measured_and_not_trained_on(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"cat": 5, "dog": 5})
    pack(open_dataset(root, whole=True), tmp_path / "shards")
    assert {
        part: len(split) for part, split in open_dataset(tmp_path / "shards", whole=True).splits.items()
    } == {"all": 10}
    with pytest.raises(DepthwiseError, match=r"undivided and has no train part.*without undivided=True"):
        open_dataset(tmp_path / "shards")


def test_shards_are_a_source_of_shards(folder: Path, tmp_path: Path) -> None:
    pack(open_dataset(folder), tmp_path / "a", shard_bytes=2000)
    pack(open_dataset(tmp_path / "a"), tmp_path / "b")
    assert contents(open_dataset(tmp_path / "b"), "train") == contents(open_dataset(folder), "train")


def test_the_same_bytes_by_any_number_of_threads(folder: Path, tmp_path: Path) -> None:
    made = open_dataset(folder)
    for workers in (1, 3):
        pack(made, tmp_path / str(workers), shard_bytes=2000, workers=workers)
    assert files(tmp_path / "1") == files(tmp_path / "3")
    assert set(files(tmp_path / "1")) == {
        "manifest.json",
        "vocabulary.json",
        *(f"train-0000{k}.arrow" for k in range(4)),
        *(f"val-0000{k}.arrow" for k in range(2)),
    }


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_arrow_reads_a_shard_without_us(folder: Path, tmp_path: Path) -> None:
    pack(open_dataset(folder), tmp_path / "shards")
    table = pa.ipc.open_file(tmp_path / "shards/train-00000.arrow").read_all()
    assert table.column_names == ["key", "labels", "crc32", "image"]
    row = table.slice(9, 1).to_pylist()[0]
    assert row["image"] == (folder / os.fsdecode(row["key"])).read_bytes()
    assert row["labels"] == [0]


# Parquet


def test_parquet_is_read_as_any_and_has_every_byte_and_label(folder: Path, tmp_path: Path) -> None:
    made = open_dataset(folder)
    out = tmp_path / "published"
    packed = pack(made, out, format="parquet", shard_bytes=2000)
    assert {path.name for path in out.iterdir()} == {
        "manifest.json",
        *(f"train-0000{k}-of-00004.parquet" for k in range(4)),
        *(f"validation-0000{k}-of-00002.parquet" for k in range(2)),
    }
    again = open_dataset(out)
    assert (list(again.splits), again.classes, again.task) == (["train", "val"], made.classes, made.task)
    for part in made.splits:
        assert sorted(contents(again, part).values()) == sorted(contents(made, part).values())
    record = packed.manifest.records["val"][1]
    assert hashlib.sha256((out / record.file).read_bytes()).hexdigest() == record.sha256


def test_parquet_is_as_the_hub_has_it(folder: Path, tmp_path: Path) -> None:
    pack(open_dataset(folder), tmp_path / "published", format="parquet")
    table = pq.read_table(tmp_path / "published/train-00000-of-00001.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {
        "image": {"_type": "Image"},
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
    }
    row = table.slice(9, 1).to_pylist()[0]
    assert row["label"] == 0
    assert row["image"]["bytes"] == (folder / row["image"]["path"]).read_bytes()


def test_sets_of_labels_are_lists_in_parquet(tmp_path: Path) -> None:
    pixels = torch.arange(3 * 25, dtype=torch.int64).to(torch.uint8).reshape(3, 1, 5, 5)
    split = ArraySplit(pixels, LabelLists.of([[1, 0], [1], [0, 2, -3]]))
    made = Dataset("tags", ("a", "b", "c"), {"train": split}, 1, "made", "by hand", task="multi-label")
    pack(made, tmp_path / "published", format="parquet")
    table = pq.read_table(tmp_path / "published/train-00000-of-00001.parquet")
    assert table["labels"].to_pylist() == [[1, 0], [1], [0, 2]]
    assert table["negatives"].to_pylist() == [[], [], [1]]
    again = open_dataset(tmp_path / "published", whole=True)
    assert again.task == "multi-label"
    rows = again.splits["train"].targets(torch.arange(3)).tolist()
    assert [sorted(value for value in row if value >= 0) for row in rows] == [[0, 1], [1], [0, 2]]


def test_a_damaged_page_of_parquet_is_written_again(folder: Path, tmp_path: Path) -> None:
    made, out, whole = open_dataset(folder), tmp_path / "published", tmp_path / "whole"
    pack(made, whole, format="parquet", shard_bytes=2000)
    with pytest.raises(Killed):
        pack(made, out, format="parquet", shard_bytes=2000, workers=1, progress=killed_after(12))
    damaged = out / "train-00001-of-00004.parquet"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 3] ^= 1
    damaged.write_bytes(content)
    written = len(list(out.glob("train-*")))
    assert pack(made, out, format="parquet", shard_bytes=2000).kept == written - 1
    assert files(out) == files(whole)


def test_a_set_in_the_other_form_is_replaced_whole(folder: Path, tmp_path: Path) -> None:
    made, out = open_dataset(folder), tmp_path / "out"
    pack(made, out)
    pack(made, out, format="parquet", force=True)
    assert {path.suffix for path in out.iterdir()} == {".parquet", ".json"}
    assert len(open_dataset(out).splits["train"]) == 17


# What is there already


def test_what_is_there_is_not_written_over_unasked(folder: Path, tmp_path: Path) -> None:
    made, out = open_dataset(folder), tmp_path / "shards"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DepthwiseError, match=r"is not empty.*force=True"):
        pack(made, out)
    pack(made, out, shard_bytes=2000, force=True)
    with pytest.raises(DepthwiseError, match=r"holds a set of shards.*force=True"):
        pack(made, out)
    pack(made, out, force=True)
    assert set(files(out)) == {
        "manifest.json",
        "vocabulary.json",
        "train-00000.arrow",
        "val-00000.arrow",
        "notes.txt",
    }
    assert open_dataset(out).ignored == ("notes.txt",)


class Killed(BaseException):
    pass


def killed_after(count: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= count:
            raise Killed

    return progress


def test_finished_shards_are_kept_if_every_image_is_as_it_was_written(folder: Path, tmp_path: Path) -> None:
    made, out, whole = open_dataset(folder), tmp_path / "shards", tmp_path / "whole"
    pack(made, whole, shard_bytes=2000)
    with pytest.raises(Killed):
        pack(made, out, shard_bytes=2000, workers=1, progress=killed_after(12))
    with pytest.raises(DepthwiseError, match=r"unfinished set of shards: give the command .*again"):
        open_dataset(out)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("train-*")}
    assert len(times) >= 3
    damaged = out / "train-00001.arrow"
    content = bytearray(damaged.read_bytes())
    content[-1000] ^= 1
    damaged.write_bytes(content)
    packed = pack(made, out, shard_bytes=2000)
    assert packed.kept == len(times) - 1
    assert files(out) == files(whole)
    assert (out / "train-00000.arrow").stat().st_mtime_ns == times["train-00000.arrow"]


def test_a_part_of_another_set_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    made, out = open_dataset(folder), tmp_path / "shards"
    with pytest.raises(Killed):
        pack(made, out, shard_bytes=2000, workers=1, progress=killed_after(1))
    other = replace(made, fingerprint="another")
    with pytest.raises(DepthwiseError, match=r"a part of another set.*force=True"):
        pack(other, out, shard_bytes=2000)
    assert pack(other, out, shard_bytes=2000, force=True).kept == 0
    assert open_dataset(out).splits["train"].blocks == (4, 4, 4, 5)


def pack_slowly(folder: Path, out: Path) -> None:
    rows = packing._rows

    def slowly(split: Split, indices: list[int]) -> Iterator[Row]:
        for row in rows(split, indices):
            time.sleep(0.02)
            yield row

    packing._rows = slowly
    pack(open_dataset(folder), out, shard_bytes=500)


def test_killed_at_any_moment_it_goes_on(folder: Path, tmp_path: Path) -> None:
    """A real process, a real SIGKILL, while shards are written."""
    out, whole = tmp_path / "shards", tmp_path / "whole"
    pack(open_dataset(folder), whole, shard_bytes=500)
    process = multiprocessing.get_context("fork").Process(target=pack_slowly, args=(folder, out))
    process.start()
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.arrow"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    packed = pack(open_dataset(folder), out, shard_bytes=500)
    assert packed.kept >= 3
    assert files(out) == files(whole)


def test_an_image_that_goes_away_meanwhile_is_named(folder: Path, tmp_path: Path) -> None:
    made = open_dataset(folder)
    (folder / "train/dog/003.png").unlink()
    with pytest.raises(DepthwiseError, match=r"train/dog/003\.png: No such file"):
        pack(made, tmp_path / "shards")
    assert not (tmp_path / "shards/manifest.json").exists()


def test_the_plan_says_what_is_in_a_shard() -> None:
    plan = packing.Plan("arrow", "set", 0, {"train": 100}, {"train": 7}, False)
    shards = [plan.indices("train", k) for k in range(7)]
    assert sorted(chain.from_iterable(shards)) == list(range(100))
    assert {len(shard) for shard in shards} == {14, 15}
    assert json.loads(json.dumps(plan.images)) == {"train": 100}


def test_file_splits_give_files_and_nothing_else(folder: Path) -> None:
    split = open_dataset(folder).splits["train"]
    assert isinstance(split, FileSplit)
    assert encoded(split, 0) == (folder / split.paths[0]).read_bytes()


def test_files_of_other_programs_stay_though_they_are_called_like_shards(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    pack(open_dataset(folder), out, shard_bytes=2000)
    before = {path.name for path in out.iterdir()}
    foreign = ["data-00000-of-00002.arrow", "mine-00001.arrow", "train-00000-of-00001.parquet"]
    for name in foreign:
        (out / name).write_bytes(b"somebody's")
    pq.write_table(pa.table({"a": [1, 2]}), out / foreign[-1])
    pack(open_dataset(folder), out, shard_bytes=10**6, force=True)
    left = {path.name for path in out.iterdir()}
    assert {*foreign} <= left
    assert left - {*foreign} < before, "the shards of the set before are gone"


def test_shards_smaller_than_an_image_hold_one_each(folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(folder)
    pack(dataset, tmp_path / "shards", shard_bytes=1)
    assert {part: len(split.blocks) for part, split in open_dataset(tmp_path / "shards").splits.items()} == {
        part: len(split) for part, split in dataset.splits.items()
    }
