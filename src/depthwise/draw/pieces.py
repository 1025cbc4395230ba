"""What a picture is made of: boxes, marks between them, and how they hang together, compared as they are drawn."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

# A run of equal pieces is folded where that saves as many boxes as this.
WORTH_FOLDING = 3

# The share of the convolutions from which on an activation is said once, in the caption, and no more at each.
COMMON = 0.8

BY = "\N{MULTIPLICATION SIGN}"

CONVOLUTIONS = ("regular", "grouped", "depthwise", "pointwise")


@dataclass(frozen=True)
class Box:
    """A layer: its text in parts, the kind that colours it, its output's shape, and a note for who points at it.

    `agree` is what of the shape counts when boxes are compared: pools may differ in channels, which they do not show.
    """

    text: tuple[str, ...]
    kind: str
    output: tuple[int, ...] = field(compare=False)
    agree: tuple[int, ...]
    note: str = field(default="", compare=False)
    width: float = 0.0


@dataclass(frozen=True)
class Mark:
    """What stands small on the line between two boxes: an activation, a dropout, a factor."""

    text: str


@dataclass(frozen=True)
class Label:
    """What is written beside the line: the shape that runs there."""

    text: str


@dataclass(frozen=True)
class Chain:
    """Pieces one after another; none is a bare line."""

    items: tuple["Piece", ...]


@dataclass(frozen=True)
class Fork:
    """Branches side by side, joined in `join`."""

    branches: tuple[Chain, ...]
    join: Box


@dataclass(frozen=True)
class Sum:
    """A body beside its skip, added up."""

    body: Chain
    skip: Chain
    output: tuple[int, ...]


@dataclass(frozen=True)
class Repeat:
    """`body`, `times` times."""

    body: Chain
    times: int


Piece = Box | Mark | Label | Chain | Fork | Sum | Repeat


def chain(pieces: Sequence[Piece]) -> Chain:
    """The pieces in order, chains among them dissolved and runs of equal ones folded."""
    items: list[Piece] = []
    for piece in _folded(list(pieces)):
        items.extend(piece.items if isinstance(piece, Chain) else (piece,))
    return Chain(tuple(_folded(items)))


def boxes(piece: Piece) -> Iterator[Box]:
    """All boxes of `piece`, one time each however often they are repeated."""
    match piece:
        case Box():
            yield piece
        case Chain(items):
            for item in items:
                yield from boxes(item)
        case Fork(branches, join):
            for branch in branches:
                yield from boxes(branch)
            yield join
        case Sum(body, skip):
            yield from boxes(body)
            yield from boxes(skip)
        case Repeat(body):
            yield from boxes(body)


def output(piece: Piece) -> tuple[int, ...]:
    """The shape behind `piece`; () where it says none."""
    match piece:
        case Box() | Sum():
            return piece.output
        case Fork(join=join):
            return join.output
        case Chain(items):
            return next(filter(None, map(output, reversed(items))), ())
        case Repeat(body):
            return output(body)
        case Mark() | Label():
            return ()


def followed(items: Sequence[Piece]) -> Iterator[tuple[Piece, Piece | None]]:
    """Each piece with the next one, None behind the last."""
    return zip_longest(items, items[1:])


def common_mark(chains: Sequence[Chain]) -> str | None:
    """The mark behind so many convolutions that the caption can say it, or None."""
    behind = [
        second.text if isinstance(second, Mark) else None
        for part in chains
        for inner in _chains(part)
        for first, second in followed(inner.items)
        if isinstance(first, Box) and first.kind in CONVOLUTIONS
    ]
    counts = Counter(mark for mark in behind if mark is not None)
    return next((mark for mark, count in counts.items() if count >= COMMON * len(behind)), None)


def without(piece: Chain, mark: str) -> Chain:
    """`piece` without `mark` behind convolutions, those that lack it being marked as linear."""
    items: list[Piece] = []
    for item, below in followed(piece.items):
        last = items[-1] if items else None
        match item:
            case Mark(text) if text == mark and isinstance(last, Box) and last.kind in CONVOLUTIONS:
                continue
            case Box(text, kind) if kind in CONVOLUTIONS and below != Mark(mark):
                item = replace(item, text=(*text, "linear"))
            case Fork(branches):
                item = replace(item, branches=tuple(without(branch, mark) for branch in branches))
            case Sum(body, skip):
                item = replace(item, body=without(body, mark), skip=without(skip, mark))
            case Repeat(body):
                item = replace(item, body=without(body, mark))
        items.append(item)
    return Chain(tuple(items))


def _chains(piece: Piece) -> Iterator[Chain]:
    """All chains in `piece`."""
    match piece:
        case Chain(items):
            yield piece
            for item in items:
                yield from _chains(item)
        case Fork(branches):
            for branch in branches:
                yield from _chains(branch)
        case Sum(body, skip):
            yield from _chains(body)
            yield from _chains(skip)
        case Repeat(body):
            yield from _chains(body)


def _folded(items: list[Piece]) -> list[Piece]:
    """The items with the runs that are worth it replaced by a Repeat."""
    result: list[Piece] = []
    i = 0
    while i < len(items):
        length, times = _run(items[i:])
        if times > 1:
            result.append(Repeat(chain(items[i : i + length]), times))
        else:
            result.append(items[i])
        i += length * times
    return result


def _run(items: list[Piece]) -> tuple[int, int]:
    """How long the unit is that `items` begin with several times, and how many times; (1, 1) if that saves little."""
    best, most = (1, 1), WORTH_FOLDING - 1
    for length in range(1, len(items) // 2 + 1):
        unit, times = items[:length], 1
        while items[times * length : (times + 1) * length] == unit:
            times += 1
        saved = (times - 1) * sum(1 for item in unit for _ in boxes(item))
        if saved > most:
            best, most = (length, times), saved
    return best
