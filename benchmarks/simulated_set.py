"""350,000,000 images of 17,000 classes in 35,000 shards, made on demand: how soon a run begins, in what memory.

The set is a `Dataset` of anybody's own, made of arithmetic: an image is noise that follows from its number, its class
is its number modulo 17,000. All that is measured is what the project does with a set of this length. Each case runs in
a process of its own; times are from the finished import to the end of the case, without data workers and with 2 that
have started already.

- `first`: open the set, make the batches of an epoch, and have the first one.
- `resume`: the same, at 80% of the epoch: what `--resume` does there.
- `train`: `depthwise.train`, two updates of a small network with 17,000 outputs, evaluation, bundle and report.

    python benchmarks/simulated_set.py [--json] [--out benchmarks/results/simulated-set.json]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import depthwise
from depthwise.data import Augment, Batches, Dataset, Preprocess, open_dataset
from depthwise.data.dataset import Reader

SHARDS, SHARD, CLASSES, SIDE, BATCH = 35_000, 10_000, 17_000, 32, 64
CASES = ("first", "resume", "train")


@dataclass(frozen=True)
class Simulated:
    """`blocks` of images whose numbers begin with `first`."""

    first: int
    blocks: tuple[int, ...]

    @property
    def reader(self) -> Reader:
        return noise

    def class_counts(self) -> Tensor:
        """Images of each class, as a manifest of shards has them."""
        whole, rest = divmod(len(self), CLASSES)
        counts = torch.full((CLASSES,), whole)
        counts[[(self.first + k) % CLASSES for k in range(rest)]] += 1
        return counts

    def __len__(self) -> int:
        return sum(self.blocks)

    def key(self, index: int) -> int:
        return self.first + index

    def targets(self, indices: Tensor) -> Tensor:
        return (self.first + indices) % CLASSES

    def image(self, index: int) -> Tensor:
        return noise(self.key(index))

    def name(self, index: int) -> str:
        return f"image {self.key(index)}"


def noise(number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def simulated() -> Dataset:
    splits = {"train": Simulated(0, (SHARD,) * SHARDS), "val": Simulated(SHARDS * SHARD, (1_000,))}
    return Dataset(
        "simulated", tuple(f"label {k}" for k in range(CLASSES)), splits, 3, "simulated", "by number"
    )


def carry_out(case: str, workers: int) -> None:
    """A case, in this process; prints its seconds, and the peak memory of this and of the worker processes."""
    began = time.perf_counter()
    if case == "train":
        with tempfile.TemporaryDirectory() as out:
            depthwise.train(
                simulated(),
                out=out,
                model="mobilenet_v1",
                width=0.25,
                size=SIDE,
                batch_size=BATCH,
                epochs=2 * BATCH / (SHARDS * SHARD),
                workers=workers,
                **{"augment.crop": "none"},
            )
            document = {"seconds": time.perf_counter() - began, "megabytes": [peak(os.getpid())]}
    else:
        batches = Batches(
            open_dataset(simulated()).splits["train"],
            Preprocess((SIDE, SIDE), channels=3),
            batch_size=BATCH,
            augment=Augment(crop="none"),
            workers=workers,
        )
        start = int(0.8 * len(batches)) if case == "resume" else 0
        if workers:  # are started, and import PyTorch, which has nothing to do with the set
            next(batches.epoch(1))
            began = time.perf_counter()
        batch = next(batches.epoch(0, start))
        seconds = time.perf_counter() - began
        pids = [process.pid for process in batches._pool._processes] if batches._pool else []
        document = {"seconds": seconds, "megabytes": [peak(pid) for pid in (os.getpid(), *pids)]}
        assert len(batch.indices.unique()) == BATCH
        batches.close()
    print(json.dumps(document))


def peak(pid: int | None) -> float:
    """The most memory that a process has had, MB."""
    (line,) = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        carry_out(arguments.case, arguments.workers)
        return
    results: list[dict[str, Any]] = []
    for case in CASES:
        for workers in (0, 2):
            command = [sys.executable, __file__, "--case", case, "--workers", str(workers)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.append({"case": case, "workers": workers, **json.loads(done.stdout.splitlines()[-1])})
    document = {
        "images": SHARDS * SHARD,
        "shards": SHARDS,
        "classes": CLASSES,
        "batch": BATCH,
        "results": results,
    }
    text = json.dumps(document, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    if arguments.json:
        print(text)
        return
    table = Table("case", "workers", "seconds", "MB of the main process", "of the workers")
    for row in results:
        main_process, *others = row["megabytes"]
        shown = ", ".join(f"{size:,.0f}" for size in others)
        table.add_row(
            row["case"], str(row["workers"]), f"{row['seconds']:.2f}", f"{main_process:,.0f}", shown
        )
    Console().print(table)


if __name__ == "__main__":
    main()
