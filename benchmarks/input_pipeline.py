"""JPEG files to normalised training batches: ours against torchvision's two ways, interleaved, as ratios.

Each of the three reads the same photographs (500x375 and 2000x1500, quality 90) in as many worker processes, and ends
with the same thing in the main process: float32 [N, 3, 299, 299], randomly cropped, mirrored and normalised, channels
last. The photographs are crops of scikit-learn's two, the large ones enlarged.

- `ours`: `depthwise.data.Batches`.
- `torchvision-pil`: DataLoader over ImageFolder with Pillow images, as torchvision's reference training does it.
- `torchvision-tensor`: DataLoader, `decode_image` and `v2.RandomResizedCrop` on uint8, normalised a batch at a time
  in the main process: the fastest way we know with torchvision alone.

    python benchmarks/input_pipeline.py [--photo 500x375 2000x1500] [--rounds 9] [--workers 2] [--json]
        [--out benchmarks/results/input-pipeline.json]

The order turns from round to round; a ratio compares two times of the same round, and its median is what counts.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from depthwise.data import Augment, Batches, Preprocess, open_dataset, region
from depthwise.timing import in_turns, ratio

SIZE = 299
BATCH = 32
Epoch = Callable[[], Iterator[Tensor]]


def write_photographs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Crops of scikit-learn's two photographs, different each time, as JPEG of `size` in two classes."""
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    for number in range(count):
        photograph = photographs[number % 2]
        width = int(rng.integers(400, 560))
        height = width * 3 // 4
        left = int(rng.integers(0, photograph.width - width))
        top = int(rng.integers(0, photograph.height - height))
        place = folder / "train" / ("china", "flower")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        crop = photograph.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.LANCZOS)
        crop.save(place / f"{number:04}.jpg", quality=90)


def ours(folder: Path, workers: int) -> Epoch:
    dataset = open_dataset(str(folder))
    batches = Batches(
        dataset.splits["train"],
        Preprocess((SIZE, SIZE), 3),
        batch_size=BATCH,
        augment=Augment(),
        workers=workers,
    )
    return lambda: (batch.images for batch in batches.epoch(0))


def torchvision_pil(folder: Path, workers: int) -> Epoch:
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    loader = _loader(ImageFolder(str(folder / "train"), transform), workers)
    return lambda: (images.contiguous(memory_format=torch.channels_last) for images, _ in loader)


def torchvision_tensor(folder: Path, workers: int) -> Epoch:
    transform = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])
    loader = _loader(ImageFolder(str(folder / "train"), transform, loader=_decode), workers)

    def normalise(images: Tensor) -> Tensor:
        return images.to(torch.float32, memory_format=torch.channels_last).sub_(127.5).div_(127.5)

    return lambda: (normalise(images) for images, _ in loader)


def _decode(path: str) -> Tensor:
    return decode_image(read_file(path), ImageReadMode.RGB)


def _loader(dataset: ImageFolder, workers: int) -> DataLoader[Any]:
    return DataLoader(
        dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )


def images_per_second(epoch: Epoch) -> float:
    start, count = time.perf_counter(), 0
    for images in epoch():
        assert images.shape[1:] == (3, SIZE, SIZE)
        count += len(images)
    return count / (time.perf_counter() - start)


def measure(ways: dict[str, Epoch], rounds: int) -> dict[str, list[float]]:
    for epoch in ways.values():  # starts the workers and reads the files once
        images_per_second(epoch)
    return in_turns({name: partial(images_per_second, epoch) for name, epoch in ways.items()}, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photo", nargs="+", default=["500x375", "2000x1500"], metavar="WIDTHxHEIGHT")
    parser.add_argument("--images", type=int, default=512, help="fewer of larger photographs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--out", type=Path, help="also write that document here")
    arguments = parser.parse_args()
    results = [measured(photo, arguments) for photo in arguments.photo]
    document = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "decoder": region.status(),
        "workers": arguments.workers,
        "photographs": results,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(document, indent=2))
        return
    table = Table(
        "photographs", "way", "images/s (median)", "ours is faster by (median)", "lowest to highest"
    )
    for result in results:
        for name, found in result["ours_over"].items():
            times = f"{found['median']:.3f}x" if found["median"] else "too noisy to say"
            span = f"{found['lowest']:.2f} to {found['highest']:.2f}"
            table.add_row(result["photo"], name, f"{result['images_per_second'][name]:.0f}", times, span)
    Console().print(table)


def measured(photo: str, arguments: argparse.Namespace) -> dict[str, Any]:
    width, height = map(int, photo.split("x"))
    # As many pixels as of small ones, but at least two batches.
    count = max(2 * BATCH, min(arguments.images, arguments.images * 500 * 375 * 4 // (width * height)))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_photographs(folder, count, (width, height))
        ways = {
            "ours": ours(folder, arguments.workers),
            "torchvision-tensor": torchvision_tensor(folder, arguments.workers),
            "torchvision-pil": torchvision_pil(folder, arguments.workers),
        }
        speeds = measure(ways, arguments.rounds)
    # Images a second: the faster of two is the one with more.
    over = {name: ratio(speeds["ours"], other) for name, other in speeds.items() if name != "ours"}
    return {
        "photo": photo,
        "images": count,
        "images_per_second": {name: round(statistics.median(values), 1) for name, values in speeds.items()},
        "ours_over": {
            name: {
                "median": found.times and round(found.times, 3),
                "lowest": round(found.lowest, 3),
                "highest": round(found.highest, 3),
            }
            for name, found in over.items()
        },
        "rounds": {name: [round(value, 1) for value in values] for name, values in speeds.items()},
    }


if __name__ == "__main__":
    main()
