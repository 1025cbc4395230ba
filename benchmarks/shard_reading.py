"""The same photographs from a folder, from Arrow shards and from parquet, in the shuffled order of training.

JPEG files of 500x375 (quality 90, 60 KB or so) in two classes, packed by `data shard` into files of 16 MiB. Measured in
turns, as ratios to the folder:

- `read`: the encoded images, one after the other, in one process; all files are in the system's cache.
- `read cold`: the same after the system was told to drop what it has of them.
- `train`: batches of 32 decoded and cropped to 299, by 2 workers.

    python benchmarks/shard_reading.py [--rounds 5] [--json] [--out benchmarks/results/shard-reading.json]
"""

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from depthwise.data import Augment, Batches, Preprocess, Split, open_dataset
from depthwise.data.dataset import encoded
from depthwise.data.order import Order
from depthwise.data.pack import pack
from depthwise.data.sources import blocks, parquet
from depthwise.timing import in_turns, ratio
from input_pipeline import SIZE, write_photographs

BATCH, WORKERS = 32, 2


def read(split: Split, rounds: list[int]) -> float:
    """Images a second, of an epoch that was not read before."""
    order = Order(split.blocks, BATCH, seed=0)
    rounds.append(len(rounds))
    began, count = time.perf_counter(), 0
    for k in range(len(order)):
        for index in order.indices(len(rounds), k).tolist():
            encoded(split, index)
            count += 1
    return count / (time.perf_counter() - began)


def read_cold(split: Split, rounds: list[int], folder: Path) -> float:
    for cache in (blocks._opened, parquet._group, parquet._opened):
        cache.cache_clear()
    gc.collect()  # pages that are mapped stay
    for path in filter(Path.is_file, folder.rglob("*")):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
    return read(split, rounds)


def train(batches: Batches, rounds: list[int]) -> float:
    rounds.append(len(rounds))
    began, count = time.perf_counter(), 0
    for batch in batches.epoch(len(rounds)):
        count += len(batch.indices)
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--out", type=Path, help="also write that document here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        places = {name: Path(temporary, name) for name in ("folder", "arrow", "parquet")}
        write_photographs(places["folder"], arguments.images)
        made = open_dataset(places["folder"])
        for name in ("arrow", "parquet"):
            pack(made, places[name], format=name, shard_bytes=2**24)
        os.sync()
        splits = {name: open_dataset(place).splits["train"] for name, place in places.items()}
        batches = {
            name: Batches(
                split,
                Preprocess((SIZE, SIZE), channels=3),
                batch_size=BATCH,
                augment=Augment(),
                workers=WORKERS,
            )
            for name, split in splits.items()
        }
        results: dict[str, dict[str, list[float]]] = {}
        for case in ("read", "read cold", "train"):
            ways: dict[str, Callable[[], float]] = {}
            for name, split in splits.items():
                if case == "train":
                    ways[name] = partial(train, batches[name], [])
                elif case == "read":
                    ways[name] = partial(read, split, [])
                else:
                    ways[name] = partial(read_cold, split, [], places[name])
            for way in ways.values():
                way()
            results[case] = in_turns(ways, arguments.rounds)
        for one in batches.values():
            one.close()
    report(results, arguments)


def report(results: dict[str, dict[str, list[float]]], arguments: argparse.Namespace) -> None:
    document: dict[str, Any] = {"torch": torch.__version__, "images": arguments.images, "workers": WORKERS}
    table = Table("case", "from", "images/s (median)", "times the folder (median)", "lowest to highest")
    for case, speeds in results.items():
        document[case] = {}
        for name, values in speeds.items():
            found = ratio(values, speeds["folder"])
            middle = statistics.median(values)
            document[case][name] = {
                "images_per_second": round(middle, 1),
                "times_the_folder": found.times and round(found.times, 3),
                "rounds": [round(value, 1) for value in values],
            }
            times = f"{found.times:.2f}x" if found.times else "too noisy to say"
            table.add_row(case, name, f"{middle:,.0f}", times, f"{found.lowest:.2f} to {found.highest:.2f}")
    text = json.dumps(document, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    if arguments.json:
        print(text)
    else:
        Console().print(table)


if __name__ == "__main__":
    main()
