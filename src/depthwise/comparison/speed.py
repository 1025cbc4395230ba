"""How long a training step and an answer of each arm take, in turns on this machine."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch

from depthwise import native
from depthwise.comparison.experiment import Experiment, Speed
from depthwise.comparison.setting import Setting
from depthwise.data.dataset import ArraySplit, Dataset, Split
from depthwise.modes import in_mode
from depthwise.timing import REST, Ratio, in_turns, ratio, seconds
from depthwise.train.loop import Trainer
from depthwise.train.recipe import Recipe
from depthwise.train.run import choose_device, choose_precision

Kind = str


@dataclass(frozen=True)
class Taken:
    """Seconds of each round of each arm, of "training" (a step of `batch` images) and "inference" (an answer)."""

    batch: int
    threads: int
    precision: str
    seconds: Mapping[Kind, Mapping[str, tuple[float, ...]]]

    def milliseconds(self, kind: Kind, arm: str) -> float:
        """The median for one image."""
        return 1000 * median(self.seconds[kind][arm]) / self.batch

    def times_as_fast(self, kind: Kind, arm: str, as_arm: str) -> Ratio:
        """How many times as fast `arm` is as `as_arm`, round by round."""
        return ratio(self.seconds[kind][as_arm], self.seconds[kind][arm])

    def to_json(self) -> dict[str, Any]:
        """As speed.json keeps it."""
        seconds = {
            kind: {arm: list(each) for arm, each in arms.items()} for kind, arms in self.seconds.items()
        }
        return {
            "batch": self.batch,
            "threads": self.threads,
            "precision": self.precision,
            "seconds": seconds,
            "milliseconds_an_image": {
                kind: {arm: self.milliseconds(kind, arm) for arm in arms} for kind, arms in seconds.items()
            },
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Taken":
        seconds = {
            kind: {arm: tuple(each) for arm, each in arms.items()} for kind, arms in values["seconds"].items()
        }
        return Taken(values["batch"], values["threads"], values["precision"], seconds)


def take(
    experiment: Experiment, speed: Speed, setting: Setting, device: str, progress: Callable[[str, int], None]
) -> Taken:
    """Time all arms as `speed` says, with the threads that PyTorch is set to; `progress` hears of kind and round."""
    native.tune_allocator()
    on = choose_device(device)
    precision = choose_precision(experiment.arms[0].recipe.precision, on)
    times: dict[Kind, dict[str, tuple[float, ...]]] = {}
    with ExitStack() as stack:
        runs: dict[Kind, dict[str, Callable[[], Any]]] = {"training": {}, "inference": {}}
        for arm in experiment.arms:
            trainer = trainer_of(arm.recipe, setting, on, precision, speed.batch)
            stack.callback(trainer.batches.close)
            runs["training"][arm.name] = trainer.update
            runs["inference"][arm.name] = _answer(trainer, setting, speed.batch)
        asked = {"training": speed.training, "inference": speed.inference}
        for kind in (kind for kind in runs if asked[kind]):
            for run in runs[kind].values():  # which brings in weights and kernels
                run()
            taken = in_turns(
                {name: partial(seconds, run) for name, run in runs[kind].items()},
                speed.rounds,
                rest=REST,
                progress=partial(progress, kind),
            )
            times[kind] = {name: tuple(each) for name, each in taken.items()}
    return Taken(speed.batch, torch.get_num_threads(), precision, times)


def trainer_of(recipe: Recipe, setting: Setting, device: torch.device, precision: str, batch: int) -> Trainer:
    """What updates the recipe's network, with images that are made up, of the set's shape and number of classes."""
    torch.manual_seed(recipe.seed)
    recipe = replace(recipe, batch_size=batch, precision=precision)
    return Trainer(recipe, setting.build(recipe), made_up(recipe, setting, 4 * batch), device=device)


def made_up(recipe: Recipe, setting: Setting, number: int) -> Dataset:
    """So many images of noise, as large as the set's own."""
    traits, generator = setting.traits, torch.Generator().manual_seed(0)
    shape = (number, setting.channels, traits.height, traits.width)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(traits.num_classes, (number,), generator=generator)
    classes = tuple(map(str, range(traits.num_classes)))
    parts: dict[str, Split] = {part: ArraySplit(images, labels) for part in ("train", "test")}
    return Dataset("made up", classes, parts, setting.channels, "made-up", "made up")


def _answer(trainer: Trainer, setting: Setting, batch: int) -> Callable[[], Any]:
    """Its network's answer for a batch, in evaluation mode."""
    shape = trainer.recipe.preprocess.for_channels(setting.channels).shape
    x = torch.randn(batch, *shape, device=trainer.device).contiguous(memory_format=torch.channels_last)
    half = trainer.recipe.precision == "bfloat16"

    def run() -> None:
        with (
            in_mode(trainer.module, training=False),
            torch.inference_mode(),
            torch.autocast(trainer.device.type, torch.bfloat16, enabled=half),
        ):
            trainer.module(x)

    return run
