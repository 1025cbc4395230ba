"""Images that lie in larger files whose labels were gathered in a table, as a split."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from depthwise.data.dataset import Reader, Split, encoded
from depthwise.data.image import Decoding, File, UnreadableImageError, decode_bytes
from depthwise.data.spread import evenly
from depthwise.data.targets import Labels

LOOKED_AT = 100
_JPEG = b"\xff\xd8"


class Stamped(Protocol):
    """A file in one state."""

    @property
    def path(self) -> str: ...


class Holding(Protocol):
    """Images in files, all of them one after the other."""

    @property
    def files(self) -> Sequence[Stamped]:
        """The first number of an image's key is a place in them."""

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first image of each block, and the end."""

    def key(self, place: int) -> Any:
        """What a reader needs to know of the image at `place`."""

    @property
    def finder(self) -> Callable[[Any], tuple[bytes, str]]:
        """Gives the file of an image by its key, and what sentences call it: light and picklable."""

    def encoded(self, place: int) -> bytes:
        """The image's file. Raises UnreadableImageError."""


@dataclass(frozen=True)
class StoredReader:
    """Decodes the images that `find` finds."""

    find: Callable[[Any], tuple[bytes, str]]
    channels: int
    decoding: Decoding

    def __call__(self, key: Any) -> Tensor:
        return decode_bytes(*self.file(key))

    def file(self, key: Any) -> File:
        data, name = self.find(key)
        return File(data, self.channels, name, self.decoding)


@dataclass(frozen=True, eq=False)
class StoredSplit:
    """The images of `held` at `places` in order, int64 [n]; a block is what it has of one of theirs."""

    held: Holding
    places: NDArray[np.int64]
    names: Sequence[str]
    labels: Labels
    channels: int
    decoding: Decoding

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        counts = np.diff(np.searchsorted(self.places, self.held.starts))
        return tuple(counts[counts > 0].tolist())

    @property
    def files(self) -> tuple[tuple[str, int], ...]:
        numbers = [self.key(start)[0] for start in accumulate((0, *self.blocks[:-1]))] if len(self) else []
        counts = Counter[int]()
        for number, length in zip(numbers, self.blocks, strict=True):
            counts[number] += length
        return tuple((self.held.files[number].path, length) for number, length in counts.items())

    @property
    def reader(self) -> Reader:
        return StoredReader(self.held.finder, self.channels, self.decoding)

    def __len__(self) -> int:
        return len(self.places)

    def key(self, index: int) -> Any:
        return self.held.key(int(self.places[index]))

    def targets(self, indices: Tensor) -> Tensor:
        return self.labels[indices]

    def image(self, index: int) -> Tensor:
        return self.reader(self.key(index))

    def encoded(self, index: int) -> bytes:
        return self.held.encoded(int(self.places[index]))

    def name(self, index: int) -> str:
        return self.names[index]

    def with_white_level(self, white_level: int) -> "StoredSplit":
        return replace(self, decoding=replace(self.decoding, white_level=white_level))


def holds_jpeg(split: Split) -> bool:
    """Whether images of it are JPEG in parquet or tars, by a few of them: older versions decoded those whole."""
    return _is_stored(split.reader) and any(
        map(partial(_is_jpeg, split), evenly(range(len(split)), LOOKED_AT))
    )


def _is_stored(reader: Reader) -> bool:
    return isinstance(reader, StoredReader) or any(map(_is_stored, getattr(reader, "readers", ())))


def _is_jpeg(split: Split, index: int) -> bool:
    try:
        return encoded(split, index).startswith(_JPEG)
    except UnreadableImageError:
        return False
