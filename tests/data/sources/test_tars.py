"""WebDataset's tars: trained on where they lie, by an index that is made once."""

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

import depthwise
from depthwise.data import Dataset, TooManyUnreadableError, open_dataset
from depthwise.data.check import check
from depthwise.data.dataset import all_targets, encoded
from depthwise.data.image import as_png
from depthwise.data.pack import pack
from depthwise.data.sources import tars
from depthwise.errors import DepthwiseError


def png(number: int) -> bytes:
    generator = torch.Generator().manual_seed(number)
    return as_png(torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator))


def write(path: Path, members: dict[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def of_classes(first: int, count: int) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for number in range(first, first + count):
        found |= {f"{number:05}.png": png(number), f"{number:05}.cls": str(number % 2)}
    return found


def shown(dataset: Dataset, part: str) -> dict[str, tuple[bytes, Any]]:
    split = dataset.splits[part]
    targets = all_targets(split).tolist()
    return {split.name(i): (encoded(split, i), targets[i]) for i in range(len(split))}


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    write(root / "train-000.tar", of_classes(0, 12))
    write(root / "train-001.tar", of_classes(100, 8))
    write(root / "val-000.tar", of_classes(200, 6))
    return root


def test_each_image_its_bytes_and_its_class(parts: Path) -> None:
    dataset = open_dataset(parts)
    assert (list(dataset.splits), dataset.classes, dataset.task) == (
        ["train", "val"],
        ("0", "1"),
        "single-label",
    )
    found = shown(dataset, "train")
    assert found["train-001.tar/00103.png"] == (png(103), 1)
    assert [content for content, _ in found.values()] == [png(k) for k in (*range(12), *range(100, 108))]
    split = dataset.splits["train"]
    assert split.blocks == (12, 8)
    assert len(pickle.dumps(split.reader)) < 1000
    assert check(str(parts)).ok


def test_labels_of_every_kind(tmp_path: Path) -> None:
    said: list[tuple[str, str, list[str]]] = [
        ("json", '{"labels": ["cat", "dog"], "width": 8}', ["cat", "dog"]),
        ("json", '{"tags": []}', []),
        ("json", '["cat"]', ["cat"]),
        ("txt", "dog\ncat\n", ["cat", "dog"]),
        ("cls", " dog ", ["dog"]),
    ]
    members: dict[str, bytes | str] = {}
    for number, (suffix, text, _) in enumerate(said):
        members |= {
            f"a/b.c/{number}.{suffix}": text,
            f"a/b.c/{number}.seg.png": png(number),
            "a/README.md": "no image",
        }
    path = write(tmp_path / "tags.tar", members)
    dataset = open_dataset(path, whole=True)
    assert (dataset.task, dataset.classes) == ("multi-label", ("cat", "dog"))
    rows = all_targets(dataset.splits["all"]).tolist()
    assert [[dataset.classes[k] for k in row if k >= 0] for row in rows] == [wanted for _, _, wanted in said]


def test_a_folder_of_tars_without_parts_is_divided_as_any(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "set" / f"{number:06}.tar", of_classes(10 * number, 10))
    dataset = open_dataset(tmp_path / "set")
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 24, "val": 6}
    assert dataset.split_source.startswith("seeded stratified 80/20")


def test_a_tar_beside_folders_of_images_is_no_set(tmp_path: Path) -> None:
    for number in range(6):
        place = tmp_path / "set" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(number))
    write(tmp_path / "set" / "backup.tar", of_classes(0, 4))
    dataset = open_dataset(tmp_path / "set")
    assert dataset.classes == ("a", "b")
    assert dataset.ignored == ("backup.tar",)


def test_the_index_is_made_once_and_again_for_another_file(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    index = tars._index
    monkeypatch.setattr(tars, "_index", lambda path: made.append(path) or index(path))
    before = open_dataset(parts)
    assert len(made) == 3
    assert open_dataset(parts).fingerprint == before.fingerprint
    assert len(made) == 3
    write(parts / "train-001.tar", of_classes(300, 8))
    assert open_dataset(parts).fingerprint != before.fingerprint
    assert [path.name for path in made[3:]] == ["train-001.tar"]
    memory = tars._memory(parts / "val-000.tar")
    memory.write_text(memory.read_text().replace("00201", "00299"))
    assert "val-000.tar/00201.png" in shown(open_dataset(parts), "val")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.tar", b"no tar at all" * 100, "is no tar, or is damaged"),
        ("a.tgz.tar", gzip.compress(b"x" * 5000), "tars that are compressed are not read"),
        ("a.tar", b"", "is no tar, or is damaged"),
    ],
    ids=["bytes", "compressed", "empty"],  # a compressed file has the time in it
)
def test_what_is_no_tar_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DepthwiseError, match=rf"a\.t.*{reason}"):
        open_dataset(tmp_path / name)


def test_a_tar_that_was_cut_is_named_and_left_out_as_asked(parts: Path) -> None:
    path = parts / "train-001.tar"
    path.write_bytes(path.read_bytes()[:4000])
    sentence = (
        r"train-001\.tar is no tar, or is damaged .*copy it again, or leave all its images out of a training"
    )
    with pytest.raises(DepthwiseError, match=sentence):
        open_dataset(parts)
    found = open_dataset(parts, max_bad=1.0)
    assert {part: len(split) for part, split in found.splits.items()} == {"train": 12, "val": 6}
    assert [bad.path for bad in found.bad] == ["train-001.tar"]
    assert "train-001.tar is no tar" in (check(str(parts)).error or "")
    for other in ("train-000.tar", "val-000.tar"):
        (parts / other).write_bytes(b"")
    with pytest.raises(DepthwiseError, match=r"train-000\.tar is no tar"):
        open_dataset(parts, max_bad=1.0)


def test_what_a_label_cannot_be(tmp_path: Path) -> None:
    members = {**of_classes(0, 4), "00001.cls": b"\xff\xfe"}
    with pytest.raises(DepthwiseError, match=r"00001\.cls in .* cannot be read .*UTF-8"):
        open_dataset(write(tmp_path / "a.tar", members))
    members = {"1.png": png(1), "1.json": json.dumps({"label": 1, "tags": ["a"]})}
    with pytest.raises(DepthwiseError, match="has label and tags, which mean one thing"):
        open_dataset(write(tmp_path / "b.tar", members))
    with pytest.raises(DepthwiseError, match="two images called 1"):
        open_dataset(write(tmp_path / "c.tar", {"1.png": png(1), "1.jpg": png(2)}))


def test_a_damaged_image_is_left_out_or_stops_as_asked(parts: Path) -> None:
    members = {**of_classes(200, 6), "00202.png": png(202)[:40]}
    write(parts / "val-000.tar", members)
    with pytest.raises(TooManyUnreadableError, match=r"val-000\.tar/00202\.png"):
        open_dataset(parts)
    assert len(open_dataset(parts, max_bad=1.0).splits["val"]) == 5


def test_it_is_trained_on_and_packed(parts: Path, tmp_path: Path) -> None:
    run = depthwise.train(
        parts,
        out=tmp_path / "run",
        model="mobilenet_v1",
        width=0.1,
        size=16,
        epochs=1,
        batch_size=10,
        workers=0,
    )
    assert run.evaluation.num_images == 6
    pack(open_dataset(parts), tmp_path / "shards")
    assert shown(open_dataset(tmp_path / "shards"), "train") == shown(open_dataset(parts), "train")


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path, cut: bool) -> None:
    tar = write(tmp_path / "a.tar", of_classes(0, 6))
    with tarfile.open(tar) as file:
        third = file.getmembers()[4].offset
    data = bytearray(tar.read_bytes())
    data[third + 150] ^= 1
    tar.write_bytes(data[: third + 100] if cut else data)
    with pytest.raises(DepthwiseError, match=r"a\.tar is no tar, or is damaged"):
        open_dataset(tar)
