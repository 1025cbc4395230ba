"""Where the maps of a layout lie in one arena."""

from collections.abc import Iterable, Mapping

from depthwise.infer.layout import Layout

ALIGNMENT = 64


def place(layout: Layout, sizes: Mapping[int, int], kept: Iterable[int] = ()) -> tuple[dict[int, int], int]:
    """Where each map starts, so that none lies on another that is still read, and the bytes of all together.

    `sizes`: the bytes, multiples of ALIGNMENT, of each map that has memory of its own. The result and the maps that are
    `kept` are read at the end.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for time, step in enumerate(layout.steps):
        written = layout.maps[step.result].owner
        first.setdefault(written, time)
        for index in (written, step.source, step.residual, step.gate):
            if index is not None:
                last[index] = time
    last |= {layout.maps[index].owner: len(layout.steps) for index in (layout.result, *kept)}
    # Maps take turns in slots. Each lies in the middle of its slot: then the half that a thread writes was last written
    # by the same thread, and need not come from another core's cache.
    slots: list[list[int]] = []
    for index in first:

        def growth(slot: list[int], size: int = sizes[index]) -> tuple[int, int]:
            room = max(sizes[other] for other in slot)
            return max(size - room, 0), room

        free = [slot for slot in slots if last[slot[-1]] < first[index]]
        if free:
            min(free, key=growth).append(index)
        else:
            slots.append([index])
    offsets: dict[int, int] = {}
    arena_bytes = 0
    for slot in slots:
        room = max(sizes[index] for index in slot)
        for index in slot:
            offsets[index] = arena_bytes + (room - sizes[index]) // (2 * ALIGNMENT) * ALIGNMENT
        arena_bytes += room
    return offsets, arena_bytes
