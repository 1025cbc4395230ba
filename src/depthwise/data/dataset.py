"""What a data set is: named splits of labelled images, with what is known about where they came from."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from depthwise.data.columns import Columns
from depthwise.data.deep import WHITE, white_level_for
from depthwise.data.image import DEFAULT, Decoding, File, as_png, decode_bytes, read_image_file
from depthwise.data.targets import Labels, in_chunks, stacked
from depthwise.errors import DepthwiseError


@dataclass(frozen=True)
class BadImage:
    """A file that was left out because it cannot be decoded."""

    path: str
    reason: str


Reader = Callable[[Any], Tensor]
"""From an image's key to uint8 [C, H, W]; raises UnreadableImageError.

It is pickled into each worker process, and a batch's keys are sent there: neither grows with the data set.
"""


@runtime_checkable
class OfFiles(Protocol):
    """What else a Reader has whose images are files: training decodes of them no more than it keeps."""

    def file(self, key: Any) -> File | Tensor:
        """The image before it is decoded, or its pixels if they are no file's; raises UnreadableImageError."""


def undecoded(reader: Reader, key: Any) -> File | Tensor:
    """The image's file, or its pixels, uint8 [C, H, W], from a reader without files."""
    return reader.file(key) if isinstance(reader, OfFiles) else reader(key)


class Split(Protocol):
    """Images in a fixed order, and what each of them shows."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """How many images lie in each block, a block being what a reader opens as a whole; (n,) where any image is
        reached as quickly as the next."""

    @property
    def reader(self) -> Reader:
        """What worker processes read images with."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> Any:
        """What `reader` needs to know of an image, light and picklable."""

    def targets(self, indices: Tensor) -> Tensor:
        """What the images at `indices`, int64 [N], show, as `data/targets.py` says: int64 [N] or [N, P]."""

    def image(self, index: int) -> Tensor:
        """uint8 [C, H, W]; raises UnreadableImageError."""

    def name(self, index: int) -> str:
        """What a person would call the image: its path, or its place in an array."""


@runtime_checkable
class FromFiles(Protocol):
    """What else a Split has whose images may hold 16 bits a sample."""

    def with_white_level(self, white_level: int) -> Split:
        """The same images, where all from `white_level` on is white."""


@runtime_checkable
class Encoded(Protocol):
    """What else a Split has that keeps its images in encoded form."""

    def encoded(self, index: int) -> bytes:
        """The image's file, byte for byte; raises UnreadableImageError."""


@runtime_checkable
class InFiles(Protocol):
    """What else a Split has whose images lie in larger files."""

    @property
    def files(self) -> tuple[tuple[str, int], ...]:
        """Their names, and how many images lie in each, in the images' order."""


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """Images of one size held in memory, uint8 [n, C, H, W], and their labels."""

    images: Tensor
    labels: Labels
    prefix: str = "image"

    @property
    def blocks(self) -> tuple[int, ...]:
        return (len(self),)

    @property
    def reader(self) -> Reader:
        return partial(_image_of, self.images)  # torch shares its memory with the workers and sends a handle

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> int:
        return index

    def targets(self, indices: Tensor) -> Tensor:
        return self.labels[indices]

    def image(self, index: int) -> Tensor:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"{self.prefix}/{index}"


def _image_of(images: Tensor, index: int) -> Tensor:
    return images[index]


@dataclass(frozen=True)
class FileReader:
    """Decodes files; a key is a path relative to `root`."""

    root: str
    channels: int
    decoding: Decoding

    def __call__(self, path: str) -> Tensor:
        return decode_bytes(*self.file(path))

    def file(self, path: str) -> File:
        whole = os.path.join(self.root, path)
        return File(read_image_file(whole), self.channels, whole, self.decoding)


@dataclass(frozen=True, eq=False)
class FileSplit:
    """Image files, decoded each time they are asked for; `paths` are relative to `root`."""

    paths: Sequence[str]
    labels: Labels
    channels: int
    root: str = ""
    decoding: Decoding = DEFAULT

    @property
    def blocks(self) -> tuple[int, ...]:
        return (len(self),)

    @property
    def reader(self) -> FileReader:
        return FileReader(self.root, self.channels, self.decoding)

    def __len__(self) -> int:
        return len(self.paths)

    def key(self, index: int) -> str:
        return self.paths[index]

    def targets(self, indices: Tensor) -> Tensor:
        return self.labels[indices]

    def image(self, index: int) -> Tensor:
        return self.reader(self.paths[index])

    def name(self, index: int) -> str:
        return self.paths[index]

    def encoded(self, index: int) -> bytes:
        return read_image_file(os.path.join(self.root, self.paths[index]))

    def with_white_level(self, white_level: int) -> "FileSplit":
        return replace(self, decoding=replace(self.decoding, white_level=white_level))


class Deep(NamedTuple):
    """What the images with 16 bits a sample hold: how many they are, their lowest and their highest value."""

    files: int
    low: int
    high: int

    def note(self, white_level: int = WHITE) -> str:
        """A sentence if another white level would suit them better, or ""."""
        used, better = (
            f"the 16-bit images use {self.low} to {self.high} of {WHITE}",
            white_level_for(self.high),
        )
        if self.high > white_level:
            return f"{used}, and all above white_level={white_level} is white: train with --set white_level={better}"
        if better < white_level:
            return (
                f"{used}, which is dark with white_level={white_level}: train with --set white_level={better}"
            )
        return ""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Splits by name (train, val, test; or all, if it is not divided) over one list of classes.

    channels: of every image, 1, 3 or 4. fingerprint: SHA-256 of all that can be read in it; earlier_fingerprint:
    the same where file names are not composed (see names.py), as older runs have it. split_source: how the splits
    came about; seed: by which it was divided here, else None. nested: classes are paths. bad: what was left out.
    ignored: paths that are no part of it; ignored_kinds: a phrase about each kind of them. notes: sentences a
    person should read before training; repeated: those about pictures in two classes or two parts, of files alone.
    num_trusted: files that are taken to be as they were when they were last read. deep: of the images with 16 bits
    a sample, if there are any. decoding: how its files are read. columns: how its labels were read, if they stand in a
    table. unlabelled: its images without a class, left out if each is to have one. unknown_labels: those that a fixed
    list of classes has not, with their images. task: what is asked of its images, by its name in `tasks.TASKS`.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    channels: int
    fingerprint: str
    split_source: str
    bad: tuple[BadImage, ...] = ()
    ignored: tuple[str, ...] = ()
    ignored_kinds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    seed: int | None = None
    nested: bool = False
    earlier_fingerprint: str = ""
    num_trusted: int = 0
    deep: Deep | None = None
    decoding: Decoding = DEFAULT
    columns: Columns | None = None
    unlabelled: int = 0
    unknown_labels: Mapping[str, int] = field(default_factory=dict)
    task: str = "single-label"

    @property
    def fingerprints(self) -> tuple[str, str]:
        """Either is what a run on this data set may have kept."""
        return self.fingerprint, self.earlier_fingerprint or self.fingerprint


def encoded(split: Split, index: int) -> bytes:
    """The image's file, byte for byte; of a split that keeps none, its pixels as a PNG. Raises UnreadableImageError."""
    return split.encoded(index) if isinstance(split, Encoded) else as_png(split.image(index))


def has_jpeg(split: Split) -> bool:
    """Whether some of its images are JPEG files, by their names."""
    suffixes = (".jpg", ".jpeg", ".jpe", ".jfif")
    return any(split.name(index).lower().endswith(suffixes) for index in range(len(split)))


def all_targets(split: Split) -> Tensor:
    """The targets of every image: for what looks a whole set over, and nothing that happens once a batch."""
    return stacked([targets for _, targets in in_chunks(split)] or [split.targets(torch.arange(0))])


def val_split(dataset: Dataset) -> tuple[str, Split]:
    """The split to validate on during training: val, else test."""
    return _first_of(dataset, "val", "test")


def test_split(dataset: Dataset) -> tuple[str, Split]:
    """The split to report on at the end: test, else val."""
    return _first_of(dataset, "test", "val")


def require_trainable(dataset: Dataset) -> None:
    """Raises DepthwiseError if there is nothing to train on, or nothing to measure a training on."""
    if "train" not in dataset.splits:
        raise DepthwiseError(
            f"{dataset.name} has no train part, only {', '.join(dataset.splits)}: add a folder train/ with the classes"
        )
    val_split(dataset)


def _first_of(dataset: Dataset, *names: str) -> tuple[str, Split]:
    for name in names:
        if name in dataset.splits:
            return name, dataset.splits[name]
    has = ", ".join(dataset.splits)
    remedy = "add it"
    if dataset.seed is not None:
        other = "a folder val/" if dataset.columns is None else "name one as in train=a.csv,val=b.csv"
        remedy = f"add a second, different image to a class, of which one would be kept for it, or {other}"
    raise DepthwiseError(
        f"{dataset.name} has only {has}: evaluation needs a part called {' or '.join(names)}, {remedy}"
    )
