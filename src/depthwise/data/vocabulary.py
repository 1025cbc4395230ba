"""Which labels are classes, and by what numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depthwise.data.columns import Columns
from depthwise.data.names import composed, some
from depthwise.words import number_of


class Vocabulary(NamedTuple):
    """Classes in order. numbers: int64, of each label that was found, its class or -1. unknown: labels that a fixed
    list of classes has not, with their images. notes: sentences about what is no class."""

    classes: tuple[str, ...]
    numbers: NDArray[np.int64]
    unknown: dict[str, int]
    notes: tuple[str, ...]


def choose_classes(
    found: Sequence[str], counts: NDArray[np.int64], learned: NDArray[np.int64], columns: Columns
) -> Vocabulary:
    """Of labels `found` in counts[k] images, learned[k] of which are trained on: those with enough of the latter.

    columns: may name the classes and their order; otherwise they are sorted.
    """
    if columns.classes is not None:
        classes = tuple(map(composed, columns.classes))
        kept = set(classes)
        unknown = {name: int(n) for name, n in zip(found, counts, strict=True) if name not in kept and n}
        notes = [_unlisted(unknown)] if unknown else []
    else:
        enough = [name for name, n in zip(found, learned, strict=True) if n >= columns.min_count]
        classes, unknown = tuple(sorted(enough)), {}
        kept = set(enough)
        rest = {name: int(n) for name, n in zip(found, counts, strict=True) if n and name not in kept}
        notes = _rare(rest, columns.min_count)
    places = {name: place for place, name in enumerate(classes)}
    numbers = np.array([places.get(name, -1) for name in found], np.int64)
    return Vocabulary(classes, numbers, unknown, tuple(notes))


def _unlisted(unknown: dict[str, int]) -> str:
    which = some(f"{name} ({number_of(count, 'image')})" for name, count in unknown.items())
    return f"{number_of(len(unknown), 'label')} that the list of classes has not, left out: {which}"


def _rare(rest: dict[str, int], least: int) -> list[str]:
    if not rest:
        return []
    which = some(f"{name} ({number_of(count, 'image')})" for name, count in rest.items())
    if least > 1:
        return [f"{number_of(len(rest), 'label')} of under {least} training images, left out: {which}"]
    return [f"{number_of(len(rest), 'label')} that no training image has, left out: {which}"]
