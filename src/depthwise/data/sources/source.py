"""What a source is: images as they lie somewhere, looked over, and not yet divided into parts and numbered."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from depthwise.data.dataset import BadImage, Dataset, Deep, Split
from depthwise.data.names import some
from depthwise.data.repeated import Placed
from depthwise.data.sources.facts import Fact, Facts
from depthwise.data.targets import in_chunks
from depthwise.errors import DepthwiseError

MAX_BAD_FRACTION = 0.01


class TooManyUnreadableError(DepthwiseError):
    """More of the images than allowed cannot be read; `bad` lists them, `rule` is for where that was seen.

    where: the set; command: what shows them all; num_bad: how many images `bad` stands for.
    """

    def __init__(
        self, where: str, command: str, bad: Sequence[BadImage], num_bad: int, total: int, max_bad: float
    ) -> None:
        over = f", over {max_bad:.0%}" if max_bad < 1 else ""
        otherwise = ", or leave them out of a training with --skip-bad" if num_bad < total else ""
        super().__init__(
            f"{num_bad} of {total} images in {where} cannot be read{over}: "
            f"{some(f'{image.path} ({image.reason})' for image in bad)}; "
            f"see them all with `{command}`, and mend or remove them{otherwise}"
        )
        self.bad = tuple(bad)
        self.rule = (
            f"over {max_bad:.0%} of the {total} images cannot be read, which stops a training: mend or remove them, or "
            "leave them out with --skip-bad"
        )


class Seen(NamedTuple):
    """A readable image: where it is, its sides in pixels, and its format and mode in words."""

    placed: Placed
    width: int
    height: int
    mode: str


def seen_in(facts: Mapping[str, Fact], placed: Iterable[tuple[str, tuple[str, ...], str]]) -> Iterator[Seen]:
    """Files, of which `placed` says part, classes and name, by what was found of them."""
    for part, classes, name in placed:
        fact = facts[name]
        what = Placed(part, classes, name, fact.sha256)
        yield Seen(what, fact.width, fact.height, f"{fact.format} {fact.mode}")


class Strays(NamedTuple):
    """What is no image of a data set, and sentences about it; see `Dataset`."""

    bad: tuple[BadImage, ...] = ()
    ignored: tuple[str, ...] = ()
    ignored_kinds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    deep: Deep | None = None

    @staticmethod
    def of(dataset: Dataset) -> "Strays":
        """Those that `dataset` names."""
        return Strays(dataset.bad, dataset.ignored, dataset.ignored_kinds, dataset.notes, dataset.deep)


class Source(Protocol):
    """Images that were looked over. `data/sources/open.py` knows which kind of source a name means."""

    @property
    def fingerprints(self) -> tuple[str, str]:
        """See `Dataset.fingerprints`."""

    @property
    def strays(self) -> Strays:
        """Of the images as they lie."""

    def dataset(self, *, seed: int = 0, max_bad: float = MAX_BAD_FRACTION, whole: bool = False) -> Dataset:
        """To be trained on: divided by `seed` if it is not yet. whole: to be measured, as it lies.

        Raises DepthwiseError: nothing to train on, or more than the fraction `max_bad` cannot be read.
        """

    def seen(self, dataset: Dataset | None) -> Iterator[Seen]:
        """The images in the parts and classes of `dataset`, which came from here; None: as they lie."""


@dataclass(frozen=True, eq=False)
class Ready:
    """A data set that somebody made, or a built-in one: it is divided, and its images are sound."""

    made: Dataset

    @property
    def fingerprints(self) -> tuple[str, str]:
        return self.made.fingerprints

    @property
    def strays(self) -> Strays:
        return Strays.of(self.made)

    def dataset(self, *, seed: int = 0, max_bad: float = MAX_BAD_FRACTION, whole: bool = False) -> Dataset:
        return self.made

    def seen(self, dataset: Dataset | None) -> Iterator[Seen]:
        for part, classes, index, split in members(self.made):
            pixels = split.image(index)
            content = hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()
            placed = Placed(part, classes, split.name(index), content)
            yield Seen(placed, pixels.shape[2], pixels.shape[1], "array")


def deep_of(facts: Facts) -> Deep | None:
    """Of the images with 16 bits a sample, if there are any."""
    deep = facts.rows[facts.known & (facts.rows["low"] >= 0)]
    return Deep(len(deep), int(deep["low"].min()), int(deep["high"].max())) if len(deep) else None


def members(dataset: Dataset) -> Iterator[tuple[str, tuple[str, ...], int, Split]]:
    """The part, the classes, and the place in a split of every image."""
    for part, split in dataset.splits.items():
        for start, targets in in_chunks(split):
            for place, target in enumerate(targets, start):
                yield part, shown(target, dataset.classes), place, split


def shown(target: Tensor, classes: Sequence[str]) -> tuple[str, ...]:
    """The classes of an image whose targets are the row `target`."""
    return tuple(classes[k] for k in target.reshape(-1).tolist() if k >= 0)


def names_of(dataset: Dataset) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """The part, the classes and the name of every image."""
    for part, classes, index, split in members(dataset):
        yield part, classes, split.name(index)
