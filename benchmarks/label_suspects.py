"""Labels that were made wrong on purpose, found again: Fashion-MNIST with 5% of its training labels changed.

    python benchmarks/label_suspects.py [--images 12000] [--share 0.05] [--epochs 8] [--folds 3] [--seed 0]
        [--out benchmarks/results/label-suspects.json]

The first 12,000 training images are a set of their own, 600 of them with another class's label, each class alike,
drawn by the seed. A run on it, with 2,000 test images, and `depthwise data suspects --folds 3` on that run give a
ranking. Precision at the number changed is how many of the first 600 doubted training images are among those 600:
where fewer are doubted, the missing ones count as wrong. Nobody has cleaned the other labels, so real mistakes of
Fashion-MNIST count as wrong, too. A second set of files says what copies were found: of 200 images that are there
again as JPEG files of quality 75 would have them.
"""

import argparse
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import depthwise
from depthwise.data.dataset import ArraySplit, Dataset
from depthwise.suspects.finding import suspects
from fashion_mnist import processor

RECIPE = {"model": "xception", "width": 0.25}


def changed(
    images: int, tested: int, share: float, copies: int, seed: int
) -> tuple[Dataset, set[int], set[int]]:
    """The set; which training images have another label than they had, and which are copies of others."""
    whole = depthwise.open_dataset("fashion-mnist")
    train, test = whole.splits["train"], whole.splits["test"]
    first, held_out = torch.arange(images), torch.arange(tested)
    random = np.random.default_rng(seed)
    labels = train.targets(first).numpy().copy()
    wrong = random.choice(images, round(share * images), replace=False)
    labels[wrong] = (labels[wrong] + random.integers(1, len(whole.classes), len(wrong))) % len(whole.classes)
    again = random.choice(np.setdiff1d(np.arange(images), wrong), copies, replace=False)
    pixels = train.images[first]
    resaved = torch.stack([_resaved(pixels[k]) for k in again]) if copies else pixels[:0]
    splits = {
        "train": ArraySplit(
            torch.cat([pixels, resaved]), torch.from_numpy(np.append(labels, labels[again])), "train"
        ),
        "test": ArraySplit(test.images[held_out], test.targets(held_out), "test"),
    }
    name = f"fashion-mnist, {len(wrong):,} of {images:,} labels changed"
    made = Dataset(
        name, whole.classes, splits, 1, f"{name} {seed} {tested} {copies}", "the first of each part"
    )
    return made, {*wrong.tolist()}, {*range(images, images + copies)}


def _resaved(image: torch.Tensor) -> torch.Tensor:
    file = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(file, "JPEG", quality=75)
    return torch.from_numpy(np.array(Image.open(file)))[None]


def measure(
    images: int, tested: int, share: float, copies: int, epochs: float, folds: int, seed: int, out: Path
) -> dict[str, Any]:
    """What was found of what was planted."""
    dataset, wrong, again = changed(images, tested, share, copies, seed)
    began = time.monotonic()
    run = depthwise.train(dataset, out=out / "run", epochs=epochs, seed=seed, workers=0, **RECIPE)
    trained = time.monotonic()
    found = suspects(out / "run", out / "suspects", data=dataset, folds=folds, workers=0)
    taken = time.monotonic() - trained
    doubted = [of.image.place for of in found.wrong_labels if of.image.part == "train"]
    hits = [place in wrong for place in doubted]
    groups = [{of.place for of in group.images if of.part == "train"} for group in found.copies]
    return {
        "images": images,
        "changed": len(wrong),
        "recipe": {**RECIPE, "epochs": epochs, "seed": seed},
        "folds": folds,
        "precision_at_changed": round(sum(hits[: len(wrong)]) / len(wrong), 4),
        "doubted": len(doubted),
        "precision": round(sum(hits) / max(1, len(hits)), 4),
        "recall": round(sum(hits) / len(wrong), 4),
        "first_100": sum(hits[:100]),
        "copies_planted": len(again),
        "copies_found": sum(any(place in group for group in groups) for place in again),
        "other_groups": sum(not group & again for group in groups),
        "test_accuracy_of_the_run": round(run.evaluation.headline.of(run.evaluation), 4),
        "seconds_to_train_the_run": round(trained - began),
        "seconds_to_find": round(taken),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": processor(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--tested", type=int, default=2_000)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--copies", type=int, default=200)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the runs and the page, which stay there")
    parser.add_argument("--out", type=Path)
    options = vars(parser.parse_args())
    kept, out = options.pop("keep"), options.pop("out")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(**options, out=kept or Path(folder))
    print(json.dumps(result, indent=1))
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
