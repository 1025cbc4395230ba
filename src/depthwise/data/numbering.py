"""A data set as a network takes it: its numbers for the classes, or those of the run that goes on; its white level."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from depthwise.data.dataset import ArraySplit, Dataset, FileSplit, Reader, Split, all_targets
from depthwise.data.names import composed, some
from depthwise.errors import DepthwiseError


@dataclass(frozen=True, eq=False)
class Chosen:
    """A Split of some images of others: `places` are (number of the split, index in it)."""

    splits: tuple[Split, ...]
    places: tuple[tuple[int, int], ...]
    labels: Tensor

    @property
    def blocks(self) -> tuple[int, ...]:
        return (len(self),)

    @property
    def reader(self) -> Reader:
        return partial(_read, tuple(split.reader for split in self.splits))

    def __len__(self) -> int:
        return len(self.places)

    def key(self, index: int) -> tuple[int, Any]:
        number, place = self.places[index]
        return number, self.splits[number].key(place)

    def targets(self, indices: Tensor) -> Tensor:
        return self.labels[indices]

    def image(self, index: int) -> Tensor:
        number, place = self.places[index]
        return self.splits[number].image(place)

    def name(self, index: int) -> str:
        number, place = self.places[index]
        return self.splits[number].name(place)


def _read(readers: Sequence[Reader], key: tuple[int, Any]) -> Tensor:
    number, of_split = key
    return readers[number](of_split)


def numbers(classes: Sequence[str], known: Sequence[str]) -> Tensor:
    """int64 [len(classes)]: the place of each among `known`, or -1."""
    places = {composed(label): k for k, label in reversed(list(enumerate(known)))}
    return torch.tensor([places.get(composed(label), -1) for label in classes], dtype=torch.int64)


def numbered(split: Split, numbers: Tensor) -> Split:
    """`split` with other numbers for its classes, without the images whose number is -1."""
    if torch.equal(numbers, torch.arange(len(numbers))):
        return split
    labels = numbers[all_targets(split)]
    if bool((labels >= 0).all()) and isinstance(split, ArraySplit | FileSplit | Chosen):
        return replace(split, labels=labels)
    kept = (labels >= 0).nonzero()[:, 0]
    return Chosen((split,), tuple((0, k) for k in kept.tolist()), labels[kept])


def joined(splits: Sequence[Split]) -> Split:
    """The images of all of them, one split after the other."""
    if len(splits) == 1:
        return splits[0]
    places = tuple((number, k) for number, split in enumerate(splits) for k in range(len(split)))
    return Chosen(tuple(splits), places, torch.cat([all_targets(split) for split in splits]))


def with_white_level(split: Split, white_level: int) -> Split:
    """The same split, whose files of 16 bits are white at `white_level`."""
    if isinstance(split, Chosen):
        return replace(split, splits=tuple(with_white_level(part, white_level) for part in split.splits))
    if not isinstance(split, FileSplit) or split.decoding.white_level == white_level:
        return split
    return replace(split, decoding=replace(split.decoding, white_level=white_level))


def as_before(dataset: Dataset, before: object) -> Dataset:
    """`dataset` as the run described it that goes on with it: the same classes in that order and spelling.

    before: "data" of its run.json, which may be of an older version. Raises DepthwiseError for other classes.
    """
    known = before if isinstance(before, dict) else {}
    if known.get("fingerprint") in dataset.fingerprints:
        dataset = replace(dataset, fingerprint=known["fingerprint"])
    classes = known.get("classes")
    if not isinstance(classes, list) or classes == list(dataset.classes):
        return dataset
    if not all(isinstance(label, str) for label in classes):
        return dataset
    if sorted(map(composed, classes)) != sorted(map(composed, dataset.classes)):
        raise DepthwiseError(
            f"the run has {_counted(classes)}, and {dataset.name} now has {_counted(dataset.classes)}: put the folders "
            f"back as they were, or start a new run"
        )
    places = numbers(dataset.classes, classes)
    splits = {part: _sorted(numbered(split, places)) for part, split in dataset.splits.items()}
    return replace(dataset, classes=tuple(classes), splits=splits)


def _counted(classes: Sequence[str]) -> str:
    return f"{len(classes):,} classes ({some(classes)})"


def _sorted(split: Split) -> Split:
    """`split` by its classes' numbers, each class in its order."""
    labels = all_targets(split)
    order = labels.argsort(stable=True)
    return Chosen((split,), tuple((0, k) for k in order.tolist()), labels[order])
