"""How much room each piece takes about the line that runs through it, and putting it on a sheet.

`extent` and `paint` go through the pieces alike; all drawing is downwards along a vertical line, the axis.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import TypeVar

from depthwise.draw.pieces import BY, Box, Chain, Fork, Label, Mark, Piece, Repeat, Sum, followed
from depthwise.draw.svg import SIZE, SMALL, Sheet, text_width

P = TypeVar("P", bound=Piece)

GAP = 14.0  # a line with its arrow
HALF_GAP = 7.0  # a line to a mark
PAD = 8.0
LINE_HEIGHT = SIZE + 1.5
PILL = 13.0
RADIUS = 7.0
FORK = 22.0
JOIN = 18.0
APART = 12.0
STUB = 12.0
TIMES = SIZE + 3
LINE = 4.0  # the room of a bare line on either side
LABEL = 7.0

WIDE, NARROW = 165.0, 104.0
"""What a text's width may be in the main line and within branches before it is broken."""


@dataclass(frozen=True)
class Extent:
    """The room left and right of the axis, and the height."""

    left: float
    right: float
    height: float

    @property
    def width(self) -> float:
        return self.left + self.right


def sized(chains: list[Chain]) -> list[Chain]:
    """The chains with text broken into lines, and boxes as wide as their neighbours: all in the main line alike."""
    fitted = [_fitted(part, WIDE) for part in chains]
    width = max((box.width for part in fitted for box in _in_line(part)), default=0.0)
    return [_even(part, width) for part in fitted]


@cache
def extent(piece: Piece) -> Extent:
    """The room that `piece` takes."""
    match piece:
        case Box(text, width=width):
            return Extent(width / 2, width / 2, LINE_HEIGHT * len(text) + 8)
        case Mark(text):
            half = text_width(text, SMALL) / 2 + 6
            return Extent(half, half, PILL)
        case Label(text):
            return Extent(LINE, text_width(text, SMALL) + LABEL, 0)
        case Chain(items):
            each = [extent(item) for item in items]
            height = sum(e.height for e in each) + sum(gap(*pair) for pair in pairwise(items))
            return Extent(max([LINE, *(e.left for e in each)]), max([LINE, *(e.right for e in each)]), height)
        case Fork(branches):
            each = [extent(branch) for branch in branches]
            width = max(sum(e.width for e in each) + APART * (len(each) - 1), extent(piece.join).width)
            return Extent(width / 2, width / 2, FORK + max(e.height for e in each) + GAP + JOIN)
        case Sum(body, skip):
            main, side = extent(body), extent(skip)
            left = main.left + APART + side.width
            height = max(main.height, side.height) + STUB + GAP + 2 * RADIUS
            return Extent(max(left, RADIUS), max(main.right, RADIUS), height)
        case Repeat(body, times):
            inner = extent(body)
            label = text_width(f"{BY} {times}", TIMES) + PAD
            return Extent(inner.left + PAD, inner.right + PAD + label, inner.height + STUB + GAP - 4)


def gap(above: Piece, below: Piece) -> float:
    """The length of the line between two pieces: short to what stands on it or beside it."""
    return HALF_GAP if isinstance(below, Mark) else GAP - 4 if isinstance(below, Label) else GAP


def headed(piece: Piece) -> bool:
    """Whether the line to `piece` ends in an arrow's head; elsewhere it goes on inside."""
    return isinstance(piece, Box)


def paint(piece: Piece, x: float, y: float, sheet: Sheet) -> None:
    """Put `piece` on the sheet, with its axis at `x` and its top at `y`."""
    match piece:
        case Box(text, kind, note=note, width=width):
            sheet.box(x - width / 2, y, width, extent(piece).height, text, kind, note)
        case Mark(text):
            room = extent(piece)
            sheet.pill(x - room.left, y, room.width, room.height, text)
        case Label(text):
            sheet.label(x + LABEL, y + 0.36 * SMALL, text, faint=True)
        case Chain(items):
            for item, below in followed(items):
                paint(item, x, y, sheet)
                y += extent(item).height
                if below is not None:
                    sheet.line((x, y), (x, y + gap(item, below)), head=headed(below))
                    y += gap(item, below)
        case Fork():
            _paint_fork(piece, x, y, sheet)
        case Sum():
            _paint_sum(piece, x, y, sheet)
        case Repeat(body, times):
            room, inner = extent(piece), extent(body)
            label = text_width(f"{BY} {times}", TIMES)
            sheet.frame(x - room.left, y, inner.width + 2 * PAD, room.height)
            _through(body, x, y, STUB, room.height, sheet)
            sheet.label(
                x + room.right - label,
                y + room.height / 2 + 0.36 * TIMES,
                f"{BY} {times}",
                size=TIMES,
                bold=True,
            )


def _through(body: Chain, x: float, y: float, before: float, height: float, sheet: Sheet) -> None:
    """Paint `body` with the line that leads to it from `y`, and on to `y + height`."""
    end = y + before + extent(body).height
    if body.items:
        sheet.line((x, y), (x, y + before), head=headed(body.items[0]))
        paint(body, x, y + before, sheet)
    sheet.line((x, end if body.items else y), (x, y + height))


def _paint_fork(fork: Fork, x: float, y: float, sheet: Sheet) -> None:
    room, joined = extent(fork), extent(fork.join)
    each = [extent(branch) for branch in fork.branches]
    spare = room.width - sum(e.width for e in each) - APART * (len(each) - 1)
    left = x - room.left + spare / 2
    axes = []
    for e in each:
        axes.append(left + e.left)
        left += e.width + APART
    bus, top, join = y + 6, y + FORK, y + room.height - JOIN
    sheet.line((x, y), (x, bus))
    for branch, axis in zip(fork.branches, axes, strict=True):
        first = branch.items[0] if branch.items else fork.join
        end = (axis, top if branch.items else join)
        head = headed(first)
        sheet.line(*([(x, bus)] if axis != x else []), (axis, bus), end, head=head)
        if branch.items:
            paint(branch, axis, top, sheet)
            sheet.line((axis, top + extent(branch).height), (axis, join), head=True)
    low = min(axes[0] - APART, x - joined.width / 2)
    high = max(axes[-1] + APART, x + joined.width / 2)
    sheet.box(low, join, high - low, JOIN, fork.join.text, fork.join.kind, fork.join.note)


def _paint_sum(piece: Sum, x: float, y: float, sheet: Sheet) -> None:
    room, main, side = extent(piece), extent(piece.body), extent(piece.skip)
    node = y + room.height - RADIUS
    _through(piece.body, x, y, STUB, room.height - 2 * RADIUS, sheet)
    axis, branch = x - main.left - APART - side.right, y + 4
    end = (x - RADIUS, node)
    if piece.skip.items:
        top = branch + (node - branch - side.height) / 2
        sheet.line((x, branch), (axis, branch), (axis, top), head=headed(piece.skip.items[0]))
        paint(piece.skip, axis, top, sheet)
        sheet.line((axis, top + side.height), (axis, node), end, head=True)
    else:
        sheet.line((x, branch), (axis, branch), (axis, node), end, head=True)
    sheet.plus(x, node, RADIUS)


def _fitted(piece: P, limit: float) -> P:
    """`piece` with the text of its boxes in as few lines as `limit`, or within branches `NARROW`, allows."""
    match piece:
        case Box(text):
            lines = [text[0]]
            for part in text[1:]:
                if text_width(longer := f"{lines[-1]}, {part}") <= limit:
                    lines[-1] = longer
                else:
                    lines.append(part)
            return replace(piece, text=tuple(lines), width=max(map(text_width, lines)) + 12)
        case Chain(items):
            return replace(piece, items=tuple(_fitted(item, limit) for item in items))
        case Fork(branches, join):
            narrow = tuple(_fitted(branch, NARROW) for branch in branches)
            return replace(piece, branches=narrow, join=_fitted(join, NARROW))
        case Sum(body, skip):
            return replace(piece, body=_fitted(body, limit), skip=_fitted(skip, NARROW))
        case Repeat(body):
            return replace(piece, body=_fitted(body, limit))
    return piece


def _even(piece: P, width: float) -> P:
    """`piece` with all boxes in its line `width` wide, and those of each fork as wide as its widest."""
    match piece:
        case Box():
            return replace(piece, width=width)
        case Chain(items):
            return replace(piece, items=tuple(_even(item, width) for item in items))
        case Fork(branches):
            widest = max((box.width for branch in branches for box in _in_line(branch)), default=0.0)
            return replace(piece, branches=tuple(_even(branch, widest) for branch in branches))
        case Sum(body):
            return replace(piece, body=_even(body, width))
        case Repeat(body):
            return replace(piece, body=_even(body, width))
    return piece


def _in_line(piece: Piece) -> Iterator[Box]:
    """The boxes of `piece` that stand on its axis, those of branches and skips left out."""
    match piece:
        case Box():
            yield piece
        case Chain(items):
            for item in items:
                yield from _in_line(item)
        case Sum(body) | Repeat(body):
            yield from _in_line(body)
