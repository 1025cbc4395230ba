"""Training speed and memory on a CPU: this project's loop against a plain PyTorch loop, in turns, as ratios.

    python benchmarks/training_speed.py [CASE ...] [--precision bf16] [--rounds 9] [--threads N]
        [--out benchmarks/results/training-speed.json]

xception-299, mobilenet_v2-224, inception_v3-299, resnet50-224: the network of that name, on 8 images of that size,
against timm's or torchvision's. small-28: a 0.66-million-parameter Xception, batch 128, against the same network on
PyTorch's own operators. xception-inception_v3: steps of Xception in the time of one of Inception V3, both in our loop,
299, batch 8; the paper had 28 in that of 31. memory-299: Xception, batch 32, with and without recompute=true, beside
timm's.

What is measured, and how, is `depthwise bench --train`'s. Cases that are named are measured anew in the file, others
stay.
"""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from json import loads
from pathlib import Path
from typing import Any

import torch

from depthwise.analysis.cost import training_multiply_adds
from depthwise.bench import Comparison, bench_training, peer
from depthwise.bench.compare import begun, measure, training_entry
from depthwise.bench.machine import machine
from depthwise.models import create_model
from depthwise.train.files import write_json

RESULTS = Path(__file__).parent / "results" / "training-speed.json"
SMALL = {
    "stem": "small",
    "width": 0.25,
    "entry": [128, 256],
    "middle": [728, 728],
    "num_classes": 10,
    "in_channels": 1,
}


def against_peer(
    name: str,
    shape: tuple[int, ...],
    precision: str,
    threads: int,
    rounds: int,
    *,
    arguments: dict[str, Any] | None = None,
    recompute: bool = False,
) -> dict[str, Any]:
    """Our loop, and with recompute=true if that is asked for, and the plain one of `peer`."""
    given = arguments or {}
    ours = f"depthwise {precision}"
    engines = [ours, "pytorch bf16" if precision == "bf16" else "pytorch"]
    engines[1:1] = [f"{ours} recompute"] if recompute else []
    with torch.device("meta"):
        macs = training_multiply_adds(create_model(name, **given), shape[1:])
    found = bench_training(name, given, shape, engines=engines, threads=threads, rounds=rounds)
    return {"network": name, "arguments": given, "peer": peer(name, given).title, **found.to_json(macs)}


def steps_of_two(
    name: str, other: str, shape: tuple[int, ...], precision: str, threads: int, rounds: int
) -> dict[str, Any]:
    """Two networks by our loop: `ours` of the row of `other` is how many steps of `name` are done in one of its."""
    engine = f"depthwise {precision}"
    entries = {
        engine: training_entry(name, {}, shape, engine),
        other: training_entry(other, {}, shape, engine),
    }
    found: Comparison = measure(entries, begun, batch=shape[0], threads=threads, rounds=rounds)
    document = found.to_json(0)
    for row in document["engines"]:  # they differ in multiply-adds
        row["gmacs_per_second"] = row["share_of_peak"] = None
    return {"network": name, "peer": f"our own {other}", **document}


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "xception-299": partial(against_peer, "xception", (8, 3, 299, 299)),
    "small-28": partial(against_peer, "xception", (128, 1, 28, 28), arguments=SMALL),
    "mobilenet_v2-224": partial(against_peer, "mobilenet_v2", (8, 3, 224, 224)),
    "inception_v3-299": partial(against_peer, "inception_v3", (8, 3, 299, 299)),
    "resnet50-224": partial(against_peer, "resnet50", (8, 3, 224, 224)),
    "xception-inception_v3": partial(steps_of_two, "xception", "inception_v3", (8, 3, 299, 299)),
    "memory-299": partial(against_peer, "xception", (32, 3, 299, 299), recompute=True),
}


def say(name: str, result: dict[str, Any]) -> None:
    """A line for each engine of a case."""
    print(f"{name}, batch {result['batch']}, beside {result['peer']}, {result['rounds']} rounds")
    for row in result["engines"]:
        if "absent" in row:
            print(f"  {row['engine']}: left out: {row['absent']}")
            continue
        share = f", {row['share_of_peak']:.0%} of the peak" if row["share_of_peak"] else ""
        memory = f", {row['memory_mb']:,.0f} MB at most" if row["memory_mb"] else ""
        line = f"  {row['engine']}: {row['images_per_second']:.4g} images/s, {row['steps_per_second']:.3g} steps/s"
        print(f"{line}{share}{memory}")
        if "ours" in row:
            times = "too noisy to say" if row["ours"] is None else f"{row['ours']:.2f}x as fast"
            print(f"    ours is {times} ({row['ours_lowest']:.2f} to {row['ours_highest']:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if unknown := {*options.cases} - {*CASES}:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    cases = loads(options.out.read_text()).get("cases", {}) if options.out.is_file() else {}
    for name in options.cases or CASES:
        result = CASES[name](precision=options.precision, threads=options.threads, rounds=options.rounds)
        facts = {
            "command": f"python benchmarks/training_speed.py {name} --precision {options.precision} "
            f"--rounds {options.rounds}",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rounds": options.rounds,
            "precision": options.precision,
        }
        cases[name] = facts | result
        say(name, cases[name])
        write_json(options.out, {"machine": machine(), "cases": cases})


if __name__ == "__main__":
    main()
