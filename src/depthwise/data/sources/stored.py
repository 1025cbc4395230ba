"""Images that lie in larger files whose labels were gathered in a table, as a split."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from depthwise.data.dataset import Reader
from depthwise.data.image import Decoding
from depthwise.data.targets import Labels


class Holding(Protocol):
    """Images in files, all of them one after the other."""

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first image of each block, and the end."""

    def key(self, place: int) -> Any:
        """What a reader needs to know of the image at `place`."""

    def reader(self, channels: int, decoding: Decoding) -> Reader: ...

    def encoded(self, place: int) -> bytes:
        """The image's file. Raises UnreadableImageError."""


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
    def reader(self) -> Reader:
        return self.held.reader(self.channels, self.decoding)

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
