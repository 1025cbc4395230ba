"""A run as the doctor sees it: its recipe, its data's counts and the lines of its metrics.jsonl, nothing else.

So a run is judged alike while it goes and from its files afterwards.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from depthwise.evaluate.meters import Headline

Line = Mapping[str, Any]

LEAST_UPDATES, MOST_UPDATES, LEAST_SHARE = 100, 1000, 0.25
"""After the warm-up a run may stay at chance for this share of its updates, and for this many at least and at most."""

LATE_SHARE, LATEST = 0.5, 5000
"""And for this share, and up to so many, where nothing but the loss speaks against it: plateaus are left late."""

IMAGES_A_CLASS = 100
"""And until it has seen so many images of each class on average."""

SOON = 30
"""Updates, and images of each class, after which what no run recovers from is named, and any run that has ended."""

NEAR_CHANCE = 0.97
"""A loss of less than this share of that of guessing is better than guessing."""

DEVIATIONS, MARGIN = 3.0, 0.5
"""An accuracy is better than guessing if it is so many standard deviations above it, and by this share of rate * (1 -
rate): the answers of a network that knows nothing go with the classes by luck, and are no independent draws."""


@dataclass(frozen=True)
class Case:
    """root: the run's directory. recipe: as `Recipe.to_json` has it. counts: the images of each class in the training
    part, of num_images; task: its name. headline: the number that the task counts by. lines: of metrics.jsonl."""

    root: Path
    recipe: Mapping[str, Any]
    counts: Sequence[int]
    task: str
    headline: Headline
    lines: Sequence[Line]

    @cached_property
    def trained(self) -> list[Line]:
        """The lines about updates."""
        return [line for line in self.lines if line["kind"] == "train"]

    @cached_property
    def readings(self) -> list[Line]:
        """The lines with signals."""
        return [line for line in self.lines if line["kind"] == "health" and "lost" not in line]

    @cached_property
    def lost(self) -> int | None:
        """The step after which the loss was not finite any more, if the run ended so."""
        last = self.lines[-1] if self.lines else {}
        return last["step"] if last.get("lost") else None

    @cached_property
    def scores(self) -> list[tuple[int, float]]:
        """The step and the headline number of each evaluation of the raw weights."""
        return [
            (line["step"], line[self.headline.key])
            for line in self.lines
            if line["kind"] == "eval" and line["weights"] == "raw" and line.get(self.headline.key) is not None
        ]

    def signal(self, name: str, reading: int = -1) -> float | None:
        """A signal of a reading, by default the last; None where there is none."""
        if not -len(self.readings) <= reading < len(self.readings):
            return None
        value: float | None = self.readings[reading].get(name)
        return value

    def signals(self, name: str, first: int = 0) -> list[float]:
        """A signal of all readings from number `first` on, without those where there is none."""
        return [value for reading in self.readings[first:] if (value := reading.get(name)) is not None]

    @cached_property
    def step(self) -> int:
        """Updates done."""
        return max((line["step"] for line in self.lines), default=0)

    @cached_property
    def steps_per_epoch(self) -> float:
        """Updates an epoch; 1 as long as there is no line."""
        line = self.lines[-1] if self.lines else {}
        return line["step"] / line["epoch"] if line.get("epoch") else 1.0

    @cached_property
    def total_steps(self) -> int:
        """Updates of the whole run; without signals to within rounding."""
        for line in reversed(self.lines):
            if total := line.get("total_steps"):
                return int(total)
        if self.recipe["samples"] and self.trained:
            last = self.trained[-1]
            return max(1, round(self.recipe["samples"] * last["step"] / max(1, last["samples"])))
        return max(1, round(self.recipe["epochs"] * self.steps_per_epoch))

    @property
    def ended(self) -> bool:
        """Whether the last update is done."""
        return self.step >= self.total_steps

    @cached_property
    def warmup_steps(self) -> float:
        """Updates of the warm-up; one that is most of the run is no warm-up any more."""
        schedule, last = self.recipe["schedule"], self.trained[-1] if self.trained else {}
        samples = last["samples"] / last["step"] if last else 1.0
        unit = {"epochs": self.steps_per_epoch, "steps": 1.0, "samples": 1 / samples}[schedule["unit"]]
        return min(schedule["warmup"] * unit, self.total_steps / 4)

    def _past(self, updates: float, images: int) -> bool:
        """Whether it has done so many updates after the warm-up, and seen so many images of each class."""
        if not self.trained:
            return False
        last = self.trained[-1]
        enough = last["samples"] >= images * len(self.counts)
        return last["step"] >= self.warmup_steps + updates and enough

    @cached_property
    def settled(self) -> bool:
        """Whether a run that learns should have left chance by now."""
        patience = min(MOST_UPDATES, max(LEAST_UPDATES, LEAST_SHARE * self.total_steps))
        return self._past(patience, IMAGES_A_CLASS)

    @cached_property
    def late(self) -> bool:
        """Whether a run that learns should have left even a long plateau by now."""
        patience = min(LATEST, LATE_SHARE * self.total_steps)
        return self.settled and (self.ended or self._past(patience, IMAGES_A_CLASS))

    @cached_property
    def recent(self) -> list[Line]:
        """The lines of the last third of the updates done."""
        return [line for line in self.trained if line["step"] > self.trained[-1]["step"] * 2 / 3]

    @cached_property
    def _weights(self) -> list[int]:
        """Images of each of the `recent` lines."""
        start = self.trained[-len(self.recent) - 1]["samples"] if len(self.recent) < len(self.trained) else 0
        ends = [start, *(line["samples"] for line in self.recent)]
        return [after - before for before, after in pairwise(ends)]

    @property
    def recent_images(self) -> int:
        """How many images the recent updates have seen."""
        return sum(self._weights)

    def mean(self, name: str) -> float:
        """Of the recent updates, an image counting as much as any other."""
        pairs = [
            (line[name], weight)
            for line, weight in zip(self.recent, self._weights, strict=True)
            if line.get(name) is not None
        ]
        return sum(value * weight for value, weight in pairs) / max(1, sum(weight for _, weight in pairs))

    @cached_property
    def base_rate(self) -> float:
        """The accuracy of who always names the most frequent class."""
        return max(self.counts, default=0) / max(1, self.num_images)

    @cached_property
    def num_images(self) -> int:
        """Of the training part: where each has one class, the sum of the counts."""
        if self.task == "single-label":
            return sum(self.counts)
        last = self.trained[-1] if self.trained else {}
        return round(last["samples"] / last["epoch"]) if last.get("epoch") else 0

    @cached_property
    def guess(self) -> float | None:
        """The loss of guessing the frequencies; None where it is not known."""
        if found := [
            reading["guess"] * (1 + (reading.get("towers") or 0))
            for reading in self.readings
            if reading.get("guess") is not None
        ]:
            return sum(found) / len(found)
        if self.task != "single-label" or not self.num_images:
            return None
        if self.recipe["class_weights"] == "balanced":
            return math.log(sum(count > 0 for count in self.counts))
        shares = [count / self.num_images for count in self.counts if count]
        return -sum(share * math.log(share) for share in shares)

    def above_chance(self, accuracy: float, images: float) -> bool:
        """Whether `accuracy` of so many images is more than guessing explains."""
        variance = self.base_rate * (1 - self.base_rate)
        images = max(1.0, min(images, self.num_images))
        return accuracy > self.base_rate + max(DEVIATIONS * math.sqrt(variance / images), MARGIN * variance)

    @cached_property
    def _guessing(self) -> bool:
        if not self.guess:
            return False
        return self.mean("loss") >= NEAR_CHANCE * self.guess and not self.above_chance(
            self.mean("accuracy"), self.recent_images
        )

    @cached_property
    def at_chance(self) -> bool:
        """Whether the training part is still answered no better than by guessing, though it should be by now, or is to
        the end."""
        return (self.settled or (self.ended and self._past(SOON, SOON))) and self._guessing

    @cached_property
    def soon_at_chance(self) -> bool:
        """The same of a run that may still be young."""
        return self._past(SOON, SOON) and self._guessing

    @cached_property
    def unmeasured(self) -> Line | None:
        """The last evaluation whose loss was not finite, though training's was."""
        measured = [line for line in self.lines if line["kind"] in ("eval", "test")]
        found = [line for line in measured if not math.isfinite(line.get("loss") or 0.0)]
        return found[-1] if found else None

    @property
    def times_guessing(self) -> float:
        """The recent loss over that of guessing; 0 where either is not known."""
        return self.mean("loss") / self.guess if self.guess and self.trained else 0.0

    def standing(self) -> str:
        """Where the loss is, and where it would be by guessing."""
        assert self.guess is not None
        classes, last = len(self.counts), self.trained[-1]["step"]
        uniform = self.task == "single-label" and abs(self.guess - math.log(classes)) < 0.01
        return (
            f"the loss is {self.mean('loss'):.3f} after {last:,} of {self.total_steps:,} updates, where guessing "
            f"gives {self.guess:.3f}{f' (ln {classes})' if uniform else ''}"
        )
