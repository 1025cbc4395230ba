"""In what order images reach the network: a batch is a function of (seed, epoch, batch, rank, world).

Nothing is kept between batches that could not be computed again, and of a block of more than MOST_DRAWN images no
permutation is ever made as a whole.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_DRAWN = 2**22
"""Images that are permuted by drawing the whole permutation, 32 MiB; of more, each place is computed on its own."""
WINDOW = 16
"""Blocks whose images are mixed with each other: those that a reader needs open at a time."""
ROUNDS = 6


def mix_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


@dataclass(frozen=True)
class Order:
    """The batches of an epoch over images 0 to n - 1.

    blocks: the number of images in each block, in order; a block is what a reader opens as a whole, and a set in which
    every image is reached alike is one block. seed: shuffles each epoch anew; None leaves the images in order.

    Shuffled, the blocks are permuted, WINDOW of them at a time make a window, and the images of a window are permuted.
    The last batch is left out then if it is not full, unless it is the only one.
    """

    blocks: tuple[int, ...]
    batch_size: int
    seed: int | None = None

    @cached_property
    def num_images(self) -> int:
        return sum(self.blocks)

    def __len__(self) -> int:
        """Batches an epoch."""
        full, rest = divmod(self.num_images, self.batch_size)
        return full + (rest > 0 and (self.seed is None or full == 0))

    def indices(self, epoch: int, batch: int, rank: int = 0, world: int = 1) -> Tensor:
        """int64: the images of a batch that process `rank` of `world` takes.

        The parts of all ranks, one after the other, are the batch of one process; their lengths differ by 1 at most.
        """
        first = batch * self.batch_size
        size = max(0, min(self.batch_size, self.num_images - first))
        places = torch.arange(first + rank * size // world, first + (rank + 1) * size // world)
        return places if self.seed is None else self._shuffled(places, self.seed, epoch)

    def _shuffled(self, places: Tensor, seed: int, epoch: int) -> Tensor:
        if len(self.blocks) == 1:
            return permuted(places, self.num_images, mix_seed(seed, epoch, "order"))
        layout = _lay_out(self.blocks, seed, epoch)
        windows = torch.searchsorted(layout.windows, places, right=True) - 1
        found = torch.empty_like(places)
        for window in windows.unique().tolist():
            inside = windows == window
            start, end = layout.windows[window : window + 2].tolist()
            within = permuted(places[inside] - start, end - start, mix_seed(seed, epoch, "window", window))
            found[inside] = start + within
        blocks = torch.searchsorted(layout.ends, found, right=True)
        return found + layout.shifts[blocks]


@dataclass(frozen=True, eq=False)
class _Layout:
    """The blocks of an epoch, permuted, laid out one after the other.

    windows: where each window begins, and where the last ends. ends: where each block ends. shifts: what is added to
    a place in each block to give the image's index.
    """

    windows: Tensor
    ends: Tensor
    shifts: Tensor


@lru_cache(maxsize=2)
def _lay_out(blocks: tuple[int, ...], seed: int, epoch: int) -> _Layout:
    sizes = torch.tensor(blocks, dtype=torch.int64)
    order = permuted(torch.arange(len(sizes)), len(sizes), mix_seed(seed, epoch, "blocks"))
    ends = sizes[order].cumsum(0)
    windows = torch.cat([torch.zeros(1, dtype=torch.int64), ends[WINDOW - 1 :: WINDOW], ends[-1:]])
    return _Layout(windows.unique(), ends, (sizes.cumsum(0) - sizes)[order] - (ends - sizes[order]))


def permuted(places: Tensor, n: int, seed: int) -> Tensor:
    """int64: where each of `places`, 0 to n - 1, goes in a permutation of n that `seed` determines."""
    return _drawn(n, seed)[places] if n <= MOST_DRAWN else scrambled(places, n, seed)


@lru_cache(maxsize=2)
def _drawn(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def scrambled(places: Tensor, n: int, seed: int) -> Tensor:
    """As `permuted`, in time and memory of `places` alone, whatever n is.

    A Feistel network permutes the least even number of bits that can write n - 1; what comes out as n or more goes
    through it again until it is less (Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains, section 4).
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = [np.uint64(mix_seed(seed, number)) for number in range(ROUNDS)]
    found = places.numpy().astype(np.uint64)
    outside = np.ones(found.shape, bool)
    while outside.any():
        left, right = found[outside] >> half, found[outside] & mask
        for key in keys:
            left, right = right, left ^ (_hash(right ^ key) & mask)
        found[outside] = left << half | right
        outside = found >= n
    return torch.from_numpy(found.astype(np.int64))


def _hash(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele 2014, figure 15): every bit of the result depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
