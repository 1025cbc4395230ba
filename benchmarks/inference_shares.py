"""Where the time of one image goes in a plan, step by step, and at which share of the processor's peak each step runs.

    python benchmarks/inference_shares.py [NETWORK ...] [--precision fp32] [--rounds 60] [--out FILE]

A plan is run up to each of its steps, on one thread and on two, in turns; a step took what it adds to the least time.
Beside that stand the time that its multiply-adds take at the measured peak, and what two threads take longer than half
of one: they wait for each other, and fetch what the other wrote.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from depthwise.bench.machine import machine
from depthwise.bench.roofline import prepare
from depthwise.infer.fuse import Step
from depthwise.infer.layout import Layout
from depthwise.infer.lower import lower
from depthwise.infer.plan import Plan
from depthwise.infer.quantize import calibrate
from depthwise.infer.workspace import Workspace
from depthwise.models import create_model
from depthwise.native.plans import run_plans
from depthwise.train.files import write_json

RESULTS = Path(__file__).parent / "results" / "inference-shares.json"
NETWORKS = ("xception", "mobilenet_v1", "mobilenet_v2")
THREADS = 1, 2


def multiply_adds(layout: Layout, step: Step) -> tuple[int, int]:
    """Those of the depthwise part of `step` and of its product."""
    _, height, width = layout.maps[step.result].shape
    depthwise, product = (
        part.weight.numel() * height * width if part else 0 for part in (step.depthwise, step.product)
    )
    return depthwise, product


def least_seconds(plan: Plan, image: torch.Tensor, rounds: int) -> dict[int, list[float]]:
    """By the number of threads, the least seconds of each step."""
    count = len(plan.layout.steps)
    workspaces = {threads: Workspace(plan.layout, plan.packed, 1, threads) for threads in THREADS}
    least = {threads: [float("inf")] * (count + 1) for threads in THREADS}
    for workspace in workspaces.values():
        workspace.call.image, workspace.call.strides[:] = image.data_ptr(), image.stride()
    for _ in range(rounds):
        for steps in range(1, count + 1):
            for threads, workspace in workspaces.items():
                workspace.call.count = steps
                run_plans([workspace.call])
                began = time.perf_counter()
                run_plans([workspace.call])
                least[threads][steps] = min(least[threads][steps], time.perf_counter() - began)
    return {
        threads: [after - before for before, after in zip([0.0, *taken[1:-1]], taken[1:], strict=True)]
        for threads, taken in least.items()
    }


def kind_of(step: Step) -> str:
    if step.kind != "convolution":
        return "pooling, sums, copies and the image"
    if step.depthwise is not None:
        return "separable convolutions" if step.product else "depthwise convolutions alone"
    assert step.product is not None
    return "pointwise convolutions" if step.product.weight[0, 0].numel() == 1 else "regular convolutions"


def measure(name: str, precision: str, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    module = create_model(name).eval()
    image = torch.randn(1, 3, module.input_size, module.input_size)
    with torch.no_grad():
        graph = lower(module, image)
        roundings = calibrate(graph, [image]) if precision == "int8" else {}
    plan = Plan(graph, bf16=precision != "fp32", roundings=roundings)
    torch.set_num_threads(THREADS[-1])
    peak = prepare(THREADS[-1])()[precision]
    seconds = least_seconds(plan, image, rounds)
    rows = [
        {
            "kind": kind_of(step),
            "from": plan.layout.maps[step.source].shape,
            "to": plan.layout.maps[step.result].shape,
            "depthwise_macs": of_step[0],
            "product_macs": of_step[1],
            "seconds": both,
            "seconds_of_one_thread": alone,
        }
        for step, of_step, alone, both in zip(
            plan.layout.steps,
            (multiply_adds(plan.layout, step) for step in plan.layout.steps),
            *(seconds[threads] for threads in THREADS),
            strict=True,
        )
    ]
    return {"network": name, "precision": precision, "peak": peak, "steps": rows}


def show(found: dict[str, Any]) -> None:
    peak, sums = found["peak"], defaultdict(lambda: defaultdict(float))
    for row in found["steps"]:
        for kind in (row["kind"], "all"):
            sums[kind]["macs"] += row["depthwise_macs"] + row["product_macs"]
            sums[kind]["seconds"] += row["seconds"]
            sums[kind]["longer"] += row["seconds"] - row["seconds_of_one_thread"] / 2
    whole = sums["all"]["seconds"]
    print(f"{found['network']} in {found['precision']}: {whole * 1e3:.2f} ms")
    for kind, sum_ in sorted(sums.items(), key=lambda item: -item[1]["seconds"]):
        ideal, seconds = sum_["macs"] / peak, sum_["seconds"]
        print(
            f"  {kind}: {seconds * 1e3:.2f} ms, {seconds / whole:.0%}; at the peak {ideal * 1e3:.2f} ms, so "
            f"{ideal / seconds:.0%} of it; {sum_['longer'] * 1e3:+.2f} ms beside half of one thread's"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="fp32")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = []
    for name in options.networks or NETWORKS:
        found.append(measure(name, options.precision, options.rounds))
        show(found[-1])
    command = f"python benchmarks/inference_shares.py --precision {options.precision}"
    write_json(options.out, {"command": command, "machine": machine(), "cases": found})


if __name__ == "__main__":
    main()
