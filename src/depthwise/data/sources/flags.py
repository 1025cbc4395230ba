"""Columns that are a label each: 1 for an image that has it, and 0 or, as in CelebA, -1 for one that has not."""

from collections.abc import Sequence
from typing import Any

from depthwise.data.sources.tables import Table

_VALUES = {
    **{"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0, "-1": -1, "-1.0": -1},
    **{"": None, "none": None},
}
"""What a cell means, in lower case: None for an empty one, which says nothing."""
_KINDS = ({0, 1}, {-1, 1})


def is_set(value: Any) -> bool:
    """Whether a cell says that the image has the label."""
    return _VALUES.get(_plain(value)) == 1


def flagged(table: Table, names: Sequence[str]) -> tuple[str, ...]:
    """The columns among `names` in which nothing but 1, and 0 or -1, stands, if there are two or more."""
    seen: dict[str, set[int]] = {name: set() for name in names if name}
    if len(seen) < 2:
        return ()
    read = list(seen)
    for _, values in table.rows(read):
        for name, value in zip(read, values, strict=True):
            found = _VALUES.get(_plain(value), 2)
            if found is not None and name in seen:
                seen[name].add(found)
                if not any(seen[name] <= kind for kind in _KINDS):
                    del seen[name]
        if len(seen) < 2:
            return ()
    flags = tuple(name for name, found in seen.items() if found)
    return flags if len(flags) > 1 else ()


def _plain(value: Any) -> str:
    return str(value).strip().lower()
