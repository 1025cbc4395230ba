"""Dividing images into train and val by a seed: by class, or by labels, of which an image may have any number.

Images are known by their content (SHA-256), so copies of one never lie on both sides, and neither the order in which
they come nor their names move any.
"""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

VAL_FRACTION = 0.2


def drawn(contents: Iterable[str], seed: int) -> list[str]:
    """`contents`, each once, in an order that `seed` decides and nothing else."""
    return sorted(set(contents), key=lambda content: hashlib.sha256(f"{seed} {content}".encode()).digest())


def held_out(contents: Iterable[str], seed: int) -> set[str]:
    """Those of one class that are for val: a fifth, at least one if there are two, none of a single one."""
    order = drawn(contents, seed)
    return set(order[: max(1, round(VAL_FRACTION * len(order))) if len(order) > 1 else 0])


def stratified(
    contents: Sequence[str], images: NDArray[np.int64], labels: NDArray[np.int32], seed: int
) -> NDArray[np.bool_]:
    """bool [n]: which of n images are for val, so that a fifth of every label's images is, as far as that can be.

    contents: [n], no two alike. images, labels: pairs, [M]. Iterative stratification (Sechidis, Tsoumakas and Vlahavas
    2011, On the Stratification of Multi-Label Data, section 3): the rarest label's images are given out first, each to
    the part that lacks most of that label. A label of one image or two is in train alone.
    """
    places = {content: place for place, content in enumerate(drawn(contents, seed))}
    rank = np.array([places[content] for content in contents], np.int64)
    num_labels = int(labels.max()) + 1 if len(labels) else 0
    of_label = _lists(labels, rank[images], num_labels)
    of_image = _lists(rank[images], labels, len(contents))
    # What val lacks less what train lacks, in images: of each label, and of all.
    val_lacks = [VAL_FRACTION * len(members) for members in of_label]
    train_lacks = [(1 - VAL_FRACTION) * len(members) for members in of_label]
    lacks = [(1 - VAL_FRACTION) * len(contents), VAL_FRACTION * len(contents)]
    left = [len(members) for members in of_label]
    part: list[int] = [-1] * len(contents)

    def give(image: int, to_val: bool) -> None:
        part[image] = int(to_val)
        lacks[to_val] -= 1
        for label in of_image[image]:
            left[label] -= 1
            (val_lacks if to_val else train_lacks)[label] -= 1

    rarest = [(count, label) for label, count in enumerate(left) if count]
    heapq.heapify(rarest)
    while rarest:
        count, label = heapq.heappop(rarest)
        if count != left[label]:  # another label's images were some of its own
            if left[label]:
                heapq.heappush(rarest, (left[label], label))
            continue
        for image in of_label[label]:
            if part[image] < 0:
                give(image, (val_lacks[label], lacks[1]) > (train_lacks[label], lacks[0]))
    for image in range(len(contents)):
        if part[image] < 0:
            give(image, lacks[1] > lacks[0])
    return np.array(part, bool)[rank]


def _lists(keys: NDArray[np.integer], values: NDArray[np.integer], count: int) -> list[list[int]]:
    """For each key below `count` its values, in order."""
    order = np.lexsort((values, keys))
    ends = np.searchsorted(keys[order], np.arange(count + 1)).tolist()
    ordered = values[order].tolist()
    return [ordered[start:end] for start, end in pairwise(ends)]
