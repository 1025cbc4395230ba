"""Where the maps of a plan lie in its one arena."""

from collections.abc import Mapping, Sequence

from depthwise.infer.fuse import Step

ALIGNMENT = 64


def lay_out(
    steps: Sequence[Step], homes: Mapping[int, tuple[int, int]], sizes: Mapping[int, int], result: int
) -> tuple[dict[int, int], int]:
    """Where each map starts, so that none lies on another that is still read, and how long they are together.

    `sizes` are the maps' bytes, multiples of ALIGNMENT; `homes` as a Schedule has them; `result` is read at the end.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for time, step in enumerate(steps):
        written, _ = homes.get(step.result, (step.result, 0))
        first.setdefault(written, time)
        for index in (written, step.source, step.residual, step.gate):
            if index is not None:
                last[index] = time
    last[result] = len(steps)
    # Maps take turns in places, each in the middle of its own: the halves that two threads write were last written
    # by them there, and need not come from another core's cache.
    places: list[list[int]] = []
    for index in first:

        def growth(place: list[int], size: int = sizes[index]) -> tuple[int, int]:
            room = max(sizes[other] for other in place)
            return max(size - room, 0), room

        free = [place for place in places if last[place[-1]] < first[index]]
        if free:
            min(free, key=growth).append(index)
        else:
            places.append([index])
    offsets: dict[int, int] = {}
    arena_bytes = 0
    for place in places:
        room = max(sizes[index] for index in place)
        for index in place:
            offsets[index] = arena_bytes + (room - sizes[index]) // (2 * ALIGNMENT) * ALIGNMENT
        arena_bytes += room
    return offsets, arena_bytes
