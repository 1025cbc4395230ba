"""One training step at JFT's width: Xception, 299x299, batch 64, 17,000 labels, 36 an image, bfloat16.

    python benchmarks/many_labels.py [--labels 17000] [--batch 64] [--rounds 5] [--json]
        [--out benchmarks/results/many-labels.json]

Two things take turns in one process: `Trainer.update` by the recipe `xception-jft`, and the classifier by itself
(forward, loss, backward and RMSprop's update, on features that are there); the ratio of the two is the classifier's
share of a step. The peak of resident memory is the whole process's.
"""

import argparse
import json
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from depthwise import native
from depthwise.data.dataset import ArraySplit, Dataset
from depthwise.data.targets import LabelLists
from depthwise.models import create_model
from depthwise.recipes import RECIPES, Traits
from depthwise.tasks import find_task
from depthwise.timing import in_turns, ratio, seconds
from depthwise.train.loop import Trainer
from depthwise.train.recipe import Recipe

LABELS_AN_IMAGE = 36


def made_up(labels: int, batch: int) -> Dataset:
    """Noise, whose labels are drawn as unevenly as those of photographs are: the k-th as often as 1 / k."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, 299, 299), dtype=torch.uint8, generator=generator)
    odds = 1 / torch.arange(1, labels + 1, dtype=torch.float64)
    rows = torch.multinomial(odds.expand(batch, -1), LABELS_AN_IMAGE, generator=generator)
    split = ArraySplit(images, LabelLists.of(rows.tolist()), "noise")
    return Dataset("noise", tuple(map(str, range(labels))), {"train": split}, 3, "", "", task="multi-label")


def classifier_step(recipe: Recipe, dataset: Dataset, batch: int) -> Callable[[], None]:
    """The classifier's part of an update."""
    labels = len(dataset.classes)
    classifier = torch.nn.Linear(2048, labels)
    optimizer = recipe.optimizer.build(classifier)
    objective = find_task(dataset.task, dataset.classes).objective(
        dataset.splits["train"],
        torch.device("cpu"),
        loss=recipe.loss,
        label_smoothing=0.0,
        class_weights="none",
    )
    features = torch.randn(batch, 2048, requires_grad=True)
    targets = dataset.splits["train"].targets(torch.arange(batch))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = classifier(features)
        objective.mean(output, targets).backward()
        optimizer.step()

    return step


def measure(labels: int, batch: int, rounds: int) -> dict[str, float | None]:
    """What a step takes, the classifier's share of it, and the most memory."""
    native.tune_allocator()
    dataset = made_up(labels, batch)
    recipe = replace(
        RECIPES["xception-jft"](Traits.of(dataset)), batch_size=batch, precision="bfloat16", averaging=0.0
    )
    torch.manual_seed(0)
    module = create_model("xception", num_classes=labels, in_channels=3, **recipe.model_args)
    trainer = Trainer(recipe, module, dataset, device=torch.device("cpu"))
    runs = {"step": trainer.update, "classifier": classifier_step(recipe, dataset, batch)}
    in_turns({name: lambda run=run: seconds(run) for name, run in runs.items()}, 1)
    taken = in_turns({name: lambda run=run: seconds(run) for name, run in runs.items()}, rounds)
    share = ratio(taken["classifier"], taken["step"])
    return {
        "labels": labels,
        "batch": batch,
        "rounds": rounds,
        "seconds_a_step": sorted(taken["step"])[rounds // 2],
        "classifiers_share": share.times,
        "lowest": share.lowest,
        "highest": share.highest,
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=int, default=17_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = measure(options.labels, options.batch, options.rounds)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    if options.json:
        print(json.dumps(result))
    else:
        share = result["classifiers_share"]
        taken = "too noisy to say" if share is None else f"{share:.1%}"
        print(
            f"{result['seconds_a_step']:.1f} s a step, of which the classifier takes {taken} "
            f"({result['lowest']:.1%} to {result['highest']:.1%}); {result['peak_gigabytes']:.1f} GB at most"
        )


if __name__ == "__main__":
    main()
