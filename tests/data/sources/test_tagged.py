"""A folder whose labels are keywords, beside its images or inside them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import depthwise
from depthwise.data import Columns, Dataset, open_dataset
from depthwise.errors import DepthwiseError, UsageError

SIDECAR, EMBEDDED = Columns(labels_from="sidecar"), Columns(labels_from="embedded")
TINY: dict[str, Any] = {"width": 0.05, "middle": (8,), "size": 16, "epochs": 1, "batch_size": 5}


def picture(path: Path, number: int, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(path, **options)


def xmp(*keywords: str) -> bytes:
    items = "".join(f"<rdf:li>{keyword}</rdf:li>" for keyword in keywords)
    rdf, dc = "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "http://purl.org/dc/elements/1.1/"
    subject = f"<dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>"
    return f'<rdf:RDF xmlns:rdf="{rdf}" xmlns:dc="{dc}">{subject}</rdf:RDF>'.encode()


def shown(dataset: Dataset) -> dict[str, list[str]]:
    found = {}
    for split in dataset.splits.values():
        for index, row in enumerate(split.targets(torch.arange(len(split))).tolist()):
            found[split.name(index)] = [dataset.classes[k] for k in row if k >= 0]
    return found


def test_text_files_beside_images_are_their_labels(tmp_path: Path) -> None:
    for k in range(5):
        picture(tmp_path / f"sub/{k}.png", k)
    (tmp_path / "sub/0.txt").write_text("cat\nred fur\n")
    (tmp_path / "sub/1.png.txt").write_text("dog, red fur")
    (tmp_path / "sub/2.xmp").write_bytes(xmp("cat", "tom"))
    (tmp_path / "sub/3.txt").write_bytes(b"caf\xe9")
    dataset = open_dataset(tmp_path, whole=True, columns=SIDECAR)
    assert dataset.task == "multi-label"
    assert shown(dataset) == {
        "sub/0.png": ["cat", "red fur"],
        "sub/1.png": ["dog", "red fur"],
        "sub/2.png": ["cat", "tom"],
        "sub/3.png": [],
        "sub/4.png": [],
    }
    assert "5 images of any number of labels each, keywords in 3 .txt and 1 .xmp files" in dataset.notes[0]
    assert (
        "keywords of 1 image cannot be read and are taken for none: sub/3.png (it is not UTF-8"
        in dataset.notes[1]
    )
    assert dataset.unlabelled == 2


def test_keywords_inside_jpegs_are_their_labels(tmp_path: Path) -> None:
    for k in range(4):
        picture(tmp_path / f"{k}.jpg", k, xmp=xmp("a", f"b{k % 2}"))
    picture(tmp_path / "4.png", 4)
    dataset = open_dataset(tmp_path, whole=True, columns=EMBEDDED)
    assert shown(dataset) == {"4.png": [], **{f"{k}.jpg": ["a", f"b{k % 2}"] for k in range(4)}}
    assert "keywords inside 4 JPEG files" in dataset.notes[0]


def test_parts_are_folders(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 2)):
        for k in range(count):
            picture(tmp_path / part / "any" / f"{k}.jpg", k + 10 * (part == "val"), xmp=xmp(f"b{k % 2}"))
    dataset = open_dataset(tmp_path, columns=EMBEDDED)
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 4, "val": 2}


def test_it_is_trained_on_and_the_run_knows(tmp_path: Path) -> None:
    for k in range(20):
        picture(tmp_path / f"set/{k}.jpg", k, xmp=xmp("x", f"b{k % 2}"))
    run = depthwise.train(tmp_path / "set", out=tmp_path / "run", columns=EMBEDDED, workers=0, **TINY)
    assert depthwise.evaluate(run.out, tmp_path / "set", workers=0).num_images == 4
    assert run.resume(epochs=2, force=True).result.step == 2 * run.result.step


def test_what_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    picture(tmp_path / "0.png", 0)
    with pytest.raises(DepthwiseError, match=r"has no keyword in \.txt or \.xmp files beside its images"):
        open_dataset(tmp_path, columns=SIDECAR)
    with pytest.raises(DepthwiseError, match="has no keyword inside its JPEGs"):
        open_dataset(tmp_path, columns=EMBEDDED)
    with pytest.raises(UsageError, match="is no manifest, and label_column says how one is read"):
        open_dataset(tmp_path, columns=Columns(labels_from="sidecar", label_column="x"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DepthwiseError, match="empty has no image: give a folder of images with keywords"):
        open_dataset(tmp_path / "empty", columns=SIDECAR)
    (tmp_path / "set.csv").write_text("path,label\n0.png,a\n")
    with pytest.raises(UsageError, match="is no folder of images, and labels_from is for one"):
        open_dataset(tmp_path / "set.csv", columns=SIDECAR)
    with pytest.raises(UsageError, match="unknown labels_from 'inside'"):
        Columns(labels_from="inside")  # type: ignore[arg-type]
