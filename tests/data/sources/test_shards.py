"""Shards as a source: opened by their manifest alone, read by place, and never trained on where they are damaged."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import depthwise
from depthwise.data import Batches, Preprocess, TooManyUnreadableError, open_dataset
from depthwise.data.check import check
from depthwise.data.export import export
from depthwise.data.image import UnreadableImageError
from depthwise.data.pack import pack
from depthwise.data.sources import blocks
from depthwise.data.transform import Augment
from depthwise.errors import DepthwiseError

SHARDS = {"train": 6, "test": 2}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 real PNG files in eight shards, 50 or so images in each; not to be changed."""
    root = tmp_path_factory.mktemp("packed")
    digits = open_dataset("digits")
    for part, limit in (("train", 300), ("test", 100)):
        export(digits.splits[part], digits.classes, root / "files" / part, prefix=part, limit=limit)
    pack(open_dataset(root / "files"), root / "shards", shard_bytes=6000)
    return root / "shards"


@pytest.fixture
def shards(packed: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(packed, tmp_path / "shards"))


def first(out: Path) -> Path:
    return out / "train-00000.arrow"


# What is sent and opened


def test_the_manifest_says_all_and_nothing_that_is_sent_grows(packed: Path) -> None:
    dataset = open_dataset(packed)
    split = dataset.splits["train"]
    assert {part: len(split.blocks) for part, split in dataset.splits.items()} == SHARDS
    assert len(split) == 300
    assert len(pickle.dumps(split.reader)) < 1000
    assert len(pickle.dumps(split.key(299))) < 30


def test_few_shards_are_open_at_a_time(packed: Path) -> None:
    split = open_dataset(packed).splits["train"]
    blocks._opened.cache_clear()
    for index in torch.randperm(300).tolist():
        split.image(index)
    assert blocks._opened.cache_info().currsize == 6 <= blocks.MOST_OPEN
    assert blocks._opened.cache_info().maxsize == blocks.MOST_OPEN


def test_any_image_and_its_targets_are_found_by_place(packed: Path) -> None:
    split = open_dataset(packed).splits["train"]
    order = torch.randperm(300)
    targets = split.targets(order)
    for index, target in zip(order.tolist(), targets.tolist(), strict=True):
        assert split.name(index).split("/")[1] == str(target)
    assert split.targets(torch.arange(0)).shape == (0,)


def test_a_white_level_reaches_the_images(packed: Path) -> None:
    split = open_dataset(packed).splits["train"]
    assert split.with_white_level(4095).decoding.white_level == 4095


# What is wrong with shards


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def another_schema(path: Path) -> None:
    size = path.stat().st_size
    table = pa.table({"image": pa.array([b"x" * (size - 1000)], pa.binary()), "label": [1]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])


def of_another_set(path: Path) -> None:
    """As large as it should be, whole, and of another plan."""
    content = path.read_bytes()
    plan = json.loads((path.parent / "manifest.json").read_text())["plan"].encode()
    path.write_bytes(content.replace(plan, b"0" * 64))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "No such file"),
    "cut": (cut, r"bytes, and .* were written"),
    "footer": (lambda path: flip(path, path.stat().st_size - 3), "damaged, or no shard"),
    "label": (
        lambda path: flip(path, path.read_bytes().index(b"\0\0\0\0" + b"\1\0\0\0" + b"\2\0\0\0") + 4),
        "CRC-32",
    ),
    "key": (lambda path: flip(path, path.read_bytes().index(b"train/")), "CRC-32"),
    "schema": (another_schema, "damaged, or no shard"),
    "other set": (of_another_set, "belongs to another set"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_shard_stops_or_is_left_out_as_asked(shards: Path, kind: str) -> None:
    damage, reason = DAMAGES[kind]
    damage(first(shards))
    with pytest.raises(TooManyUnreadableError, match=r"50 of 400 images .* train-00000\.arrow \(") as error:
        open_dataset(shards)
    assert "data check" in str(error.value)
    assert re.search(reason, error.value.bad[0].reason)
    dataset = open_dataset(shards, max_bad=1.0)
    assert [image.path for image in dataset.bad] == ["train-00000.arrow"]
    assert "(50 images of train)" in dataset.bad[0].reason
    assert len(dataset.splits["train"]) == 250
    names = {dataset.splits["train"].name(i) for i in range(250)}
    assert len(names) == 250
    found = check(str(shards))
    assert not found.ok
    assert [image.path for image in found.unreadable] == ["train-00000.arrow"]


def test_a_flipped_byte_of_an_image_is_named_and_never_trained_on(shards: Path) -> None:
    clean = open_dataset(shards).splits["train"]
    victim, data = clean.name(7), clean.encoded(7)
    flip(first(shards), first(shards).read_bytes().index(data) + len(data) // 2)
    blocks._opened.cache_clear()
    split = open_dataset(shards).splits["train"]  # whose other images are as good as they were
    with pytest.raises(UnreadableImageError, match=r"damaged in train-00000\.arrow, its CRC-32"):
        split.image(7)
    batches = Batches(split, Preprocess((8, 8), channels=1), batch_size=300, augment=Augment(crop="none"))
    (batch,) = batches.epoch(0)
    batches.close()
    assert sorted(batch.indices.tolist()) == [i for i in range(300) if i != 7]
    assert [image.path for image in batches.bad] == [victim]
    found = check(str(shards))
    assert [image.path for image in found.unreadable] == [victim]
    assert "damaged in train-00000.arrow, its CRC-32" in found.unreadable[0].reason
    assert (found.error, sum(found.counts["train"].values())) == (None, 299)


def test_a_flipped_byte_that_is_in_no_image_is_seen_by_the_check(shards: Path) -> None:
    flip(first(shards), 7)  # which Arrow passes over
    found = check(str(shards))
    assert [image.path for image in found.unreadable] == ["train-00000.arrow"]
    assert "its SHA-256 is another than in manifest.json" in found.unreadable[0].reason


def test_no_flipped_byte_goes_unseen(shards: Path) -> None:
    """Whatever is another than it was, or nothing that is used is: no image and no label is ever a wrong one."""
    path = first(shards)
    content = path.read_bytes()
    clean = open_dataset(shards)
    right = {
        clean.splits["train"].name(i): (clean.splits["train"].encoded(i), int(t))
        for i, t in enumerate(clean.splits["train"].targets(torch.arange(50)))
    }
    chance = np.random.default_rng(0)
    seen = 0
    for place in [
        *range(0, 900, 23),
        *chance.integers(0, len(content), 50),
        *range(len(content) - 700, len(content), 23),
    ]:
        flip(path, int(place))
        blocks._opened.cache_clear()
        dataset = open_dataset(shards, max_bad=1.0)
        split = dataset.splits["train"]
        seen += bool(dataset.bad)
        for row in range(50) if not dataset.bad else ():
            try:
                found = (split.encoded(row), int(split.targets(torch.tensor([row]))))
            except UnreadableImageError:
                seen += 1
                continue
            assert right[split.name(row)] == found
        path.write_bytes(content)
    assert seen > 70


def test_data_check_reads_every_image(shards: Path) -> None:
    found = check(str(shards))
    assert found.ok
    assert sum(found.counts["train"].values()) == 300
    assert found.modes == {"PNG L": 400}
    (shards / "more.arrow").write_bytes(b"no shard")
    assert check(str(shards)).ignored == ("more.arrow",)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("manifest.json", b'"channels": 1', b'"channels": 3'),
        ("manifest.json", b'"images": 50', b'"images": 51'),
        ("vocabulary.json", b'"1"', b'"7"'),
        ("manifest.json", b"{", b"["),
    ],
)
def test_a_damaged_manifest_is_named(shards: Path, name: str, old: bytes, new: bytes) -> None:
    path = shards / name
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(DepthwiseError, match=rf"{name} is damaged \(.*copy it again"):
        open_dataset(shards)


def test_without_its_vocabulary_a_set_says_so(shards: Path) -> None:
    (shards / "vocabulary.json").unlink()
    with pytest.raises(DepthwiseError, match=r"vocabulary\.json is damaged \(No such file"):
        open_dataset(shards)


def test_a_folder_of_images_may_have_a_manifest_of_its_own(packed: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(packed.parent / "files", tmp_path / "files"))
    (root / "manifest.json").write_text('{"made": "by somebody"}')
    assert len(open_dataset(root).splits["train"]) == 300


# Trained on and measured

SETTINGS = {
    "model": "mobilenet_v1",
    "width": 0.1,
    "size": 16,
    "batch_size": 32,
    "epochs": 0.5,
    "averaging": 0.0,
    "augment.crop": "resized",
    "augment.mixup": 0.2,
    "precision": "float32",
    "eval_every": 10,
}


def test_training_on_shards_is_training_on_the_folder(packed: Path, tmp_path: Path) -> None:
    files = packed.parent / "files"
    pack(open_dataset(files), tmp_path / "shards")  # one a part: the same order
    runs = [
        depthwise.train(data, out=tmp_path / name, workers=workers, **SETTINGS)
        for name, data, workers in (("a", files, 0), ("b", tmp_path / "shards", 1))
    ]
    losses = [
        [line["loss"] for line in map(json.loads, (run.out / "metrics.jsonl").read_text().splitlines())]
        for run in runs
    ]
    assert len(losses[0]) > 4
    assert losses[0] == losses[1]
    weights = [(run.out / "bundle/model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    assert depthwise.evaluate(runs[0].out, packed, workers=0).top1 == runs[0].evaluation.top1
