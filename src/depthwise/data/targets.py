"""What targets are made of: the numbers of the classes that images show.

Of images of one class each they are int64 [N]. Of images of any number of classes they are int64 [N, P]: a row holds
class numbers, -1 fills it up, and -(k + 2) says that the image was looked at and is not of class k.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from depthwise.data.dataset import Split

NONE = -1

SEVERAL = ("multi-label", "verified-labels")
"""Tasks by whose name a data set has images of any number of classes."""

_CHUNK = 2**18  # images whose targets are in memory at a time, where a whole set is looked over


def verified_absent(classes: Tensor) -> Tensor:
    """What says in a row that an image is not of `classes`, int64; of such values, the classes."""
    return -(classes + 2)


@dataclass(frozen=True, eq=False)
class LabelLists:
    """The labels of n images, each with any number of them: image i has values[offsets[i] : offsets[i + 1]].

    offsets: int64 [n + 1]. values: int32, as in a row of targets.
    """

    offsets: Tensor
    values: Tensor

    @staticmethod
    def of(rows: Iterable[Sequence[int]]) -> "LabelLists":
        """The lists `rows`."""
        lists = list(rows)
        lengths = torch.tensor([0, *map(len, lists)], dtype=torch.int64)
        return LabelLists(lengths.cumsum(0), torch.tensor([*chain.from_iterable(lists)], dtype=torch.int32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, indices: Tensor) -> Tensor:
        """int64 [N, P], of the images at `indices`, int64 [N]; P is the longest list's length, and at least 1."""
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        places = torch.arange(max(1, int(lengths.max())) if len(lengths) else 1)
        given = places < lengths[:, None]
        rows = torch.full(given.shape, NONE)
        rows[given] = self.values[(starts[:, None] + places)[given]].long()
        return rows


Labels = Tensor | LabelLists
"""The labels of all images of a split: int64 [n], int64 [n, P] or lists; `labels[indices]` are targets."""


def memberships(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Every class that an image shows: the image's place in `targets` and the class, int64 [M] each, in order."""
    if targets.ndim == 1:
        return torch.arange(len(targets)), targets
    images, places = (targets >= 0).nonzero(as_tuple=True)
    return images, targets[images, places]


def denials(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Every class that an image was looked at for and does not show, as `memberships`."""
    if targets.ndim == 1:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    images, places = (targets < NONE).nonzero(as_tuple=True)
    return images, verified_absent(targets[images, places])


def renumbered(targets: Tensor, numbers: Tensor) -> Tensor:
    """`targets` where class k has the number numbers[k], int64 [K]; -1 there takes the class away."""
    if targets.ndim == 1:
        return numbers[targets]
    found = torch.where(targets >= 0, numbers[targets.clamp(min=0)], NONE)
    denied = numbers[verified_absent(targets).clamp(min=0)]
    return torch.where((targets < NONE) & (denied >= 0), verified_absent(denied), found)


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """The targets `parts`, at least one, one after the other; rows are filled up to the longest."""
    if all(part.ndim == 1 for part in parts):
        return torch.cat([*parts])
    rows = [part[:, None] if part.ndim == 1 else part for part in parts]
    longest = max(part.shape[1] for part in rows)
    return torch.cat(
        [torch.nn.functional.pad(part, (0, longest - part.shape[1]), value=NONE) for part in rows]
    )


def gathered(numbers: Tensor, places: Tensor, of: Callable[[int, Tensor], Tensor]) -> Tensor:
    """The targets of images that lie in several collections, in the order in which they are asked for.

    numbers: of the collections, int64 [N]; places: of the images in theirs; of(number, places): targets of images of
    one.
    """
    order, parts = [], []
    for number in numbers.unique().tolist() or [0]:
        mine = (numbers == number).nonzero()[:, 0]
        order.append(mine)
        parts.append(of(number, places[mine]))
    return stacked(parts)[torch.cat(order).argsort()]


def any_number(split: "Split") -> bool:
    """Whether its images may be of any number of classes."""
    return split.targets(torch.arange(min(1, len(split)))).ndim > 1


def in_chunks(split: "Split") -> Iterable[tuple[int, Tensor]]:
    """The targets of every image of `split`, some at a time, each with the place of its first image."""
    for start in range(0, len(split), _CHUNK):
        yield start, split.targets(torch.arange(start, min(start + _CHUNK, len(split))))


@runtime_checkable
class Counted(Protocol):
    """What else a Split has that knows how many of its images are of each class: nobody then looks it over."""

    def class_counts(self) -> Tensor:
        """int64 [K]."""


def class_counts(split: "Split", num_classes: int) -> Tensor:
    """int64 [K]: the images of each class; labels of K or more, which no network of K classes knows, are left out."""
    if not isinstance(split, Counted):
        return counted(split, num_classes)
    counts = split.class_counts()[:num_classes]
    return torch.nn.functional.pad(counts, (0, num_classes - len(counts)))


def counted(split: "Split", num_classes: int) -> Tensor:
    """As `class_counts`, by the targets of every image."""
    return _counts(split, num_classes, memberships)


def denial_counts(split: "Split", num_classes: int) -> Tensor:
    """int64 [K]: the images that were looked at for each class and do not show it."""
    return _counts(split, num_classes, denials)


def _counts(split: "Split", num_classes: int, found: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    counts = torch.zeros(num_classes, dtype=torch.int64)
    for _, targets in in_chunks(split):
        labels = found(targets)[1]
        counts += labels[labels < num_classes].bincount(minlength=num_classes)
    return counts
