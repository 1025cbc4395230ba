"""A data set as a network takes it: its numbers for the classes, or those of the run that goes on; its white level."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from depthwise.data.dataset import (
    ArraySplit,
    Dataset,
    FromFiles,
    Reader,
    Split,
    all_targets,
    encoded,
    undecoded,
)
from depthwise.data.image import File
from depthwise.data.names import composed, some
from depthwise.data.targets import gathered, in_chunks, renumbered
from depthwise.errors import DepthwiseError


@dataclass(frozen=True, eq=False)
class Chosen:
    """A Split of some images of others. places: int64 [n, 2], the number of the split and the index in it."""

    splits: tuple[Split, ...]
    places: Tensor

    @property
    def blocks(self) -> tuple[int, ...]:
        return (len(self),)

    @property
    def reader(self) -> Reader:
        return _OneOf(tuple(split.reader for split in self.splits))

    def __len__(self) -> int:
        return len(self.places)

    def key(self, index: int) -> tuple[int, Any]:
        number, place = self.places[index].tolist()
        return number, self.splits[number].key(place)

    def targets(self, indices: Tensor) -> Tensor:
        numbers, places = self.places[indices].T
        return gathered(numbers, places, lambda number, inside: self.splits[number].targets(inside))

    def image(self, index: int) -> Tensor:
        number, place = self.places[index].tolist()
        return self.splits[number].image(place)

    def name(self, index: int) -> str:
        number, place = self.places[index].tolist()
        return self.splits[number].name(place)

    def encoded(self, index: int) -> bytes:
        number, place = self.places[index].tolist()
        return encoded(self.splits[number], place)

    def with_white_level(self, white_level: int) -> "Chosen":
        return replace(self, splits=tuple(with_white_level(part, white_level) for part in self.splits))


@dataclass(frozen=True)
class _OneOf:
    """A Reader; a key is the number of one of `readers`, and its key."""

    readers: tuple[Reader, ...]

    def __call__(self, key: tuple[int, Any]) -> Tensor:
        number, of_split = key
        return self.readers[number](of_split)

    def file(self, key: tuple[int, Any]) -> File | Tensor:
        number, of_split = key
        return undecoded(self.readers[number], of_split)


def _of_one(split: Split, indices: Tensor) -> Chosen:
    """The images of `split` at `indices`, int64 [n], in that order."""
    return Chosen((split,), torch.stack([torch.zeros_like(indices), indices], dim=1))


def chosen(split: Split, indices: Tensor) -> Split:
    """The images of `split` at `indices`, int64 [n], in that order; those of an array lie in memory as before."""
    if isinstance(split, ArraySplit):  # whose batches are made at once
        return replace(split, images=split.images[indices], labels=split.targets(indices))
    return _of_one(split, indices)


@dataclass(frozen=True, eq=False)
class Renumbered:
    """A Split whose classes have other numbers, see `renumbered`."""

    split: Split
    numbers: Tensor

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.split.blocks

    @property
    def reader(self) -> Reader:
        return self.split.reader

    def __len__(self) -> int:
        return len(self.split)

    def key(self, index: int) -> Any:
        return self.split.key(index)

    def targets(self, indices: Tensor) -> Tensor:
        return renumbered(self.split.targets(indices), self.numbers)

    def image(self, index: int) -> Tensor:
        return self.split.image(index)

    def name(self, index: int) -> str:
        return self.split.name(index)

    def encoded(self, index: int) -> bytes:
        return encoded(self.split, index)

    def with_white_level(self, white_level: int) -> "Renumbered":
        return replace(self, split=with_white_level(self.split, white_level))


def numbers(classes: Sequence[str], known: Sequence[str]) -> Tensor:
    """int64 [len(classes)]: the place of each among `known`, or -1."""
    places = {composed(label): k for k, label in reversed(list(enumerate(known)))}
    return torch.tensor([places.get(composed(label), -1) for label in classes], dtype=torch.int64)


def with_misses(numbers: Tensor, num_known: int) -> Tensor:
    """`numbers` with, for -1, numbers from `num_known` on: labels that no answer names, and that are missed."""
    missed = numbers < 0
    return torch.where(missed, num_known - 1 + missed.cumsum(0), numbers)


def numbered(split: Split, numbers: Tensor) -> Split:
    """`split` with other numbers for its classes: without those whose number is -1, and without images of them alone.

    An image that may be of any number of classes stays, if it is of none.
    """
    if torch.equal(numbers, torch.arange(len(numbers))):
        return split
    kept = torch.cat([start + _known(targets, numbers) for start, targets in in_chunks(split)])
    if isinstance(split, ArraySplit) and len(kept) == len(split):  # whose batches are made at once
        return replace(split, labels=renumbered(all_targets(split), numbers))
    found = Renumbered(split, numbers)
    return found if len(kept) == len(split) else _of_one(found, kept)


def _known(targets: Tensor, numbers: Tensor) -> Tensor:
    """int64: the images whose class, if they are of one each, has a number."""
    known = numbers[targets] >= 0 if targets.ndim == 1 else torch.ones(len(targets), dtype=torch.bool)
    return known.nonzero()[:, 0]


def _places(number: int, split: Split) -> Tensor:
    indices = torch.arange(len(split))
    return torch.stack([torch.full_like(indices, number), indices], dim=1)


def joined(splits: Sequence[Split]) -> Split:
    """The images of all of them, one split after the other."""
    if len(splits) == 1:
        return splits[0]
    return Chosen(tuple(splits), torch.cat([_places(number, split) for number, split in enumerate(splits)]))


def with_white_level(split: Split, white_level: int) -> Split:
    """The same split, whose images of 16 bits, if it can have any, are white at `white_level`."""
    return split.with_white_level(white_level) if isinstance(split, FromFiles) else split


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
    splits = {part: _ordered(split, places) for part, split in dataset.splits.items()}
    return replace(dataset, classes=tuple(classes), splits=splits)


def _counted(classes: Sequence[str]) -> str:
    return f"{len(classes):,} classes ({some(classes)})"


def _ordered(split: Split, numbers: Tensor) -> Split:
    """`split` with other numbers for its classes; if it lay in the order of its classes, in that of the new numbers."""
    targets, found = all_targets(split), numbered(split, numbers)
    if targets.ndim > 1 or bool((targets.diff() < 0).any()):
        return found
    return _of_one(found, numbers[targets].argsort(stable=True))
