"""What training sees if JPEG files are decoded in part and at a DCT scale, against the whole image decoded and resized.

Of each photograph, made 2000x1500 at quality 90, random crops as training draws them are cut at `size` in both ways.
With `--train` a network also learns, in both ways, to tell ten of the photographs apart by pictures cut out of them,
those of the val part from another side of each: top-1 of each seed, and the difference of each pair of one seed.

    python benchmarks/partial_decoding.py --photos FOLDER --draws 4 --train [--out FILE]

Without a folder, scikit-learn's two photographs are taken. The results beside this were made of those of Debian's
mate-backgrounds and lomiri-wallpapers-16.04 that are 1400 pixels wide or more.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

import depthwise
from depthwise.data import Augment, Preprocess, region, transform
from depthwise.data.image import DEFAULT, File

WIDTH, HEIGHT = 2000, 1500


def photographs(folder: Path | None) -> Iterator[Image.Image]:
    """Each cut to 4:3 from the left, and made 2000x1500."""
    if folder is None:
        pictures = [Image.fromarray(image) for image in load_sample_images().images]
    else:
        pictures = [Image.open(path).convert("RGB") for path in sorted(folder.rglob("*.jpg"))]
        pictures = [picture for picture in pictures if min(picture.width, picture.height * 4 // 3) >= 1400]
    for picture in pictures:
        width = min(picture.width, picture.height * 4 // 3)
        yield picture.crop((0, 0, width, width * 3 // 4)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


@contextmanager
def decoded_whole() -> Iterator[None]:
    opened = transform.open_jpeg
    transform.open_jpeg = lambda file: None
    try:
        yield
    finally:
        transform.open_jpeg = opened


def cut(file: File, size: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return Augment(flip=False).image(file, Preprocess((size, size), 3))


def differences(pictures: list[Image.Image], size: int, draws: int) -> dict[str, Any]:
    found: list[np.ndarray] = []
    for number, picture in enumerate(pictures):
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=90)
        file = File(data.getvalue(), 3, str(number), DEFAULT)
        for draw in range(draws):
            part = cut(file, size, draw)
            with decoded_whole():
                whole = cut(file, size, draw)
            found.append((part.int() - whole.int()).abs().numpy().ravel())
    values = np.concatenate(found)
    return {
        "size": size,
        "crops": len(found),
        "mean": round(float(values.mean()), 3),
        "percentile_99.9": float(np.percentile(values, 99.9)),
        "largest": int(values.max()),
        "largest_mean_of_a_crop": round(max(float(crop.mean()) for crop in found), 3),
        "share_off_by_more_than_8": round(float((values > 8).mean()), 5),
    }


def write_crops(pictures: list[Image.Image], folder: Path, each: int) -> None:
    """Crops of 400 to 700 pixels a side; train from the left two thirds of a photograph, val from the rest."""
    rng = np.random.default_rng(0)
    for number, picture in enumerate(pictures):
        for part, low, high, count in (("train", 0, 1300, each), ("val", 1300, WIDTH, each // 2)):
            place = folder / part / f"{number:02}"
            place.mkdir(parents=True)
            for k in range(count):
                side = int(rng.integers(400, 700))
                left, top = int(rng.integers(low, high - side + 1)), int(rng.integers(0, HEIGHT - side + 1))
                picture.crop((left, top, left + side, top + side)).save(place / f"{k:03}.jpg", quality=90)


def trained(folder: Path, out: Path, seed: int) -> float:
    run = depthwise.train(
        folder,
        model="xception",
        recipe="small",
        out=out,
        seed=seed,
        size=64,
        stem="small",
        width=0.25,
        epochs=8,
        workers=0,  # for `decoded_whole` holds in this process alone
        **{"augment.crop": "resized", "augment.scale": (0.25, 1.0), "augment.color": 0.0},
    )
    return float(run.evaluation.top1)


def paired(photographs: list[Image.Image], seeds: int) -> dict[str, Any]:
    """Top-1 of each seed in both ways; of the differences of the pairs the mean, and its standard error."""
    top1: dict[str, list[float]] = {"in part": [], "whole": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_crops(photographs[:10], folder / "crops", 48)
        for seed in range(seeds):
            top1["in part"].append(trained(folder / "crops", folder / f"part-{seed}", seed))
            with decoded_whole():
                top1["whole"].append(trained(folder / "crops", folder / f"whole-{seed}", seed))
            print(f"seed {seed}", {name: round(values[-1], 4) for name, values in top1.items()}, flush=True)
    apart = np.array(top1["in part"]) - np.array(top1["whole"])
    return {
        **{name: [round(value, 4) for value in values] for name, values in top1.items()},
        "differences": [round(float(value), 4) for value in apart],
        "mean_difference": round(float(apart.mean()), 4),
        "standard_error": round(float(apart.std(ddof=1) / len(apart) ** 0.5), 4),
        "standard_deviation_between_seeds": round(float(np.std(top1["whole"], ddof=1)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    pictures = list(photographs(arguments.photos))
    result: dict[str, Any] = {
        "decoder": region.status(),
        "photographs": len(pictures),
        "pixels": [differences(pictures, size, arguments.draws) for size in (299, 128, 64)],
    }
    print(json.dumps(result, indent=2))
    if arguments.train:
        result["top1"] = paired(pictures, arguments.seeds)
        print(json.dumps(result["top1"], indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
