"""Where the time of a training update goes on a CPU, and which limit of the machine each part runs at.

    python benchmarks/training_shares.py [CASE ...] [--updates 5] [--out benchmarks/results/training-shares.json]

xception-299 and resnet50-224 (batch 8), small-28 (0.66 million parameters, batch 128); bfloat16, our loop. Each native
kernel is timed as it is called. Its multiply-adds are stated as a share of the measured peak, and the maps that it
reads and writes, each once, as a share of the rate at which memory was read: what is near neither is held back by
something else. PyTorch's convolutions are timed by its profiler; the rest is all that is left of the update.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from depthwise.bench.machine import machine
from depthwise.bench.roofline import prepare
from depthwise.bench.training import LOOPS
from depthwise.models import create_model
from depthwise.native.library import library
from depthwise.train.files import write_json

RESULTS = Path(__file__).parent / "results" / "training-shares.json"
SMALL = {"stem": "small", "width": 0.25, "entry": [128, 256], "middle": [728, 728], "in_channels": 1}
CASES: dict[str, tuple[str, dict[str, Any], tuple[int, ...], int]] = {
    "xception-299": ("xception", {}, (8, 3, 299, 299), 1000),
    "small-28": ("xception", {**SMALL, "num_classes": 10}, (128, 1, 28, 28), 10),
    "resnet50-224": ("resnet50", {}, (8, 3, 224, 224), 1000),
}
CONVOLUTIONS = ("aten::mkldnn_convolution", "aten::convolution_backward")


class Counted:
    """The native library, with the calls of its kernels timed and their work counted in `rows`."""

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels
        self.rows: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        kernel = getattr(self.kernels, name)

        def timed(reference: Any) -> Any:
            began = time.perf_counter()
            result = kernel(reference)
            row = self.rows[name.removeprefix("depthwise_")]
            row["seconds"] += time.perf_counter() - began
            row["calls"] += 1
            macs, maps = work(name.removeprefix("depthwise_"), reference._obj)
            row["multiply_adds"] += macs
            row["bytes"] += maps * (2 if getattr(reference._obj, "bf16", 0) else 4)
            return result

        return timed


def work(kernel: str, p: Any) -> tuple[int, int]:
    """Multiply-adds of products, and values of the maps read and written; neither of what has no map."""
    if kernel.startswith("pointwise"):
        return p.rows * p.channels * p.out_channels, p.rows * (p.channels + p.out_channels)
    if kernel in ("statistics", "normalise", "reduce", "norm_gradient"):
        maps = {"statistics": 1, "normalise": 2, "reduce": 2, "norm_gradient": 3}[kernel]
        maps += sum(bool(getattr(p, name, None)) for name in ("residual", "dresidual"))
        maps += kernel in ("reduce", "norm_gradient") and bool(p.y)
        return 0, maps * p.rows * p.channels
    if hasattr(p, "window"):
        w = p.window
        whole, out = (
            w.batch * w.channels * side for side in (w.height * w.width, w.out_height * w.out_width)
        )
        return 0, (2 * whole + out if kernel == "depthwise_backward" else whole + out)
    return 0, 0


def measure(name: str, arguments: dict[str, Any], shape: tuple[int, ...], classes: int, updates: int) -> dict:
    """The rows of a case, in seconds an update, with the shares of the machine's limits."""
    torch.manual_seed(0)
    images, targets = torch.randint(0, 256, shape, dtype=torch.uint8), torch.randint(0, classes, shape[:1])
    update = LOOPS["depthwise bf16"].prepare(create_model(name, **arguments), images, targets, classes)
    for _ in range(3):
        update()
    limits = prepare(torch.get_num_threads())()
    counted = Counted(library.loaded)
    library.loaded = counted  # type: ignore[assignment]
    began = time.perf_counter()
    for _ in range(updates):
        update()
    whole = (time.perf_counter() - began) / updates
    library.loaded = counted.kernels
    rows = []
    for kernel, row in counted.rows.items():
        seconds = row["seconds"] / updates
        rows.append(
            {
                "part": kernel,
                "calls": int(row["calls"] / updates),
                "seconds": seconds,
                "of_the_update": seconds / whole,
                "of_the_peak": row["multiply_adds"] / row["seconds"] / limits["bf16"],
                "of_the_memory": row["bytes"] / row["seconds"] / limits["memory"],
            }
        )
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(updates):
            update()
    found = {event.key: event.self_cpu_time_total / 1e6 / updates for event in recorded.key_averages()}
    convolutions = sum(found.get(key, 0.0) for key in CONVOLUTIONS)
    left = whole - convolutions - sum(row["seconds"] for row in rows)
    rows.append(
        {"part": "PyTorch's convolutions", "seconds": convolutions, "of_the_update": convolutions / whole}
    )
    rows.append({"part": "the rest", "seconds": left, "of_the_update": left / whole})
    rows.sort(key=lambda row: -row["seconds"])
    return {
        "network": name,
        "arguments": arguments,
        "shape": shape,
        "seconds": whole,
        "limits": limits,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if unknown := {*options.cases} - {*CASES}:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    found = {}
    for case in options.cases or CASES:
        found[case] = measure(*CASES[case], options.updates)
        print(f"{case}: {found[case]['seconds'] * 1e3:.1f} ms an update")
        for row in found[case]["rows"]:
            shares = [
                f"{row[key]:.0%} of {limit}"
                for key, limit in (("of_the_peak", "the peak"), ("of_the_memory", "the memory's rate"))
                if row.get(key)
            ]
            print(
                f"  {row['part']}: {row['seconds'] * 1e3:.2f} ms, {row['of_the_update']:.1%}",
                *shares,
                sep=", ",
            )
    write_json(
        options.out, {"command": "python benchmarks/training_shares.py", "machine": machine(), "cases": found}
    )


if __name__ == "__main__":
    main()
