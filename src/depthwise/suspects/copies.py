"""Pictures that are there more than once though their files differ: resaved, resized, a little brighter.

A perceptual hash finds candidates (Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions,
section 3.2.1: the signs of the lowest frequencies), and small versions of the pictures decide. `data/repeated.py` has
those whose bytes are the same.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from depthwise.data.dataset import Split
from depthwise.data.loader import Batches
from depthwise.data.transform import Preprocess

SIDE, SMALL, LOWEST = 32, 16, 8
"""Pixels a side of what is hashed and of what is compared; frequencies a side that the hash has."""

MOST_DIFFERENT = 3
"""Bits of 64 in which the hashes of copies differ at most."""

LEAST_ALIKE = 0.99
"""Correlation of the small versions from which on two pictures are copies of each other."""

FLAT = 2.0
"""Standard deviation, of 255, below which a picture is blank: nothing in it could be compared."""

_BLOCKS = 6
_MOST_IN_BUCKET = 50
"""Hashes to each of which one is compared at most, of those that share half of its bits."""

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Small:
    """All images of a set, small. hashes: uint64 [n]; pixels: uint8 [n, C, SMALL, SMALL]; deviation: float32 [n], of
    255; -1 where an image cannot be read."""

    hashes: Hashes
    pixels: NDArray[np.uint8]
    deviation: NDArray[np.float32]


def made_small(
    splits: Mapping[str, Split],
    channels: int,
    white_level: int,
    folder: Path,
    *,
    workers: int,
    progress: Callable[[int, int], None],
) -> Small:
    """The images of `splits`, one part after the other. Their pixels lie in a nameless file in `folder`."""
    preprocess = Preprocess(
        (SIDE, SIDE), channels=channels, crop_fraction=1.0, stretch=True, white_level=white_level
    )
    total, start = sum(map(len, splits.values())), 0
    with TemporaryFile(dir=folder) as file:  # which stays as long as it is mapped
        file.truncate(max(1, total * channels * SMALL * SMALL))
        pixels = np.memmap(file, np.uint8, shape=(total, channels, SMALL, SMALL))
    small = Small(np.zeros(total, np.uint64), pixels, np.full(total, -1, np.float32))
    for split in splits.values():
        batches = Batches(split, preprocess, batch_size=256, workers=workers)
        try:
            for batch in batches.epoch(0):
                images = (batch.images.numpy() * 0.5 + 0.5) * 255
                at = batch.indices.numpy() + start
                small.hashes[at] = hashed(images.mean(1))
                halves = images.reshape(len(images), channels, SMALL, 2, SMALL, 2)
                small.pixels[at] = halves.mean((3, 5)).round().astype(np.uint8)
                small.deviation[at] = images.mean(1).std((1, 2))
                progress(int(at[-1]) + 1 if len(at) else start, total)
        finally:
            batches.close()
        start += len(split)
    return small


def hashed(images: NDArray[np.floating]) -> Hashes:
    """uint64 [n] of grey images [n, SIDE, SIDE]: which of the lowest frequencies are above their median."""
    angles = np.pi / SIDE * np.outer(np.arange(LOWEST), np.arange(SIDE) + 0.5)
    waves = np.cos(angles)
    spectrum = (waves @ images.astype(np.float64) @ waves.T).reshape(len(images), -1)
    bits = spectrum[:, 1:] > np.median(spectrum[:, 1:], axis=1, keepdims=True)
    places = np.uint64(1) << np.arange(bits.shape[1], dtype=np.uint64)
    return np.asarray((bits * places).sum(1, dtype=np.uint64))


def close_pairs(hashes: Hashes) -> tuple[Indices, Indices]:
    """The pairs of different `hashes`, uint64 [n], none there twice, that differ in MOST_DIFFERENT bits or fewer.

    Of six blocks of bits at least three are then alike: the hashes are sorted by each choice of three blocks, and
    neighbours are compared (Manku, Jain and Das Sarma 2007, Detecting Near-Duplicates for Web Crawling, section 3).
    Where very many share such a half, each is compared with the next _MOST_IN_BUCKET of them alone.
    """
    ends = [64 * block // _BLOCKS for block in range(_BLOCKS + 1)]
    masks = [(1 << ends[k + 1]) - (1 << ends[k]) for k in range(_BLOCKS)]
    firsts, seconds = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for blocks in combinations(masks, _BLOCKS - MOST_DIFFERENT):
        keys = hashes & np.uint64(sum(blocks))
        order = np.argsort(keys, kind="stable")
        for first, second in _neighbours(keys[order]):
            a, b = order[first], order[second]
            near = _differing(hashes[a], hashes[b]) <= MOST_DIFFERENT
            firsts.append(np.minimum(a, b)[near])
            seconds.append(np.maximum(a, b)[near])
    pairs = np.unique(np.stack([np.concatenate(firsts), np.concatenate(seconds)]), axis=1)
    return pairs[0], pairs[1]


def _neighbours(keys: Hashes) -> Iterator[tuple[Indices, Indices]]:
    """Places in the sorted `keys` of pairs of equal ones, next to each other, then one apart, and so on."""
    first = np.arange(len(keys))
    for apart in range(1, _MOST_IN_BUCKET + 1):
        first = first[first + apart < len(keys)]
        first = first[keys[first] == keys[first + apart]]
        if not len(first):
            return
        yield first, first + apart


_BITS = np.array([bin(number).count("1") for number in range(2**16)], np.uint8)


def _differing(a: Hashes, b: Hashes) -> NDArray[np.int64]:
    """In how many bits each of `a` differs from that of `b`."""
    words = (a ^ b)[:, None].view(np.uint16)
    return np.asarray(_BITS[words].sum(1, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Alike:
    """Which of n images are one picture.

    groups: indices of two or more images each, and how much each is like the group's first at least, as correlation.
    blank: images of one colour. together: int64 [n], the same number for images that may be one picture, which no
    division should part; blank ones, too.
    """

    groups: tuple[tuple[Indices, float], ...]
    blank: Indices
    together: Indices


def alike(small: Small) -> Alike:
    """The groups of copies among the images."""
    readable = small.deviation >= 0
    usable = (small.deviation >= FLAT).nonzero()[0]
    unique, first, member = np.unique(small.hashes[usable], return_index=True, return_inverse=True)
    near = close_pairs(unique)
    # Of one hash with its first, and of near hashes the first of each.
    ones = np.concatenate([usable[first[member]], usable[first[near[0]]]])
    others = np.concatenate([usable, usable[first[near[1]]]])
    ones, others = ones[ones != others], others[ones != others]
    likeness = _correlation(small.pixels, ones, others)
    copies = likeness >= LEAST_ALIKE
    group = _connected(len(small.hashes), ones[copies], others[copies])
    same_hash = np.arange(len(ones)) < len(ones) - len(near[0])
    blank = (readable & (small.deviation < FLAT)).nonzero()[0]
    kept = copies | same_hash
    together = _connected(
        len(small.hashes),
        np.concatenate([ones[kept], np.repeat(blank[:1], len(blank))]),
        np.concatenate([others[kept], blank]),
    )
    return Alike(tuple(_groups(group, small.pixels)), blank, together)


def _correlation(pixels: NDArray[np.uint8], ones: Indices, others: Indices) -> NDArray[np.float64]:
    """float64 [m]: of the small versions, over all pixels and channels, some pairs at a time."""
    found = np.empty(len(ones))
    for start in range(0, len(ones), 4096):
        at = slice(start, start + 4096)
        a, b = (pixels[which[at]].reshape(len(which[at]), -1).astype(np.float64) for which in (ones, others))
        a -= a.mean(1, keepdims=True)
        b -= b.mean(1, keepdims=True)
        scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
        found[at] = (a * b).sum(1) / np.maximum(scale, 1e-12)
    return found


def _connected(count: int, ones: Indices, others: Indices) -> Indices:
    """int64 [count]: the same number for indices that pairs connect."""
    pairs = coo_array((np.ones(len(ones), bool), (ones, others)), (count, count))
    return np.asarray(connected_components(pairs, directed=False)[1], np.int64)


def _groups(group: Indices, pixels: NDArray[np.uint8]) -> Iterator[tuple[Indices, float]]:
    order = np.argsort(group, kind="stable")
    starts = np.unique(group[order], return_index=True)[1]
    for members in np.split(order, starts[1:]):
        if len(members) > 1:
            likeness = _correlation(pixels, np.full(len(members) - 1, members[0]), members[1:])
            yield members, float(likeness.min())
