"""How often the training doctor names the right cause of a planted fault, and how often it is silent about a sound run.

Each fault is planted in three seeds, the network another in each, and trained as any run is, on digits, some at 8x8
pixels; the sound runs are of twenty networks and recipes on digits and on a part of Fashion-MNIST. A fault is detected
if its cause is the first that the doctor names when the run has ended; a sound run is one of which nothing is said.
The thresholds were set by other seeds (10 and up), but for one: see docs/doctor.md.

    python benchmarks/doctor_score.py [--seeds 0 1 2] [--only NAME ...] [--keep DIR] [--json]
        [--out benchmarks/results/doctor-score.json]
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from depthwise.data import Augment, Preprocess, open_dataset
from depthwise.data.dataset import ArraySplit, Dataset
from depthwise.data.targets import LabelLists
from depthwise.doctor.causes import diagnose
from depthwise.doctor.reading import examine_run
from depthwise.errors import DepthwiseError
from depthwise.models import model_arguments
from depthwise.models.network import Network, Stage
from depthwise.ship.starting import network_for
from depthwise.tasks.losses import Asymmetric, Focal
from depthwise.train.loop import Trainer
from depthwise.train.optimizer import SGD, AdamW, Constant, Cosine, Linear, RMSprop, StepDecay
from depthwise.train.recipe import Recipe
from depthwise.train.run import Silent, train

NETWORKS: dict[str, dict[str, Any]] = {
    "xception": {"stem": "small", "width": 0.1, "entry": (128, 256), "middle": (256,), "exit": (256, 512)},
    "mobilenet_v1": {"stem": "small", "width": 0.125},
    "separable_vgg": {"stem": "small", "width": 0.0625},
}
"""Small ones for the faults: a run takes some seconds."""


@dataclass(frozen=True, eq=False)
class Start:
    """What a run begins with."""

    recipe: Recipe
    module: nn.Module
    dataset: Dataset


def recipe(seed: int, **changes: Any) -> Recipe:
    """A sound recipe for digits, with `changes`: 264 updates."""
    model = list(NETWORKS)[seed % len(NETWORKS)]
    sound = Recipe(
        name="doctor",
        model=model,
        model_args=NETWORKS[model],
        preprocess=Preprocess((16, 16), crop_fraction=1.0),
        augment=Augment(crop="shift", shift=1, flip=False),
        epochs=12,
        batch_size=64,
        optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=Linear(warmup=1),
        norm_momentum=0.1,
        precision="float32",
        eval_every=3,
        seed=seed,
    )
    return replace(sound, **changes)


def start(
    settled: Recipe, dataset: Dataset | None = None, change: Callable[[nn.Module], None] | None = None
) -> Start:
    """A run by `settled` on digits, or `dataset`, its network changed by `change`."""
    dataset = dataset or open_dataset("digits")
    module = network_for(settled, dataset, None, lambda _: None)
    if change:
        change(module)
    return Start(settled, module, dataset)


def changed(dataset: Dataset, change: Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Dataset:
    """`dataset` with other images and labels in each part."""
    splits: dict[str, Any] = {}
    for part, split in dataset.splits.items():
        assert isinstance(split, ArraySplit)
        assert isinstance(split.labels, Tensor)
        splits[part] = ArraySplit(*change(part, split.images, split.labels))
    return replace(dataset, splits=splits)


def shuffled(seed: int, parts: Sequence[str] = ("train", "val", "test")) -> Dataset:
    generator = torch.Generator().manual_seed(seed)

    def shuffle(part: str, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if part not in parts:
            return images, labels
        return images, labels[torch.randperm(len(labels), generator=generator)]

    return changed(open_dataset("digits"), shuffle)


def several(seed: int) -> Dataset:
    """Digits as label sets: of each its number, and whether it is even."""
    dataset = open_dataset("digits")
    splits: dict[str, Any] = {}
    for part, split in dataset.splits.items():
        assert isinstance(split, ArraySplit)
        rows = [[label, 10] if label % 2 == 0 else [label] for label in split.labels.tolist()]  # type: ignore[union-attr]
        splits[part] = ArraySplit(split.images, LabelLists.of(rows))
    return replace(dataset, classes=(*dataset.classes, "even"), splits=splits, task="multi-label")


def plain_stack(depth: int) -> nn.Module:
    """Convolutions and ReLUs, one after another, as PyTorch starts them."""
    parts = []
    for i in range(depth):
        parts += [nn.Conv2d(1 if i == 0 else 16, 16, 3, 2 if i in (8, 16) else 1, 1), nn.ReLU()]
    stages = [
        Stage(f"part{i}", nn.Sequential(*parts[2 * i : 2 * i + 16]), 16, 2 ** (i // 8))
        for i in range(0, depth, 8)
    ]
    return Network(stages, num_classes=10, in_channels=1, input_size=16, min_size=8, init=lambda _: None)


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]


def dead(module: nn.Module) -> None:
    for norm in norms(module):
        nn.init.constant_(norm.bias, -10.0)


def frozen(module: nn.Module) -> None:
    module.requires_grad_(False)
    module.classifier.bias.requires_grad_(True)  # an optimiser takes no empty list


def deep(seed: int) -> Start:
    torch.manual_seed(seed)
    return Start(recipe(seed), plain_stack(24), open_dataset("digits"))


FAULTS: dict[str, tuple[str, Callable[[int], Start]]] = {
    "learning rate too high: SGD, 100": (
        "rate-too-high",
        lambda seed: start(recipe(seed, optimizer=SGD(lr=100.0))),
    ),
    "learning rate too high: AdamW, 3": (
        "rate-too-high",
        lambda seed: start(recipe(seed, optimizer=AdamW(lr=3.0))),
    ),
    "learning rate too high: MobileNet V2, SGD, 0.5": (
        "rate-too-high",
        lambda seed: start(
            recipe(
                seed,
                model="mobilenet_v2",
                model_args={"stem": "small", "width": 0.125},
                optimizer=SGD(lr=0.5),
            )
        ),
    ),
    "learning rate too low: SGD, 1e-7": (
        "rate-too-low",
        lambda seed: start(recipe(seed, optimizer=SGD(lr=1e-7))),
    ),
    "learning rate too low: a warm-up of 100,000 epochs": (
        "rate-too-low",
        lambda seed: start(recipe(seed, schedule=Constant(warmup=1e5))),
    ),
    "learning rate 0": ("nothing-trained", lambda seed: start(recipe(seed, optimizer=SGD(lr=0.0)))),
    "a deep plain stack without normalisation": ("lost-signal", deep),
    "dead ReLUs": ("dead-relus", lambda seed: start(recipe(seed), change=dead)),
    "shuffled labels": ("shuffled-labels", lambda seed: start(recipe(seed), shuffled(seed))),
    "shuffled labels, learned by heart": (
        "shuffled-labels",
        lambda seed: start(
            recipe(seed, epochs=120, augment=Augment(crop="none", flip=False), eval_every=10),
            changed(shuffled(seed), lambda part, x, y: (x[:150], y[:150]) if part == "train" else (x, y)),
        ),
    ),
    "constant images": (
        "constant-inputs",
        lambda seed: start(
            recipe(seed), changed(open_dataset("digits"), lambda _, x, y: (torch.zeros_like(x), y))
        ),
    ),
    "one class": (
        "one-class",
        lambda seed: start(
            recipe(seed), changed(open_dataset("digits"), lambda _, x, y: (x, torch.full_like(y, 3)))
        ),
    ),
    "everything frozen": ("nothing-trained", lambda seed: start(recipe(seed), change=frozen)),
    "mean and std of 0 to 255": (
        "unnormalised-inputs",
        lambda seed: start(recipe(seed, preprocess=Preprocess((16, 16), 1, 1.0, mean=(127.5,), std=(60.0,)))),
    ),
    "no mean, std of 1/255": (
        "unnormalised-inputs",
        lambda seed: start(
            recipe(seed, preprocess=Preprocess((16, 16), 1, 1.0, mean=(0.0,), std=(1 / 255,)))
        ),
    ),
    "frozen batch norm statistics": (
        "norm-statistics",
        lambda seed: start(recipe(seed, norm_momentum=1e-6)),
    ),
    "loss weight of 0 for labels that are present": (
        "loss-weights",
        lambda seed: start(recipe(seed, loss=Focal(alpha=0.0)), several(seed)),
    ),
    "loss weight of 0 for labels that are absent": (
        "loss-weights",
        lambda seed: start(recipe(seed, loss=Focal(alpha=1.0)), several(seed)),
    ),
    "averaging too slow": (
        "slow-average",
        lambda seed: start(
            recipe(
                seed, averaging=0.9999, optimizer=SGD(lr=0.01), schedule=Constant(), epochs=3, eval_every=1
            )
        ),
    ),
    "the labels of the val part shuffled": (
        "other-val",
        lambda seed: start(recipe(seed), shuffled(seed, ("test",))),
    ),
}
"""By name: the cause that should be named, and the run."""


def healthy(
    seed: int,
    model: str = "xception",
    arguments: dict[str, Any] | None = None,
    dataset: Dataset | None = None,
    **changes: Any,
) -> Start:
    """A sound run of a narrow network."""
    given = {"stem": "small", "width": 0.125} if arguments is None else arguments
    own = {key: value for key, value in given.items() if key in model_arguments(model)}
    own = NETWORKS.get(model, own) if arguments is None else own
    return start(replace(recipe(seed), model=model, model_args=own, **changes), dataset)


def fashion(images: int = 3000) -> Dataset:
    """The first images of Fashion-MNIST; of its test part a tenth as many."""
    return changed(
        open_dataset("fashion-mnist"),
        lambda part, x, y: (
            x[: images // (10 if part == "test" else 1)],
            y[: images // (10 if part == "test" else 1)],
        ),
    )


def noisy(seed: int, share: float) -> Dataset:
    """Digits of which a share of the training images has another's label."""
    generator = torch.Generator().manual_seed(seed)

    def change(part: str, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        wrong = torch.rand(len(labels), generator=generator) < (share if part == "train" else 0)
        return images, torch.where(wrong, labels[torch.randperm(len(labels), generator=generator)], labels)

    return changed(open_dataset("digits"), change)


def eights() -> Dataset:
    """Is it an 8? A tenth of the digits are."""
    dataset = changed(open_dataset("digits"), lambda _, x, y: (x, (y == 8).long()))
    return replace(dataset, classes=("no", "yes"))


def tuned(seed: int) -> Start:
    """The classifier alone, on a network that has learned to tell clothes apart."""
    first = healthy(seed, dataset=fashion(), preprocess=Preprocess((16, 16), crop_fraction=1.0), epochs=3)
    trainer = Trainer(first.recipe, first.module, first.dataset, device=torch.device("cpu"))
    for _ in range(trainer.total_steps):
        trainer.update()
    first.module.replace_classifier(10)
    return Start(
        recipe(seed, model="xception", model_args=NETWORKS["xception"], freeze=True),
        first.module,
        open_dataset("digits"),
    )


CROPS = Preprocess((28, 28), crop_fraction=1.0)
SOUND: dict[str, Callable[[int], Start]] = {
    "Xception, averaged, label smoothing": lambda s: healthy(s, averaging=0.9, label_smoothing=0.1),
    "MobileNet V1": lambda s: healthy(s, "mobilenet_v1"),
    "MobileNet V2, cosine": lambda s: healthy(
        s, "mobilenet_v2", optimizer=AdamW(lr=3e-3), schedule=Cosine(warmup=1)
    ),
    "VGG-like separable, step decay": lambda s: healthy(s, "separable_vgg", schedule=StepDecay(0.9, 1.0)),
    "ResNet-50": lambda s: healthy(s, "resnet50"),
    "SE-ResNet-50": lambda s: healthy(s, "se_resnet50", epochs=8),
    "Inception V1": lambda s: healthy(s, "inception_v1", optimizer=SGD(lr=0.05, nesterov=True)),
    "Inception V3, its auxiliary tower": lambda s: healthy(
        s,
        "inception_v3",
        {"stem": "small", "width": 0.125, "aux": True},
        optimizer=SGD(lr=0.05, nesterov=True),
        epochs=8,
    ),
    "VGG-16 without batch norm": lambda s: healthy(
        s, "vgg16", optimizer=SGD(lr=0.02, nesterov=True), epochs=24
    ),
    "NIN, batch norm nowhere": lambda s: healthy(s, "nin", optimizer=SGD(lr=0.02, nesterov=True), epochs=24),
    "AdamW": lambda s: healthy(s, optimizer=AdamW(lr=2e-3), schedule=Constant()),
    "RMSprop": lambda s: healthy(s, optimizer=RMSprop(lr=0.01), schedule=StepDecay()),
    "mixup and cutmix": lambda s: healthy(
        s, augment=Augment(crop="shift", shift=1, flip=False, mixup=0.2, cutmix=1.0)
    ),
    "label sets, cross-entropy": lambda s: healthy(s, dataset=several(s)),
    "label sets, asymmetric": lambda s: healthy(s, dataset=several(s), loss=Asymmetric()),
    "Fashion-MNIST, balanced, averaged": lambda s: healthy(
        s,
        dataset=fashion(),
        preprocess=CROPS,
        class_weights="balanced",
        averaging=0.9,
        epochs=4,
        eval_every=1,
    ),
    "Fashion-MNIST, MobileNet V2, AdamW, bfloat16": lambda s: healthy(
        s,
        "mobilenet_v2",
        dataset=fashion(),
        preprocess=CROPS,
        optimizer=AdamW(lr=3e-3),
        precision="bfloat16",
        epochs=4,
    ),
    "a tenth of the images of the other class": lambda s: healthy(s, dataset=eights()),
    "a third of the labels wrong": lambda s: healthy(s, dataset=noisy(s, 0.33)),
    "the classifier of a trained network": tuned,
}
"""By name: runs about which nothing is to be said."""


class Heard(Silent):
    """Keeps what is said on the way."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def judged(begin: Start, out: Path) -> dict[str, Any]:
    """What the doctor makes of a run: the causes that it names when the run has ended, those that `train` named on the
    way, and after which update. A run that is in `out`, from an earlier call, is not trained again."""
    heard = Heard()
    if trained := not (out / "run.json").exists():
        with suppress(DepthwiseError):  # the loss is not finite any more
            train(begin.recipe, begin.module, begin.dataset, out, watcher=heard)
    diagnosis = examine_run(out)
    case = diagnosis.case
    said_after: dict[str, int] = {}
    for place, line in enumerate(case.lines, 1):
        if line["kind"] == "health" or place == len(case.lines):
            for finding in diagnose(replace(case, lines=case.lines[:place])):
                assert not trained or finding.cause in said_after or finding.sentence in heard.said
                said_after.setdefault(finding.cause, line["step"])
    return {
        "causes": [finding.cause for finding in diagnosis.findings],
        "sentences": [finding.sentence.replace(str(out), "RUN") for finding in diagnosis.findings],
        "said_after": said_after,
        "updates": case.total_steps,
        "evaluated": case.scores[-1][1] if case.scores else None,
        "seconds": round(case.lines[-1]["seconds"], 1),
    }


def score(seeds: Sequence[int], only: Sequence[str], keep: Path) -> dict[str, Any]:
    """All faults in all `seeds`, and the sound runs, each in one of them, of those whose names hold one of `only`."""
    runs: list[dict[str, Any]] = []
    planted = [(name, cause, begin, seed) for name, (cause, begin) in FAULTS.items() for seed in seeds]
    sound = [(name, "", begin, seeds[i % len(seeds)]) for i, (name, begin) in enumerate(SOUND.items())]
    for name, cause, begin, seed in (*planted, *sound):
        if only and not any(part in name for part in only):
            continue
        found = judged(begin(seed), keep / re.sub(r"\W+", "-", f"{name} {seed}"))
        right = found["causes"][:1] == [cause] if cause else not found["said_after"]
        runs.append({"run": name, "seed": seed, "cause": cause, "right": right, **found})
        print("right" if right else "WRONG", name, seed, found["causes"], file=sys.stderr)
    faults, healthy = ([run for run in runs if bool(run["cause"]) is planted] for planted in (True, False))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seeds": [*seeds],
        "detected": sum(run["right"] for run in faults),
        "planted": len(faults),
        "silent": sum(run["right"] for run in healthy),
        "sound": len(healthy),
        "seconds": round(sum(run["seconds"] for run in runs)),
        "runs": runs,
    }


def table(result: dict[str, Any]) -> Table:
    """A line a fault, and one for the sound runs."""
    shown = Table("planted", "cause", "named", "after updates")
    names = dict.fromkeys(run["run"] for run in result["runs"] if run["cause"])
    for name in names:
        runs = [run for run in result["runs"] if run["run"] == name]
        cause = runs[0]["cause"]
        after = ", ".join(f"{run['said_after'].get(cause, '-')} of {run['updates']}" for run in runs)
        shown.add_row(name, cause, f"{sum(run['right'] for run in runs)} of {len(runs)}", after)
    shown.add_row("nothing", "", f"silent: {result['silent']} of {result['sound']}", "")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[], help="parts of names of faults and sound runs")
    parser.add_argument("--keep", type=Path, help="a folder for the runs; those in it are judged again")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = score(arguments.seeds, arguments.only, arguments.keep or Path(folder))
    text = json.dumps(result, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    if arguments.json:
        print(text)
        return
    Console().print(table(result))
    print(
        f"{result['detected']} of {result['planted']} planted faults are named first, "
        f"{result['silent']} of {result['sound']} sound runs are passed over in silence, in {result['seconds']} s"
    )


if __name__ == "__main__":
    main()
