"""What tables say of images: each image once, with its labels as numbers, in memory that a large set leaves small."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depthwise.data.columns import Columns
from depthwise.data.names import composed
from depthwise.data.sources.chosen import Chosen
from depthwise.data.sources.flags import is_set
from depthwise.data.sources.listing import part_of
from depthwise.data.sources.tables import Table
from depthwise.data.texts import Texts
from depthwise.errors import DepthwiseError, shown

PARTS = ("train", "val", "test")
NO_PART = -1

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


class Read(NamedTuple):
    """A table, what its columns hold, and the part that all its images are in, if the file says it.

    base: where its paths begin, below the root of all.
    """

    table: Table
    chosen: Chosen
    part: str | None = None
    base: str = ""


@dataclass(frozen=True, eq=False)
class Rows:
    """n images in the order of their names, which are paths below a root.

    places: int64 [n], of each among all that the tables name.
    images, numbers: pairs of an image and a number in `vocabulary`, int64 [M] and int32 [M], by image; -(k + 2) says
    that the image was looked at and has not label k. parts: int8 [n], places in PARTS, or NO_PART; several: an image
    may have any number of labels. contradicted: images that have a label and have it not, and are taken to have it.
    ignored: labels that were passed over because they were to be. further: those after an image's first, where one
    counts.
    """

    names: Texts
    places: Int64
    images: Int64
    numbers: Int32
    parts: NDArray[np.int8]
    vocabulary: tuple[str, ...]
    several: bool
    contradicted: tuple[str, ...]
    ignored: int
    further: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def lists(self) -> Iterator[list[int]]:
        """The numbers of each image."""
        ends = np.searchsorted(self.images, np.arange(len(self) + 1)).tolist()
        for start, end in pairwise(ends):
            yield self.numbers[start:end].tolist()

    def only(self, kept: NDArray[np.bool_]) -> "Rows":
        """The images for which `kept`, bool [n], is true."""
        place = np.cumsum(kept) - 1
        pairs = kept[self.images]
        return replace(
            self,
            names=self.names.take(np.flatnonzero(kept)),
            places=self.places[kept],
            images=place[self.images[pairs]],
            numbers=self.numbers[pairs],
            parts=self.parts[kept],
        )


@dataclass
class _Gathering:
    columns: Columns
    root: str
    places: dict[str, int] = field(default_factory=dict)
    parts: "array[int]" = field(default_factory=lambda: array("b"))
    images: "array[int]" = field(default_factory=lambda: array("q"))
    numbers: "array[int]" = field(default_factory=lambda: array("i"))
    vocabulary: dict[str, int] = field(default_factory=dict)
    several: bool = False
    ignored: int = 0
    further: int = 0
    labelled: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self._meant = {composed(name): composed(meant) for name, meant in self.columns.aliases}
        self._passed_over = frozenset(map(composed, self.columns.ignore))

    def add(self, read: Read) -> None:
        chosen, base = read.chosen, os.path.join(self.root, read.base)
        self.several |= chosen.separator is not None or chosen.negative is not None
        for line, values in read.table.rows(chosen.names):
            path, *others = values
            label: Any = None
            if chosen.flags:
                pairs = zip(chosen.flags, others, strict=False)
                label = tuple(name for name, value in pairs if is_set(value))
                self.several |= len(label) != 1
                del others[: len(chosen.flags)]
            elif chosen.label:
                label = others.pop(0)
            where = read.table.where(line)
            part = read.part or (part_of(others[0].strip()) if chosen.part else None)
            image = self._image(os.path.join(read.base, _below(path, base, where)), part, where)
            for number in self._numbers(label, chosen.separator, where):
                if self.columns.one_label and self.labelled[image]:
                    self.further += 1
                    continue
                self.labelled[image] = 1
                self._pair(image, number)
            if chosen.negative:
                for number in self._numbers(others[-1], chosen.separator, where):
                    self._pair(image, -(number + 2))

    def _pair(self, image: int, label: int) -> None:
        self.images.append(image)
        self.numbers.append(label)

    def _image(self, name: str, part: str | None, where: str) -> int:
        number = NO_PART if part is None else PARTS.index(part)
        image = self.places.setdefault(name, len(self.places))
        if image == len(self.parts):
            self.parts.append(number)
            self.labelled.append(0)
        elif self.parts[image] != number:
            raise DepthwiseError(
                f"{where} puts {name} into {part}, and it is in {PARTS[self.parts[image]]} already: keep one of them"
            )
        return image

    def _numbers(self, value: Any, separator: str | None, where: str) -> Iterator[int]:
        if isinstance(value, list):
            self.several = True
        for text in _labels(value, separator, where):
            name = composed(text.strip())
            name = self._meant.get(name, name)
            if not name:
                continue
            if name in self._passed_over:
                self.ignored += 1
                continue
            yield self.vocabulary.setdefault(name, len(self.vocabulary))


def gather(reads: Iterable[Read], root: Path, columns: Columns) -> Rows:
    """What the tables say; paths begin in `root`. Raises DepthwiseError, which names the line, for what cannot be."""
    found = _Gathering(columns, os.path.abspath(root))
    for read in reads:
        found.add(read)
    if not found.places:
        raise DepthwiseError(f"{read.table.path} names no image: write a line for each")
    names = list(found.places)
    order = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    images, labels, contradicted = _unique(rank[np.frombuffer(found.images, np.int64)], found.numbers)
    per_image = np.bincount(images[labels >= 0], minlength=len(names))
    return Rows(
        names=Texts.of(names[k] for k in order),
        places=np.arange(len(order)),
        images=images,
        numbers=labels,
        parts=np.frombuffer(found.parts, np.int8)[order],
        vocabulary=tuple(found.vocabulary),
        several=not columns.one_label and (found.several or bool((per_image > 1).any())),
        contradicted=tuple(names[order[image]] for image in contradicted.tolist()),
        ignored=found.ignored,
        further=found.further,
    )


def _unique(images: Int64, labels: "array[int]") -> tuple[Int64, Int32, Int64]:
    """The pairs in order, each once, without denials of labels that the image has; the images that had such."""
    values = np.frombuffer(labels, np.int32).astype(np.int64)
    absent = values < 0
    pairs = np.unique(images << 33 | np.where(absent, -values - 2, values) << 1 | absent)
    denied = (pairs & 1).astype(bool)
    wrong = np.zeros_like(denied)
    wrong[1:] = denied[1:] & (pairs[1:] == (pairs[:-1] | 1))
    contradicted = np.unique(pairs[wrong] >> 33)
    pairs, denied = pairs[~wrong], denied[~wrong]
    numbers = (pairs >> 1) & 0xFFFFFFFF
    return pairs >> 33, np.where(denied, -(numbers + 2), numbers).astype(np.int32), contradicted


def _labels(value: Any, separator: str | None, where: str) -> Sequence[str]:
    if value is None:
        return ()
    if isinstance(value, str):
        return value.split(separator) if separator else (value,)
    values = value if isinstance(value, list | tuple) else (value,)
    for one in values:
        if not isinstance(one, str | int) or isinstance(one, bool):
            raise DepthwiseError(
                f"{where} has the label {shown(one)}: write a text, a whole number or a list of them"
            )
    return [str(one) for one in values]


def _below(path: Any, root: str, where: str) -> str:
    """`path` relative to `root`."""
    if not isinstance(path, str) or not path.strip():
        raise DepthwiseError(f"{where} names no image: write its path, or remove the line")
    if "://" in path:
        raise DepthwiseError(f"{where} names {shown(path)}: nothing is downloaded, give the paths of files")
    if "\0" in path:
        raise DepthwiseError(f"{where} names {shown(path)}: no path holds a NUL, save the file as UTF-8")
    name = os.path.normpath(path)
    if os.path.isabs(name):
        name = os.path.relpath(name, root)
    if name == os.pardir or name.startswith(f"{os.pardir}{os.sep}") or name == os.curdir:
        raise DepthwiseError(
            f"{where} names {shown(path)}, which is not in {root}: nothing else is read, --image-root says where paths "
            f"begin"
        )
    return name
