"""Pictures that a data set holds more than once, byte for byte: in two classes, or in two of its parts."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from depthwise.data.names import shortened
from depthwise.words import number_of

T = TypeVar("T", bound=tuple[Any, ...])


class Placed(NamedTuple):
    """An image in a part of a data set. classes: that it shows, one or any number; content: its SHA-256."""

    part: str
    classes: tuple[str, ...]
    name: str
    content: str


Group = tuple[Placed, ...]
"""Images of one content."""


class Repeated(NamedTuple):
    """Images that are there more than once; conflicts: those in different classes; leaks: in more than one part."""

    duplicates: tuple[Group, ...]
    conflicts: tuple[Group, ...]
    leaks: tuple[Group, ...]


def several_times(contents: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """bool [n]: which of the digests, S32 [n], are there more than once."""
    _, places, counts = np.unique(contents, return_inverse=True, return_counts=True)
    return np.asarray(counts[places] > 1)


def repeated(images: Iterable[Placed]) -> Repeated:
    """The images that are not the only ones of their content."""
    by_content = defaultdict(list)
    for image in images:
        by_content[image.content].append(image)
    groups = tuple(tuple(group) for group in by_content.values() if len(group) > 1)
    return Repeated(
        groups,
        conflicts=tuple(group for group in groups if len({image.classes for image in group}) > 1),
        leaks=tuple(group for group in groups if len({image.part for image in group}) > 1),
    )


def problems(conflicts: Iterable[T], leaks: Iterable[T], *, several: bool = False) -> dict[str, list[T]]:
    """What falsifies a training: by a clause, "2 images are in two classes", the groups it is about, each once.

    several: an image may show any number of classes.
    """
    classes, parts = set(conflicts), set(leaks)
    apart = "there with different labels" if several else "in two classes"
    kinds = {
        apart: classes - parts,
        f"{apart} and {'in ' if several else ''}two parts": classes & parts,
        "in two parts": parts - classes,
    }
    return {
        f"{number_of(len(groups), 'image is', 'images are')} {where}": sorted(groups)
        for where, groups in kinds.items()
        if groups
    }


def told(found: Repeated, command: str) -> tuple[str, ...]:
    """A sentence for each kind of problem, with an example; `command` lists them all."""
    several = any(len(image.classes) != 1 for group in found.duplicates for image in group)
    return tuple(
        f"{clause}, {_example(groups[0])}{' for one' if len(groups) > 1 else ''}: see `{command}`"
        for clause, groups in problems(found.conflicts, found.leaks, several=several).items()
    )


def _example(group: Group) -> str:
    """Two of a group, as far apart as there are."""
    first, *others = group
    other = max(others, key=lambda image: (image.part != first.part) + (image.classes != first.classes))
    return f"{shortened(first.name)} = {shortened(other.name)}"
