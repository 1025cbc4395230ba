"""What the doctor tries on fresh weights if asked to: one batch learned by heart, and a range of learning rates.

Both take the run's own network, data and optimiser, and leave its files alone.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from depthwise.data.dataset import ArraySplit, Dataset
from depthwise.data.image import UnreadableImageError
from depthwise.data.numbering import as_before, with_white_level
from depthwise.data.spread import evenly
from depthwise.data.transform import Augment
from depthwise.errors import DepthwiseError
from depthwise.job import Job
from depthwise.ship.starting import network_for
from depthwise.train.loop import Trainer
from depthwise.train.optimizer import Constant
from depthwise.train.options import Options
from depthwise.train.recipe import Recipe
from depthwise.train.record import read_run
from depthwise.train.run import Silent, choose_device, choose_precision
from depthwise.words import number_of
from depthwise.writing import written_whole

BATCH, BATCH_UPDATES = 32, 300
"""Images that are to be learned by heart, and the updates for it: healthy networks take some dozens."""

LEARNED = 0.05
"""Of the first loss: what is left of it when a batch is known by heart."""

LOWEST, HIGHEST, RATES = 1e-6, 10.0, 100
"""Learning rates of the range test, one an update."""

SMOOTHING, DIVERGED, FALLS = 0.8, 4.0, 0.97
"""Of the moving mean of losses; the test ends at so many times the lowest; a rate is suggested if it falls so far."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """What a run in `root` was begun with."""

    recipe: Recipe
    dataset: Dataset
    workers: int
    device: torch.device

    @staticmethod
    def of(root: Path, workers: int, device: str) -> "Subject":
        """Opens the run's data again. Raises DepthwiseError if the run or the data cannot be opened."""
        run = read_run(root / "run.json")
        recipe, chosen = Recipe.from_json(run["recipe"]), choose_device(device)
        recipe = replace(recipe, precision=choose_precision(recipe.precision, chosen), compile=False)
        dataset = Job(out=root, options=Options(workers=workers)).open_data(run["data"], Silent())
        return Subject(recipe, as_before(dataset, run["data"]), workers, chosen)

    def trainer(self, recipe: Recipe, dataset: Dataset) -> Trainer:
        """A network with fresh weights on its way through `recipe`."""
        module = network_for(recipe, dataset, None, lambda _: None)
        return Trainer(recipe, module, dataset, device=self.device, workers=self.workers)


@dataclass(frozen=True)
class Overfit:
    """What came of learning a batch by heart: its images, the updates, the first and the last loss, the accuracy."""

    images: int
    updates: int
    first_loss: float
    loss: float
    accuracy: float
    learned: bool

    @property
    def sentence(self) -> str:
        """What it means."""
        batch, updates = number_of(self.images, "image"), number_of(self.updates, "update")
        losses = f"its loss went from {self.first_loss:.3f} to {self.loss:.3f}"
        if self.learned:
            return (
                f"a batch of {batch} was learned by heart in {updates}, {losses}: network, loss and optimizer work, so "
                f"look at the data, the augmentation and the length of the run"
            )
        return (
            f"a batch of {batch} was not learned by heart in {updates}, {losses}: the fault lies in the network, the "
            f"loss or the optimizer, not in the data; try another optimizer.lr first"
        )


def overfit(subject: Subject, tell: Tell) -> Overfit:
    """Train fresh weights on one batch, unchanged by augmentation, at the run's highest learning rate."""
    recipe = replace(
        subject.recipe,
        epochs=BATCH_UPDATES,
        samples=0,
        eval_every=BATCH_UPDATES,
        eval_unit="epochs",
        accumulate=1,
        batch_size=BATCH,
        augment=Augment(crop="none", flip=False),
        schedule=Constant(),
        averaging=0.0,
        keep="last",
        early_stop=0,
        label_smoothing=0.0,
        class_weights="none",
        preprocess=replace(subject.recipe.preprocess, crop_fraction=1.0, stretch=True),
    )
    dataset = _batch(subject)
    trainer = subject.trainer(recipe, dataset)
    losses: list[float] = []
    window = None
    while trainer.step < BATCH_UPDATES:
        trainer.update()
        window = trainer.window
        trainer.restart_window()
        losses.append(window.loss)
        tell(f"learning {number_of(len(dataset.splits['train']), 'image')} by heart, update {trainer.step}")
        if not math.isfinite(window.loss) or window.loss <= LEARNED * losses[0]:
            break
    assert window is not None
    images = len(dataset.splits["train"])
    learned = window.loss <= LEARNED * losses[0]
    return Overfit(images, trainer.step, losses[0], losses[-1], window.accuracy, learned)


def _batch(subject: Subject) -> Dataset:
    """A few of the training images, evenly spread, as the run's preprocessing makes them."""
    train = with_white_level(subject.dataset.splits["train"], subject.recipe.preprocess.white_level)
    preprocess = subject.recipe.preprocess.for_channels(subject.dataset.channels)
    images, kept = [], []
    for index in evenly(range(len(train)), BATCH):
        try:
            images.append(preprocess.pixels(train.image(index)))
            kept.append(index)
        except UnreadableImageError:
            continue
    if not images:
        raise DepthwiseError(
            f"none of {BATCH} training images can be read: see with depthwise data check which can"
        )
    split = ArraySplit(torch.stack(images), train.targets(torch.tensor(kept)))
    return replace(subject.dataset, splits={"train": split, "val": split})


@dataclass(frozen=True)
class RateRange:
    """The learning rates of a range test, the smoothed loss at each, and a rate to try; None if none is any good."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggested: float | None
    given: float

    @property
    def sentence(self) -> str:
        """What it means."""
        first, lowest = self.losses[0], min(self.losses)
        at = self.rates[self.losses.index(lowest)]
        if self.suggested is None:
            return (
                f"no learning rate from {LOWEST:g} to {self.rates[-1]:.2g} makes the loss fall, it went from "
                f"{first:.3f} to {lowest:.3f} at best: look at the data, or try --overfit"
            )
        return (
            f"the loss of fresh weights went from {first:.3f} to {lowest:.3f} at learning rate {at:.2g} while that "
            f"rose to {self.rates[-1]:.2g}: try a tenth, --set optimizer.lr={self.suggested:.1g} (the run has "
            f"{self.given:g})"
        )


def rate_range(subject: Subject, tell: Tell) -> RateRange:
    """Smith 2015 (arXiv 1506.01186), section 3.3: the rate rises with each update from far too low to far too high.

    A tenth of the rate at which the smoothed loss is lowest is suggested.
    """
    recipe = replace(subject.recipe, schedule=Constant(), averaging=0.0, keep="last", early_stop=0)
    trainer = subject.trainer(recipe, subject.dataset)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    try:
        for number in range(RATES):
            rate = LOWEST * (HIGHEST / LOWEST) ** (number / (RATES - 1))
            trainer.recipe = replace(recipe, optimizer=replace(recipe.optimizer, lr=rate))
            trainer.update()
            loss = trainer.window.loss
            trainer.restart_window()
            tell(f"learning rate {rate:.2g}, {number + 1} of {RATES}")
            if not math.isfinite(loss):
                break
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            rates.append(rate)
            losses.append(mean / (1 - SMOOTHING ** (number + 1)))
            if losses[-1] > DIVERGED * min(losses):
                break
    finally:
        trainer.batches.close()
    if not losses:
        raise DepthwiseError("the loss of fresh weights is not finite: look at the inputs' mean and std")
    lowest = min(losses)
    suggested = rates[losses.index(lowest)] / 10 if lowest < FALLS * losses[0] else None
    return RateRange(tuple(rates), tuple(losses), suggested, recipe.optimizer.lr)


def plot(found: RateRange, path: Path) -> None:
    """The loss by learning rate, as an SVG or a PNG by the name's ending. Raises what `written_whole` does."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes: Any = canvas.add_subplot()
    axes.plot(found.rates, found.losses, color="#20618f")
    axes.set_xscale("log")
    highest = max(found.losses[: max(1, found.losses.index(min(found.losses)))])
    axes.set_ylim(top=min(max(found.losses), 1.5 * highest))
    marks = {"suggested": (found.suggested, "-"), "the run's": (found.given, ":")}
    for name, (rate, style) in marks.items():
        if rate:
            axes.axvline(rate, color="#c0751a", linestyle=style, label=f"{name}, {rate:.1g}")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss, smoothed")
    axes.legend(frameon=False)
    file = io.BytesIO()
    canvas.savefig(file, format=path.suffix.lower().removeprefix("."))
    with written_whole(path) as whole:
        whole.write(file.getvalue())
