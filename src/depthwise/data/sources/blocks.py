"""Images that lie in blocks, a file each or a part of one, which a reader opens as a whole."""

from bisect import bisect_right
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from depthwise.data.dataset import Reader
from depthwise.data.image import Decoding, File, UnreadableImageError, decode_bytes
from depthwise.data.order import WINDOW
from depthwise.data.targets import counted, gathered

MOST_OPEN = 2 * WINDOW
"""Blocks that a process has open: those of a window, and of the next where one batch has images of both."""


class Block(Protocol):
    """A block that is open. Whatever cannot be read in it raises UnreadableImageError."""

    def __len__(self) -> int: ...

    def key(self, row: int) -> str:
        """The image's path where it was packed, or its place."""

    def encoded(self, row: int) -> bytes:
        """The image's file, byte for byte."""

    def targets(self, rows: Tensor) -> Tensor:
        """What the images at `rows`, int64 [N], show: int64 [N] or [N, P], see `data/targets.py`."""


class Blocks(Hashable, Protocol):
    """Where blocks lie: sent to every worker process, and light whatever they hold."""

    def open(self, number: int) -> Block:
        """Raises UnreadableImageError if the block is damaged."""

    def called(self, number: int) -> str:
        """The block's name, a file's as a rule."""


Key = tuple[int, int]
"""The number of a block, and the image's row in it."""


@lru_cache(maxsize=MOST_OPEN)
def _opened(blocks: Blocks, number: int) -> Block:
    return blocks.open(number)


@dataclass(frozen=True)
class BlockReader:
    """Decodes the images of blocks."""

    source: Blocks
    channels: int
    decoding: Decoding

    def __call__(self, key: Key) -> Tensor:
        return decode_bytes(*self.file(key))

    def file(self, key: Key) -> File:
        number, row = key
        block = _opened(self.source, number)
        return File(block.encoded(row), self.channels, block.key(row), self.decoding)


@dataclass(frozen=True, eq=False)
class BlockSplit:
    """The images of some blocks.

    numbers: of the blocks; blocks: how many images each has. counts: images of each of the `num_classes` classes, int64
    [K], if that is known.
    """

    source: Blocks
    numbers: tuple[int, ...]
    blocks: tuple[int, ...]
    channels: int
    decoding: Decoding
    num_classes: int
    counts: Tensor | None = None

    @property
    def reader(self) -> Reader:
        return BlockReader(self.source, self.channels, self.decoding)

    @property
    def files(self) -> tuple[tuple[str, int], ...]:
        return tuple(zip(map(self.source.called, self.numbers), self.blocks, strict=True))

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(self.blocks)]

    def __len__(self) -> int:
        return self._starts[-1]

    def key(self, index: int) -> Key:
        place = bisect_right(self._starts, index) - 1
        return self.numbers[place], index - self._starts[place]

    def targets(self, indices: Tensor) -> Tensor:
        starts = torch.tensor(self._starts)
        places = torch.searchsorted(starts, indices, right=True) - 1
        return gathered(places, indices - starts[places], self._targets_of)

    def class_counts(self) -> Tensor:
        return counted(self, self.num_classes) if self.counts is None else self.counts

    def image(self, index: int) -> Tensor:
        return self.reader(self.key(index))

    def encoded(self, index: int) -> bytes:
        number, row = self.key(index)
        return _opened(self.source, number).encoded(row)

    def name(self, index: int) -> str:
        number, row = self.key(index)
        try:
            return _opened(self.source, number).key(row)
        except UnreadableImageError:
            return f"{self.source.called(number)}/{row}"

    def with_white_level(self, white_level: int) -> "BlockSplit":
        return replace(self, decoding=replace(self.decoding, white_level=white_level))

    def _targets_of(self, place: int, rows: Tensor) -> Tensor:
        return _opened(self.source, self.numbers[place]).targets(rows)
