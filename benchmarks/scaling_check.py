"""What `depthwise plan` works out beside two processes that train over a network of a known rate.

    unshare -n python benchmarks/scaling_check.py      # as root: a network of its own, whose rate is set by tc

A quarter-wide Xception at 71x71, one thread and 32 images a process. Both processes' links are one loopback device, so
its rate is twice that of a link. A step is that of a process by itself, while another one has the other core. Bytes are
the device's, headers and messages included. `load` is the load average: beside other work times say little.
"""

import argparse
import json
import os
import subprocess
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from depthwise.analysis.cost import cost
from depthwise.analysis.scaling import Link, Step, synchronous, traffic
from depthwise.comparison.setting import IMAGENET, SCALES, Setting
from depthwise.comparison.speed import made_up
from depthwise.data.transform import Preprocess
from depthwise.models import create_model
from depthwise.native import tune_allocator
from depthwise.timing import seconds
from depthwise.train.launch import started
from depthwise.train.loop import Trainer
from depthwise.train.recipe import Recipe
from depthwise.train.sums import in_buckets
from depthwise.train.together import follow
from depthwise.train.world import ALONE, World

RESULTS = Path(__file__).parent / "results" / "scaling-check.json"
IMAGES, SIZE, UPDATES = 32, 71, 8
RATES = (10.0, 1.0, 0.1)
"""Gigabits a second; the latency of a loopback device is taken for none."""


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("xception", width=0.25)


def trainer_in(world: World, shards: int) -> tuple[Trainer, Any]:
    recipe = Recipe(
        "check", preprocess=Preprocess((SIZE, SIZE)), batch_size=shards * IMAGES, virtual_shards=shards
    )
    data = made_up(recipe, Setting(SCALES["paper"], IMAGENET), 2 * recipe.batch_size)
    return Trainer(recipe, network(), data, device=torch.device("cpu"), world=world), data


def other(world: World) -> None:
    trainer, data = trainer_in(world, 2)
    follow(trainer, data, workers=0)
    trainer.close()


def sent() -> int:
    """Bytes that the loopback device has sent."""
    (line,) = (line for line in Path("/proc/net/dev").read_text().splitlines() if "lo:" in line)
    return int(line.split(":")[1].split()[8])


def measured(rate: float) -> dict[str, float]:
    """Of an update of two processes: seconds, and bytes of each."""
    words = f"tc qdisc replace dev lo root tbf rate {2 * rate:g}gbit burst 256kb latency 1s"
    subprocess.run(words.split(), check=True)
    with started(2, other, patience=60) as world:
        trainer, _ = trainer_in(world, 2)
        trainer.update()
        before = sent()
        took = median(seconds(trainer.update) for _ in range(UPDATES))
        each = (sent() - before) / UPDATES / 2
        world.lead("end", {})
        trainer.close()
    return {"seconds": took, "sent_bytes": each}


def alone(world: World) -> float:
    """Seconds of a step of one process by itself, while another one has the second core."""
    trainer, _ = trainer_in(ALONE, 1)
    trainer.update()
    world.meet()
    took = median(seconds(trainer.update) for _ in range(UPDATES))
    world.meet()
    trainer.close()
    return took


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    tune_allocator()
    torch.set_num_threads(1)
    module = network()
    of = traffic(module, cost(module, (3, SIZE, SIZE)), in_buckets(list(module.parameters())))
    rows = []
    for rate in RATES:
        with started(2, alone, patience=60) as world:
            step = Step(alone(world), IMAGES)
        planned = partial(synchronous, of, step, num_shards=2, processes=2, held=1)(Link(rate, 0))
        found = measured(rate)
        rows.append(
            {
                "gbit": rate,
                "step_seconds": step.seconds,
                "planned": {"seconds": planned.update_seconds, "sent_bytes": planned.sent_bytes},
                "measured": found,
                "load": os.getloadavg()[0],
            }
        )
        print(json.dumps(rows[-1]))
    RESULTS.write_text(json.dumps({"updates": UPDATES, "images": IMAGES, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
