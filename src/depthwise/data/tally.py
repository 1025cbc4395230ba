"""What the images of a data set have in common, counted in one pass and in little memory."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import NamedTuple

import numpy as np

from depthwise.data.names import natural_key
from depthwise.data.repeated import Repeated, repeated, several_times
from depthwise.data.sources.source import Seen


class Range(NamedTuple):
    """The lowest, the median and the highest."""

    lowest: int
    median: float
    highest: int


@dataclass(frozen=True)
class Tally:
    """counts: images by part and class; by_part: of each part. widths, heights: in pixels. modes: images of each format
    and mode. repeated: those that are there more than once.

    labels_per_image: how many classes an image shows. unlabelled: images that show none. together: classes of at least
    two images that show only together.
    """

    num_images: int
    counts: dict[str, dict[str, int]]
    by_part: dict[str, int]
    widths: Range
    heights: Range
    modes: dict[str, int]
    repeated: Repeated
    labels_per_image: Range
    unlabelled: int
    together: tuple[tuple[str, ...], ...]


def tally(seen: Callable[[], Iterable[Seen]]) -> Tally:
    """Of the images that `seen()` gives, the same each time: again only if some are there more than once."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    by_part: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    widths, heights, labels = array("i"), array("i"), array("i")
    contents = bytearray()
    # Of each class the numbers of its images, which are drawn, summed: two classes with one sum have the same images.
    drawn, sums = Random(0), Counter[str]()
    for image in seen():
        part, classes, _, content = image.placed
        by_part[part] += 1
        counts[part].update(classes)
        modes[image.mode] += 1
        widths.append(image.width)
        heights.append(image.height)
        labels.append(len(classes))
        contents += bytes.fromhex(content)
        number = drawn.getrandbits(96)
        for name in classes:
            sums[name] += number
    copies = several_times(np.frombuffer(contents, "S32"))
    again = (image.placed for image, copy in zip(seen(), copies, strict=True) if copy)
    return Tally(
        num_images=len(widths),
        counts={
            part: {name: of[name] for name in sorted(of, key=natural_key)} for part, of in counts.items()
        },
        by_part=dict(by_part),
        widths=_range(widths),
        heights=_range(heights),
        modes=dict(modes.most_common()),
        repeated=repeated(again if copies.any() else ()),
        labels_per_image=_range(labels),
        unlabelled=labels.count(0),
        together=_together(sums, sum(counts.values(), Counter())),
    )


def _together(sums: Counter[str], counts: Counter[str]) -> tuple[tuple[str, ...], ...]:
    groups: dict[int, list[str]] = defaultdict(list)
    for name in sorted(sums, key=natural_key):
        groups[sums[name]].append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1 and counts[names[0]] > 1)


def _range(values: "array[int]") -> Range:
    ordered = sorted(values)
    return Range(ordered[0], median(ordered), ordered[-1]) if ordered else Range(0, 0, 0)
