"""Training speed on a CPU: this project's loop against a plain PyTorch loop, in turns, as ratios.

    python benchmarks/training_speed.py [--rounds 9] [--json] [--out benchmarks/results/training-speed.json]

1. Xception, 299x299, batch 8, bfloat16: `Trainer.update` on `xception` against timm's `legacy_xception`.
2. A 0.66-million-parameter Xception, 28x28, batch 128, bfloat16: `Trainer.update` against the same network, the same
   weights, PyTorch's own operators.

The plain loop is what a tutorial has: eager, autocast to bfloat16, channels_last, SGD with momentum, one fixed batch in
memory, the allocator as it comes. Ours pays for its data pipeline on top. Each side lives in a process of its own; the
two take turns, a round each, and the ratio is taken round by round.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from depthwise.timing import in_turns, ratio

TASKS = {
    "xception-299": {
        "batch": 8,
        "steps": 4,
        "size": 299,
        "channels": 3,
        "classes": 1000,
        "peer": "timm legacy_xception",
    },
    "small-28": {
        "batch": 128,
        "steps": 20,
        "size": 28,
        "channels": 1,
        "classes": 10,
        "peer": "same network, plain torch",
    },
}
SMALL = {"stem": "small", "width": 0.25, "entry": (128, 256), "middle": (728, 728)}


def ours(task: dict) -> Callable[[], None]:
    """One update of the project's own loop on images in memory."""
    import torch

    from depthwise import native
    from depthwise.data.dataset import ArraySplit, Dataset
    from depthwise.data.transform import Augment, Preprocess
    from depthwise.models import create_model
    from depthwise.train.loop import Trainer
    from depthwise.train.optimizer import SGD
    from depthwise.train.recipe import Recipe

    native.tune_allocator()
    num = 8 * task["batch"]
    images = torch.randint(0, 256, (num, task["channels"], task["size"], task["size"]), dtype=torch.uint8)
    split = ArraySplit(images, torch.randint(0, task["classes"], (num,)), "random")
    classes = tuple(map(str, range(task["classes"])))
    dataset = Dataset("random", classes, {"train": split}, task["channels"], "", "")
    arguments = SMALL if task["size"] == 28 else {}
    recipe = Recipe(
        name="bench",
        model_args=arguments,
        preprocess=Preprocess((task["size"],) * 2, crop_fraction=1.0),
        augment=Augment("none", flip=False),
        batch_size=task["batch"],
        optimizer=SGD(lr=0.01, momentum=0.9),
        precision="bfloat16",
    )
    torch.manual_seed(0)
    model = create_model("xception", num_classes=task["classes"], in_channels=task["channels"], **arguments)
    return Trainer(recipe, model, dataset, device=torch.device("cpu")).update


def plain(task: dict) -> Callable[[], None]:
    """One update of a plain loop: timm's network at 299, ours with PyTorch's operators at 28."""
    import torch
    from torch.nn import functional as F

    if task["size"] == 28:
        os.environ["DEPTHWISE_NATIVE"] = "off"
        from depthwise.models import create_model

        torch.manual_seed(0)
        model = create_model("xception", num_classes=task["classes"], in_channels=task["channels"], **SMALL)
    else:
        import timm

        model = timm.create_model("legacy_xception", pretrained=False)
    model = model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(task["batch"], task["channels"], task["size"], task["size"])
    images = images.to(memory_format=torch.channels_last)
    targets = torch.randint(0, task["classes"], (task["batch"],))

    def update() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            output = model(images)
        loss = F.cross_entropy(output.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return update


def serve(side: str, name: str) -> None:
    """The child: warm up, then time a round for every line on standard input."""
    task = TASKS[name]
    update = {"ours": ours, "plain": plain}[side](task)
    for _ in range(3):
        update()
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(task["steps"]):
            update()
        print(task["steps"] * task["batch"] / (time.perf_counter() - began), flush=True)


def compare(name: str, rounds: int) -> dict:
    """Images a second of both sides and their ratio, medians over the rounds."""
    children = {
        side: subprocess.Popen(
            [sys.executable, __file__, "--serve", side, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in ("ours", "plain")
    }
    for child in children.values():
        assert child.stdout.readline() == "ready\n"

    def rate(child: subprocess.Popen) -> float:
        child.stdin.write("go\n")
        child.stdin.flush()
        return float(child.stdout.readline())

    rates = in_turns({side: partial(rate, child) for side, child in children.items()}, rounds)
    for child in children.values():
        child.stdin.close()
        child.wait()
    found = ratio(rates["ours"], rates["plain"])  # images a second: the faster is the one with more
    return {
        "peer": TASKS[name]["peer"],
        "ours_images_per_second": round(median(rates["ours"]), 2),
        "plain_images_per_second": round(median(rates["plain"]), 2),
        "ratio": found.times and round(found.times, 3),
        "ratio_lowest": round(found.lowest, 3),
        "ratio_highest": round(found.highest, 3),
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return
    results = {name: compare(name, arguments.rounds) for name in TASKS}
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    for name, result in results.items():
        times = f"{result['ratio']}x" if result["ratio"] else "too noisy to say"
        print(
            f"{name}: {result['ours_images_per_second']} images/s, {result['peer']} "
            f"{result['plain_images_per_second']}: {times} ({result['ratio_lowest']} to "
            f"{result['ratio_highest']}, {result['rounds']} rounds)"
        )


if __name__ == "__main__":
    main()
