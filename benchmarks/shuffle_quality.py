"""How well images that lie in shards are shuffled, 16 shards at a time, beside a permutation of them all.

A million images lie in 400 shards of 2,500, and are trained on in batches of 64 for 20 epochs, each shuffled by
`data/order.py`. Two questions are asked of the orders:

- How far apart do two neighbours of the shards come to lie, as a share of the epoch?
- How often do the same two images share a batch? Asked of neighbours in a shard, and of all the pairs that 2,000 images
  are in: those pairs that met once, twice, ... in 20 epochs.

    python benchmarks/shuffle_quality.py [--epochs 20] [--json] [--out benchmarks/results/shuffle-quality.json]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from depthwise.data.order import WINDOW, Order

IMAGES, SHARD, BATCH, SAMPLE = 1_000_000, 2_500, 64, 2_000
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
LAYOUTS = {
    f"{IMAGES // SHARD} shards": (SHARD,) * (IMAGES // SHARD),
    "full permutation": (IMAGES,),
}


def places(blocks: tuple[int, ...], epoch: int) -> Tensor:
    """int64 [IMAGES]: when each image comes in an epoch."""
    order = Order(blocks, IMAGES, seed=0).indices(epoch, 0)
    found = torch.empty_like(order)
    found[order] = torch.arange(IMAGES)
    return found


def measure(blocks: tuple[int, ...], epochs: int) -> dict[str, Any]:
    """What is asked, of the orders of `epochs` epochs."""
    inside = torch.arange(IMAGES - 1) % SHARD < SHARD - 1  # the next image lies in the same shard
    sample = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(1))[:SAMPLE]
    distances, together, mates = [], torch.zeros(int(inside.sum()), dtype=torch.int64), []
    for epoch in range(epochs):
        at = places(blocks, epoch)
        distances.append(at.diff().abs()[inside][:: epochs // 2 or 1])
        batches = at // BATCH
        together += (batches[1:] == batches[:-1])[inside]
        members = torch.argsort(at)[: IMAGES // BATCH * BATCH].reshape(-1, BATCH)
        whole = batches[sample] < len(members)
        mates.append(
            torch.stack([sample[whole].repeat_interleave(BATCH), members[batches[sample][whole]].flatten()])
        )
    first, second = torch.cat(mates, dim=1)
    _, met = (first * IMAGES + second)[first != second].unique(return_counts=True)
    apart = torch.cat(distances).double() / IMAGES
    return {
        "neighbours_apart": {
            f"{q:g}": float(apart.quantile(q)) if len(apart) < 2**24 else quantile(apart, q)
            for q in QUANTILES
        },
        "neighbours_apart_mean": float(apart.mean()),
        "neighbours_share_a_batch_an_epoch": float(together.sum()) / epochs / len(together),
        "neighbours_by_times_met": histogram(together),
        "pairs_by_times_met": histogram(met),
    }


def quantile(values: Tensor, q: float) -> float:
    return float(values.kthvalue(max(1, round(q * len(values)))).values)


def histogram(counts: Tensor) -> dict[str, int]:
    """How many have each count; those over 3 are put together."""
    found = counts.clamp(max=4).bincount(minlength=5).tolist()
    return {str(times) if times < 4 else "4 or more": count for times, count in enumerate(found)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = {name: measure(blocks, arguments.epochs) for name, blocks in LAYOUTS.items()}
    document = {
        "images": IMAGES,
        "shard": SHARD,
        "window": WINDOW,
        "batch": BATCH,
        "epochs": arguments.epochs,
        "results": results,
    }
    text = json.dumps(document, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    if arguments.json:
        print(text)
        return
    table = Table("", *results)
    for q in QUANTILES:
        table.add_row(
            f"neighbours apart, {q:.0%} quantile",
            *(f"{r['neighbours_apart'][f'{q:g}']:.3%}" for r in results.values()),
        )
    shares = [f"{r['neighbours_share_a_batch_an_epoch']:.4%}" for r in results.values()]
    table.add_row("neighbours that share a batch, an epoch", *shares)
    for times in ("1", "2", "3", "4 or more"):
        table.add_row(
            f"pairs that met in {times} of {arguments.epochs} epochs",
            *(f"{r['pairs_by_times_met'][times]:,}" for r in results.values()),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
