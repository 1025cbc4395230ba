"""A few of many, evenly spread: the images that are looked at in place of all."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def evenly(values: Sequence[T], most: int) -> list[T]:
    """Up to `most` of `values` in their order, the first among them; all if there are no more."""
    count = min(most, len(values))
    return [values[i * len(values) // count] for i in range(count)]
