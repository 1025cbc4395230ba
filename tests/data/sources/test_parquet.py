"""Parquet as Hugging Face publishes it, written by Arrow: images in a column of bytes, labels in any of its forms."""

import io
import json
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import depthwise
from depthwise.data import Columns, Dataset, TooManyUnreadableError, open_dataset
from depthwise.data.dataset import encoded
from depthwise.data.loader import Batches
from depthwise.data.sources.stored import StoredSplit
from depthwise.data.transform import Augment, Preprocess
from depthwise.errors import DepthwiseError

NAMES = ["cat", "dog", "red"]
TINY: dict[str, Any] = {"width": 0.05, "middle": (8,), "size": 16, "epochs": 1, "batch_size": 5}


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(
    path: Path,
    labels: pa.Array,
    feature: Any,
    *,
    name: str = "labels",
    first: int = 0,
    path_first: bool = False,
    group: int = 4,
    compression: str = "snappy",
    **other: pa.Array,
) -> Path:
    """As many images as `labels`, from number `first` on, with `feature` in the schema as Hugging Face describes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(first + k), "path": f"{k}.png"} for k in range(len(labels))]
    kind = [("bytes", pa.binary()), ("path", pa.string())]
    struct = pa.array(images, pa.struct(kind[::-1] if path_first else kind))
    table = pa.table({"image": struct, name: labels, **other})
    features = {"image": {"_type": "Image"}, name: feature}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if feature else None
    pq.write_table(
        table.replace_schema_metadata(metadata),
        path,
        row_group_size=group,
        write_page_checksum=True,
        compression=compression,
    )
    return path


def classes_of(dataset: Dataset, part: str = "all") -> list[list[str]]:
    split = dataset.splits[part]
    rows = split.targets(torch.arange(len(split))).reshape(len(split), -1).tolist()
    return [[dataset.classes[k] for k in row if k >= 0] for row in rows]


CLASS_LABEL = {"names": NAMES, "_type": "ClassLabel"}
NUMBERS = pa.array([[0], [1, 2], [], [2, 0], [1]], pa.list_(pa.int64()))
SEVERAL = [["cat"], ["dog", "red"], [], ["cat", "red"], ["dog"]]
ONE = [["cat"], ["dog"], ["red"], ["cat"]]
LAYOUTS: dict[str, tuple[pa.Array, Any, list[list[str]], str]] = {
    "List": (NUMBERS, {"feature": CLASS_LABEL, "_type": "List"}, SEVERAL, "multi-label"),
    "Sequence": (
        NUMBERS,
        {"feature": CLASS_LABEL, "length": -1, "_type": "Sequence"},
        SEVERAL,
        "multi-label",
    ),
    "a list of the feature": (NUMBERS, [CLASS_LABEL], SEVERAL, "multi-label"),
    "texts": (
        pa.array(SEVERAL, pa.list_(pa.string())),
        {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
        SEVERAL,
        "multi-label",
    ),
    "large lists without a schema's word": (
        pa.array(SEVERAL, pa.large_list(pa.large_string())),
        None,
        SEVERAL,
        "multi-label",
    ),
    "one number": (pa.array([0, 1, 2, 0], pa.int64()), CLASS_LABEL, ONE, "single-label"),
    "one text": (
        pa.array(["cat", "dog", "red", "cat"]),
        {"dtype": "string", "_type": "Value"},
        ONE,
        "single-label",
    ),
    "numbers without names": (
        pa.array([3, 1, 3, 1], pa.int32()),
        None,
        [["3"], ["1"], ["3"], ["1"]],
        "single-label",
    ),
}


@pytest.mark.parametrize("path_first", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_is_read(tmp_path: Path, layout: str, path_first: bool) -> None:
    labels, feature, expected, task = LAYOUTS[layout]
    path = write(tmp_path / "set.parquet", labels, feature, path_first=path_first)
    dataset = open_dataset(path, whole=True)
    assert dataset.task == task
    assert classes_of(dataset) == expected
    split = dataset.splits["all"]
    assert isinstance(split, StoredSplit)
    assert split.blocks == ((4, 1) if len(labels) == 5 else (4,))
    for k in range(len(labels)):
        assert encoded(split, k) == png(k)
        expected_pixels = np.asarray(Image.open(io.BytesIO(png(k)))).transpose(2, 0, 1)
        assert np.array_equal(split.image(k).numpy(), expected_pixels)
    assert split.name(4 if len(labels) == 5 else 3).startswith("set.parquet/00000000")


def test_files_of_parts_are_read_as_they_are_published(tmp_path: Path) -> None:
    feature = {"names": NAMES[:2], "_type": "ClassLabel"}
    files = {
        "data/train-00000-of-00002": 0,
        "data/train-00001-of-00002": 10,
        "data/validation-00000-of-00001": 20,
    }
    for name, first in files.items():
        labels = pa.array([k % 2 for k in range(10)])
        write(tmp_path / f"{name}.parquet", labels, feature, name="label", first=first)
    dataset = open_dataset(tmp_path)
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 20, "val": 10}
    train = dataset.splits["train"]
    assert train.blocks == (4, 4, 2, 4, 4, 2)
    assert encoded(train, 13) == png(13)
    assert encoded(dataset.splits["val"], 3) == png(23)
    assert "as given by" in dataset.split_source
    time.sleep(0.1)  # until no change can hide in a tick of the file system's clock
    open_dataset(tmp_path)
    assert open_dataset(tmp_path).num_trusted == 30
    nested = tmp_path / "nested"
    for part in ("train", "test"):
        write(nested / part / "0000.parquet", pa.array([0, 1]), feature, name="label")
    assert list(open_dataset(nested).splits) == ["train", "test"]


def test_it_is_trained_on_where_it_lies_with_the_same_bits_for_any_workers(tmp_path: Path) -> None:
    labels = pa.array([["cat"] if k % 2 else ["dog", "red"] for k in range(40)])
    path = write(tmp_path / "set.parquet", labels, None, name="tags", group=8)
    runs = [depthwise.train(path, out=tmp_path / f"run{n}", workers=n, **TINY) for n in (0, 2)]
    weights = [(run.out / "bundle/model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    assert depthwise.evaluate(runs[0].out, path, workers=0).num_images == len(
        open_dataset(path).splits["val"]
    )


def test_what_workers_are_sent_is_light(tmp_path: Path) -> None:
    sizes = []
    for count in (20, 400):
        path = write(tmp_path / f"{count}.parquet", pa.array([k % 2 for k in range(count)]), None, group=50)
        split = open_dataset(path, whole=True).splits["all"]
        sizes.append(len(pickle.dumps(split.reader)))
        assert len(pickle.dumps(split.key(7))) < 100
    assert sizes[1] - sizes[0] <= 10  # numbers of another length


def test_batches_hold_each_image_once(tmp_path: Path) -> None:
    path = write(tmp_path / "set.parquet", pa.array([k % 2 for k in range(50)]), None, group=7)
    split = open_dataset(path).splits["train"]
    batches = Batches(split, Preprocess((8, 8), channels=3), batch_size=8, augment=Augment(), workers=1)
    try:
        seen = torch.cat([batch.indices for batch in batches.epoch(0)])
    finally:
        batches.close()
    assert len(seen) == len(seen.unique()) == 40


def test_paths_in_parquet_are_files_beside_it(tmp_path: Path) -> None:
    for k in range(4):
        (tmp_path / f"{k}.png").write_bytes(png(k))
    table = pa.table({"file_name": [f"{k}.png" for k in range(4)], "tags": [["a"], ["b", "a"], [], ["b"]]})
    pq.write_table(table, tmp_path / "set.parquet")
    dataset = open_dataset(tmp_path / "set.parquet", whole=True)
    assert sorted(classes_of(dataset)) == sorted([["a"], ["a", "b"], [], ["b"]])
    pq.write_table(
        pa.table({"file_name": ["0.png", "../1.png"], "tags": ["a", "b"]}), tmp_path / "set.parquet"
    )
    with pytest.raises(DepthwiseError, match=r"row 1 of .*set\.parquet names '\.\./1\.png', which is not in"):
        open_dataset(tmp_path / "set.parquet")


def test_a_row_that_cannot_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    images = [{"bytes": png(k), "path": None} for k in range(10)]
    images[3]["bytes"], images[6]["bytes"] = None, b"no image"
    table = pa.table({"image": pa.array(images), "label": [k % 2 for k in range(10)]})
    pq.write_table(table, tmp_path / "set.parquet", row_group_size=5)
    with pytest.raises(TooManyUnreadableError, match=r"set\.parquet/000000003 \(the row has no bytes"):
        open_dataset(tmp_path / "set.parquet")
    dataset = open_dataset(tmp_path / "set.parquet", max_bad=1.0)
    assert {bad.path[-1]: bad.reason for bad in dataset.bad}.keys() == {"3", "6"}
    assert sum(map(len, dataset.splits.values())) == 8


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "set.parquet", pa.array([k % 2 for k in range(8)]), None, compression="none")
    data = bytearray(path.read_bytes())
    once = next(k for k in range(4) if data.count(png(k)) == 1)  # another is in the statistics, too
    data[data.index(png(once)) + 60] ^= 1
    path.write_bytes(data)
    dataset = open_dataset(path, max_bad=1.0)
    assert [bad.path for bad in dataset.bad] == [f"set.parquet/{k:09}" for k in range(4)]
    assert all("row group 0 of set.parquet is damaged" in bad.reason for bad in dataset.bad)
    path.write_bytes(data[:-30])
    with pytest.raises(DepthwiseError, match=r"set\.parquet is no parquet file, or is damaged \("):
        open_dataset(path)


def test_a_damaged_file_among_others_is_left_out_if_it_is_asked_for(tmp_path: Path) -> None:
    for number, part in enumerate(("train-0", "train-1", "val-0")):
        write(tmp_path / f"{part}.parquet", pa.array([k % 2 for k in range(8 + number)]), None)
    path = tmp_path / "train-1.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(
        DepthwiseError, match=r"train-1\.parquet is no parquet file.*leave all its images out"
    ):
        open_dataset(tmp_path)
    found = open_dataset(tmp_path, max_bad=1.0)
    assert {part: len(split) for part, split in found.splits.items()} == {"train": 8, "val": 10}
    assert [bad.path for bad in found.bad] == ["train-1.parquet"]


def test_a_number_without_a_name_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "set.parquet", pa.array([0, 1, 3]), CLASS_LABEL)
    with pytest.raises(DepthwiseError, match=r"row 2 of .* has the label 3, and the schema names 3"):
        open_dataset(path)
    unknown = write(tmp_path / "other.parquet", pa.array([0, 1, -1]), CLASS_LABEL)
    assert "1 image without a label that is a class" in open_dataset(unknown, whole=True).notes[1]


def test_columns_can_be_named(tmp_path: Path) -> None:
    other = pa.array([["x"], ["y"]])
    path = write(tmp_path / "set.parquet", pa.array([0, 1]), None, what=other)
    columns = Columns(label_column="what")
    assert classes_of(open_dataset(path, whole=True, columns=columns)) == [["x"], ["y"]]
