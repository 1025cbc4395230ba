"""Tags of 8,121 colour drawings: from keywords to shards, a trained network and tags for a new picture.

    apt-get install openclipart-png openclipart-svg
    python benchmarks/openclipart_tags.py [--epochs 5] [--out runs/openclipart]

Debian's openclipart-svg has each drawing's keywords in its RDF, openclipart-png the same drawings as PNG. Labels are
the keywords of at least 20 of them. What it does is one command each:

    depthwise data check runs/openclipart/tags.csv
    depthwise data shard runs/openclipart/tags.csv --out runs/openclipart/shards
    depthwise train --data runs/openclipart/shards --out runs/openclipart/tags --set size=96 width=0.25 epochs=5
    depthwise eval runs/openclipart/tags --data runs/openclipart/shards --split test
    depthwise predict runs/openclipart/tags drawing.png

With `--thumbnails 64` it only writes the drawings of at most 64 pixels a side and tags.csv beside them, for experiments
that read them often.

Two others are measured on the same test images: always the most frequent labels, and the same network trained on one
label an image, the first that its keywords name. Labels are ranked by its logits then, and F1 is of as many of them as
are best on the val part. Which part an image is in follows from its content, so copies stay together.
"""

import argparse
import csv
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from PIL import Image
from torch import Tensor

import depthwise
from depthwise.data import Batches, Dataset, open_dataset
from depthwise.data.columns import Columns
from depthwise.data.dataset import all_targets
from depthwise.data.targets import class_counts, memberships
from depthwise.evaluate.label_metrics import LabelEvaluation, LabelMeters

RESULTS = Path(__file__).parent / "results" / "openclipart-tags.json"
CLIPART = Path("/usr/share/openclipart")
MIN_COUNT = 20
SETTINGS: dict[str, Any] = {
    "size": 96,
    "width": 0.25,
    "label_smoothing": 0.0,
    "eval_every": 5,
}


def keywords(drawing: Path) -> list[str]:
    """Those of an SVG, in their order, in lower case."""
    found = ElementTree.parse(drawing).iterfind(".//{*}subject/{*}Bag/{*}li")
    return list(dict.fromkeys(text for item in found if (text := (item.text or "").strip().lower())))


def write_manifests(out: Path) -> None:
    """tags.csv with all keywords of each drawing, one.csv with the first that is frequent enough."""
    rows = {}
    for picture in sorted((CLIPART / "png").rglob("*.png")):
        name = picture.relative_to(CLIPART / "png")
        content = hashlib.sha256(picture.read_bytes()).digest()[0]
        part = "test" if content < 39 else "val" if content < 64 else "train"  # 15%, 10%, 75%
        rows[str(name)] = (part, keywords((CLIPART / "svg" / name).with_suffix(".svg")))
    counts = Counter(word for _, words in rows.values() for word in words)
    out.mkdir(parents=True, exist_ok=True)
    for file, most in (("tags.csv", None), ("one.csv", 1)):
        with (out / file).open("w", newline="") as sheet:
            writer = csv.writer(sheet)
            writer.writerow(["path", "labels", "split"])
            for name, (part, words) in rows.items():
                kept = [word for word in words if counts[word] >= MIN_COUNT][:most]
                if kept or most is None:
                    writer.writerow([name, "|".join(kept), part])


def write_thumbnails(out: Path, side: int) -> None:
    """The drawings, at most `side` pixels high and wide, in out/png, and a tags.csv that names these."""
    write_manifests(out)
    for picture in sorted((CLIPART / "png").rglob("*.png")):
        target = out / "png" / picture.relative_to(CLIPART / "png")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with Image.open(picture) as image:
                image.thumbnail((side, side))
                image.save(target)
        except (OSError, Image.DecompressionBombError):  # three are named as unreadable in the run itself
            continue
    with (out / "tags.csv").open(newline="") as sheet:
        head, *rows = csv.reader(sheet)
    with (out / "tags.csv").open("w", newline="") as sheet:
        writer = csv.writer(sheet)
        writer.writerow(head)
        writer.writerows([f"png/{name}", *rest] for name, *rest in rows if (out / "png" / name).exists())


def read(file: Path) -> Dataset:
    """The data set of a manifest."""
    columns = Columns(label_separator="|", image_root=str(CLIPART / "png"))
    return open_dataset(file, columns=columns)


def scored(scores: Tensor, dataset: Dataset, part: str, thresholds: Tensor) -> LabelEvaluation:
    """The evaluation of scores [n, K] on a part."""
    split = dataset.splits[part]
    meters = LabelMeters(len(dataset.classes), thresholds)
    meters.update(scores, all_targets(split), torch.arange(len(split)))
    return meters.compute()


def best_number(scores: Tensor, dataset: Dataset) -> int:
    """How many of the labels with the highest scores [n, K] to say, for the highest micro F1 on the val part."""
    images, labels = memberships(all_targets(dataset.splits["val"]))
    truth = torch.zeros(scores.shape, dtype=torch.bool)
    truth[images, labels] = True
    hits = truth.gather(1, scores.argsort(dim=1, descending=True, stable=True)).sum(0).cumsum(0)
    said = len(scores) * torch.arange(1, scores.shape[1] + 1)
    return int((2 * hits / (said + truth.sum())).argmax()) + 1


def with_first(scores: Tensor, number: int) -> Tensor:
    """Logits in the order of `scores` [n, K], of which the first `number` are above 0."""
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return number - 0.5 - ranks.float()


def numbers(evaluation: LabelEvaluation) -> dict[str, float]:
    """What is compared."""
    keys = ("map_at_100", "map_of_found", "macro_ap", "micro_ap", "micro_f1", "macro_f1")
    return {key: round(100 * getattr(evaluation, key), 2) for key in keys}


def always_the_most_frequent(dataset: Dataset) -> dict[str, float]:
    """Every image is given the labels in the order of their frequency in the training part."""
    counts = class_counts(dataset.splits["train"], len(dataset.classes)).float()
    number = best_number(counts.expand(len(dataset.splits["val"]), -1), dataset)
    scores = with_first(counts.expand(len(dataset.splits["test"]), -1), number)
    return numbers(scored(scores, dataset, "test", torch.full((len(counts),), 0.5)))


def by_one_label(run: Path, dataset: Dataset) -> dict[str, float]:
    """The network that learned one label an image; labels that it does not know come last."""
    predictor = depthwise.load(run)
    places = torch.tensor([dataset.classes.index(name) for name in predictor.classes])

    def logits(part: str) -> Tensor:
        batches = Batches(dataset.splits[part], predictor.preprocess, batch_size=64, workers=2)
        scores = torch.full((len(dataset.splits[part]), len(dataset.classes)), -1e4)
        try:
            with torch.inference_mode():
                for batch in batches.epoch(0):
                    scores[batch.indices[:, None], places] = predictor.module(batch.images)
        finally:
            batches.close()
        return scores

    number = best_number(logits("val"), dataset)
    scores = with_first(logits("test"), number)
    return numbers(scored(scores, dataset, "test", torch.full((len(dataset.classes),), 0.5)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/openclipart"))
    parser.add_argument("--thumbnails", type=int, metavar="SIDE")
    options = parser.parse_args()
    out = options.out
    if options.thumbnails:
        write_thumbnails(out, options.thumbnails)
        return
    write_manifests(out)
    runs = {"tags": out / "tags", "one": out / "one"}
    for name, run in runs.items():
        if not (run / "report.html").exists():
            asked = {} if (run / "run.json").exists() else {"epochs": options.epochs, **SETTINGS}
            depthwise.train(read(out / f"{name}.csv"), out=run, resume=not asked, **asked)
    tags = read(out / "tags.csv")
    measured = depthwise.evaluate(runs["tags"], tags, split="test")
    facts = json.loads((runs["tags"] / "run.json").read_text())
    results = {
        "command": f"python benchmarks/openclipart_tags.py --epochs {options.epochs:g}",
        "images": {part: len(split) for part, split in tags.splits.items()},
        "labels": len(tags.classes),
        "parameters": facts["cost"]["parameters"],
        "minutes": round(
            json.loads((runs["tags"] / "metrics.jsonl").read_text().splitlines()[-1])["seconds"] / 60, 1
        ),
        "tags": numbers(measured),
        "most frequent": always_the_most_frequent(tags),
        "one label an image": by_one_label(runs["one"], tags),
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
