"""What a source is: images as they lie somewhere, looked over, and not yet divided into parts and numbered."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from depthwise.data.dataset import BadImage, Dataset, Deep, Split, all_targets
from depthwise.data.repeated import Placed

MAX_BAD_FRACTION = 0.01


class Seen(NamedTuple):
    """A readable image: where it is, its sides in pixels, and its format and mode in words."""

    placed: Placed
    width: int
    height: int
    mode: str


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
        for part, label, index, split in members(self.made):
            pixels = split.image(index)
            content = hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()
            placed = Placed(part, label, split.name(index), content)
            yield Seen(placed, pixels.shape[2], pixels.shape[1], "array")


def members(dataset: Dataset) -> Iterator[tuple[str, str, int, Split]]:
    """The part, the class, and the place in a split of every image."""
    for part, split in dataset.splits.items():
        for index, label in enumerate(all_targets(split).tolist()):
            yield part, dataset.classes[label], index, split
