"""What it costs to look at a network on the way: seconds of CPU, as a share of those of the updates.

    python benchmarks/doctor_cost.py [--epochs 0.4] [--rounds 3]

The default recipe on Fashion-MNIST on one thread, each round a run of its own: all updates are timed, and after those
after which a run is looked at, the copy of the weights, their movement and the look. Evaluations, which a whole run has
as well, are not counted.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from depthwise.data import open_dataset
from depthwise.doctor.signals import Weights, moments
from depthwise.models import create_model
from depthwise.native import tune_allocator
from depthwise.recipes import Traits
from depthwise.recipes.small import small
from depthwise.train.loop import Trainer
from depthwise.train.run import choose_precision

RESULTS = Path(__file__).parent / "results" / "doctor-cost.json"


def share(epochs: float) -> tuple[int, float]:
    """The updates of a run, and the time of looking over that of its updates."""
    dataset = open_dataset("fashion-mnist")
    cpu = torch.device("cpu")
    recipe = replace(small(Traits.of(dataset)), epochs=epochs, precision=choose_precision("auto", cpu))
    torch.manual_seed(0)
    module = create_model(recipe.model, num_classes=10, in_channels=1, **recipe.model_args)
    trainer = Trainer(recipe, module, dataset, device=cpu)
    looks = moments(trainer.total_steps, trainer.log_every, trainer.samples_per_step)
    spent = {"updates": 0.0, "looking": 0.0}

    def timed(what: str, run: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = run()
        spent[what] += time.process_time() - began
        return result

    for step in range(1, trainer.total_steps + 1):
        weights = timed("looking", lambda: Weights(trainer.module)) if step in looks else None
        batch = timed("updates", trainer.update)
        if weights:
            timed("looking", weights.movement)
            timed("looking", lambda seen=batch: trainer.look(seen))
    trainer.batches.close()
    return trainer.total_steps, spent["looking"] / spent["updates"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=float, default=0.4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tune_allocator()
    found = [share(options.epochs) for _ in range(options.rounds)]
    result = {
        "command": f"python benchmarks/doctor_cost.py --epochs {options.epochs:g} --rounds {options.rounds}",
        "updates": found[0][0],
        "share_of_updates": [round(each, 4) for _, each in found],
        "median": round(median(each for _, each in found), 4),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
