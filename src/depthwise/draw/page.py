"""The whole picture: sections as bands, bands in columns that fill a landscape page, title, legend and caption."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise, zip_longest

from depthwise.draw.layout import GAP, LABEL, extent, headed, paint, sized
from depthwise.draw.pieces import Box, Chain, Label, Mark, Piece, boxes, common_mark, output, without
from depthwise.draw.read import Reading, Section, shape_text
from depthwise.draw.svg import PALETTE, SIZE, SMALL, Sheet, text_width

ASPECT = 1.6
"""Width over height of the page that the columns are to fill."""

MAX_COLUMNS = 8

# A stage up to this height stays in one column; a taller one may be broken in so many places.
TALL, MAX_UNITS = 480.0, 40

MARGIN, GUTTER, PAD, HEADER, BETWEEN, ASIDE = 24.0, 48.0, 12.0, 31.0, 24.0, 30.0
TITLE, HEADING = 20.0, 14.0
LONGEST = 80
BOLD = 1.06  # bold letters are so much wider

FLOWS = {"entry": "Entry flow", "middle": "Middle flow", "exit": "Exit flow"}


@dataclass(frozen=True)
class Band:
    """What of a section stands in one column; `side` is the tower that looks at its output."""

    name: str
    costs: tuple[str, ...]
    pieces: Chain
    output: str
    side: "Band | None" = None

    @property
    def left(self) -> float:
        return max(extent(self.pieces).left, text_width(self.name) * BOLD + 8) + PAD

    @property
    def right(self) -> float:
        return max([extent(self.pieces).right, *(text_width(cost, SMALL) + 8 for cost in self.costs)]) + PAD

    @property
    def header(self) -> float:
        return HEADER if self.name else PAD + GAP

    @property
    def height(self) -> float:
        return self.header + extent(self.pieces).height + PAD

    def paint(self, x: float, y: float, left: float, right: float, sheet: Sheet) -> float:
        """Paint the band from `left` to `right` of the axis at `x`; where its last piece ends is returned."""
        sheet.band(x - left, y, left + right, self.height)
        sheet.label(x - left + PAD, y + 15, self.name, size=SIZE, bold=True)
        for i, cost in enumerate(self.costs):
            sheet.label(x + right - PAD, y + 13 + 11 * i, cost, faint=True, anchor="end")
        paint(self.pieces, x, y + self.header, sheet)
        return y + self.header + extent(self.pieces).height


@dataclass(frozen=True)
class Column:
    """Bands below one another, and the towers at their side."""

    bands: tuple[Band, ...]
    heading: str = ""

    @cached_property
    def left(self) -> float:
        return max([text_width(self.heading, HEADING) * BOLD / 2, *(band.left for band in self.bands)])

    @cached_property
    def inner_right(self) -> float:
        return max([text_width(self.heading, HEADING) * BOLD / 2, *(band.right for band in self.bands)])

    @cached_property
    def sides(self) -> list[tuple[int, Band, float]]:
        """Of each tower the number of the band it looks at, the tower, and how far down it begins."""
        placed: list[tuple[int, Band, float]] = []
        bottom, free = 0.0, 0.0
        for i, band in enumerate(self.bands):
            bottom += band.height + BETWEEN * (i > 0)
            if band.side:
                top = max(bottom + BETWEEN, free)
                placed.append((i, band.side, top))
                free = top + band.side.height + BETWEEN + 18
        return placed

    @cached_property
    def right(self) -> float:
        aside = max((side.left + side.right for _, side, _ in self.sides), default=0.0)
        return self.inner_right + (ASIDE + aside if aside else 0)

    @cached_property
    def height(self) -> float:
        bands = sum(band.height for band in self.bands) + BETWEEN * (len(self.bands) - 1)
        return max([bands, *(top + side.height + BETWEEN for _, side, top in self.sides)])

    @property
    def width(self) -> float:
        return self.left + self.right

    def paint(self, x: float, y: float, sheet: Sheet) -> float:
        """Paint the column about the axis at `x`; where the last piece ends is returned."""
        end, tops = 0.0, []
        if self.heading:
            sheet.label(x, y - 34, self.heading, size=HEADING, bold=True, anchor="middle")
        top = y
        for i, band in enumerate(self.bands):
            if i:
                sheet.line((x, end), (x, top + band.header), head=headed(band.pieces.items[0]))
            end = band.paint(x, top, self.left, self.inner_right, sheet)
            top += band.height
            tops.append(top)
            sheet.label(x + LABEL, top + BETWEEN / 2 + 0.36 * SMALL, band.output)
            top += BETWEEN
        for i, side, down in self.sides:
            self._paint_side(side, x, tops[i] + 6, y + down, sheet)
        return end

    def _paint_side(self, side: Band, x: float, branch: float, top: float, sheet: Sheet) -> None:
        axis = x + self.inner_right + ASIDE + side.left
        gutter = x + self.inner_right + ASIDE / 2
        path = [(x, branch), (gutter, branch), (gutter, top - 8), (axis, top - 8), (axis, top + side.header)]
        if top - 8 - branch < 16:
            path = [(x, branch), (axis, branch), (axis, top + side.header)]
        sheet.line(*path, head=headed(side.pieces.items[0]))
        end = side.paint(axis, top, side.left, side.right, sheet)
        bottom = top + side.height
        sheet.line((axis, end), (axis, bottom + BETWEEN - 6), head=True)
        sheet.label(axis + LABEL, bottom + BETWEEN / 2 + 0.36 * SMALL, side.output)


def compose(reading: Reading, name: str) -> str:
    """The SVG of `reading` under the title `name`."""
    name = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
    caption = ["Batch norm is not drawn."] if reading.normed else []
    if reading.opaque:
        caption.append("What modules compute between their layers is not drawn.")
    sections = _flat(reading.sections)
    if mark := common_mark([section.pieces for section in sections]):
        sections = [replace(section, pieces=without(section.pieces, mark)) for section in sections]
        linear = any("linear" in box.text for section in sections for box in boxes(section.pieces))
        caption.append(f"{mark} follows every convolution{' not marked linear' if linear else ''}.")
    fitted = sized([section.pieces for section in sections])
    sections = [replace(section, pieces=pieces) for section, pieces in zip(sections, fitted, strict=True)]
    columns = _columns(_nested(reading.sections, sections), reading)
    used = {box.kind for section in sections for box in boxes(section.pieces)}
    shape = shape_text(reading.input_shape)
    bill = f"{shape} · {reading.cost.parameters:,} parameters · {quantity(reading.cost.macs)}MAC"
    width = max(
        sum(column.width for column in columns) + GUTTER * (len(columns) - 1),
        text_width(name, TITLE) * BOLD + 16 + text_width(bill, SIZE + 1),
    )
    sheet = Sheet()
    sheet.label(MARGIN, MARGIN + 16, name, size=TITLE, bold=True)
    sheet.label(MARGIN + text_width(name, TITLE) * BOLD + 16, MARGIN + 16, bill, size=SIZE + 1, faint=True)
    y = MARGIN + 62 + (20 if any(column.heading for column in columns) else 0)
    y = _paint_columns(columns, MARGIN, y, reading, sheet)
    y = _legend(used, caption, MARGIN, y + 16, width, sheet)
    stages = ", ".join(
        f"{section.name or 'layers'} to {shape_text(section.output)}" for section in reading.sections
    )
    return sheet.svg(
        width + 2 * MARGIN,
        y + MARGIN,
        f"Architecture of {name}",
        f"Input {shape}; {stages}. {reading.cost.parameters:,} parameters, {reading.cost.macs:,} multiply-adds.",
    )


def quantity(value: float) -> str:
    """1234567 -> '1.23 M'."""
    for scale, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            value /= scale
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {prefix}"
    return f"{value:g} "


def _paint_columns(columns: Sequence[Column], x: float, y: float, reading: Reading, sheet: Sheet) -> float:
    """Paint the columns with the lines between them from `x` and `y` on; the bottom of all is returned."""
    bottom = y
    axis = x + columns[0].left
    first = columns[0].bands[0]
    sheet.line((axis, y - 24), (axis, y + first.header), head=headed(first.pieces.items[0]))
    sheet.label(axis + LABEL, y - 11, f"{shape_text(reading.input_shape)} input")
    for column, following in zip_longest(columns, columns[1:]):
        axis = x + column.left
        end, base = column.paint(axis, y, sheet), y + column.height + BETWEEN
        if following is None:
            sheet.line((axis, end), (axis, base - 4), head=True)
        else:
            gutter = x + column.width + GUTTER / 2
            target = x + column.width + GUTTER + following.left
            sheet.line(
                (axis, end),
                (axis, base),
                (gutter, base),
                (gutter, y - 18),
                (target, y - 18),
                (target, y + following.bands[0].header),
                head=headed(following.bands[0].pieces.items[0]),
            )
        bottom = max(bottom, base)
        x += column.width + GUTTER
    return bottom


def _legend(used: set[str], caption: Sequence[str], x: float, y: float, width: float, sheet: Sheet) -> float:
    """Put the colours' meanings and the sentences of the caption into lines of `width`; the bottom is returned."""
    left, row = x, y
    for kind, (_, _, meaning) in PALETTE.items():
        if kind in used:
            room = 19 + text_width(meaning, SIZE) + 8
            if left > x and left + room > x + width:
                left, row = x, row + 18
            sheet.swatch(left, row, kind)
            sheet.label(left + 19, row + 9, meaning, size=SIZE, faint=True)
            left += room
    for sentence in caption:
        room = text_width(sentence) + 8
        if left > x and left + room > x + width:
            left, row = x, row + 18
        sheet.label(left, row + 9, sentence, size=SIZE, faint=True)
        left += room
    return row + 12


def _flat(sections: Sequence[Section]) -> list[Section]:
    """The sections, each followed by its tower."""
    return [part for section in sections for part in (section, section.side) if part]


def _nested(sections: Sequence[Section], flat: Sequence[Section]) -> list[Section]:
    """`flat`, which has the order of `_flat(sections)`, with the towers in their places again."""
    parts = iter(flat)
    return [replace(next(parts), side=next(parts) if section.side else None) for section in sections]


def _columns(sections: Sequence[Section], reading: Reading) -> list[Column]:
    """The sections in columns: Xception's by its flows, otherwise in as many as fill the page, even in height."""
    units = [(section, items) for section in sections for items in _units(section)]
    if {"middle", "exit"} <= {section.name for section in sections}:
        groups = groupby(units, key=lambda unit: _flow(unit[0].name, [section.name for section in sections]))
        return [Column(_bands(list(group), reading), FLOWS[flow]) for flow, group in groups]
    made = {
        (i, j): Column(_bands(units[i:j], reading))
        for i in range(len(units))
        for j in range(i + 1, len(units) + 1)
    }
    choices = []
    for number in range(1, min(MAX_COLUMNS, len(units)) + 1):
        cuts = _cut(len(units), number, {span: column.height for span, column in made.items()})
        columns = [made[cut] for cut in pairwise(cuts)]
        width = sum(column.width for column in columns) + GUTTER * (number - 1)
        height = max(column.height for column in columns) + 2 * BETWEEN
        choices.append((abs(math.log(width / height / ASPECT)), number, columns))
    return min(choices)[2]


def _flow(name: str, names: Sequence[str]) -> str:
    place = names.index(name)
    return "entry" if place < names.index("middle") else "middle" if name == "middle" else "exit"


def _units(section: Section) -> list[tuple[Piece, ...]]:
    """What of a section no column breaks: all of it, or of a tall one a few pieces with the marks behind them."""
    height = extent(section.pieces).height
    if height <= TALL:
        return [section.pieces.items]
    enough = max(TALL / 4, height / MAX_UNITS)
    units: list[tuple[Piece, ...]] = [()]
    for item in section.pieces.items:
        if isinstance(item, Mark | Label) or extent(Chain(units[-1])).height < enough:
            units[-1] += (item,)
        else:
            units.append((item,))
    return units


def _cut(count: int, number: int, heights: dict[tuple[int, int], float]) -> list[int]:
    """Where to cut `count` units into `number` columns so that the highest is as low as it can be."""
    best: dict[tuple[int, int], tuple[float, list[int]]] = {(0, 0): (0.0, [0])}
    for n in range(1, number + 1):
        for j in range(n, count + 1):
            best[n, j] = min(
                (max(best[n - 1, i][0], heights[i, j]), [*best[n - 1, i][1], j])
                for i in range(n - 1, j)
                if (n - 1, i) in best
            )
    return best[number, count][1]


def _bands(units: Sequence[tuple[Section, tuple[Piece, ...]]], reading: Reading) -> tuple[Band, ...]:
    """The bands of one column; a section that began in another says so."""
    bands = []
    for _, same in groupby(units, key=lambda unit: id(unit[0])):
        group = list(same)
        section, items = group[0][0], [item for _, part in group for item in part]
        begins, ends = items[0] is section.pieces.items[0], items[-1] is section.pieces.items[-1]
        while isinstance(items[-1], Label):
            items.pop()
        shape = section.output if ends else output(Chain(tuple(items)))
        bands.append(
            Band(
                section.name if begins else f"{section.name}, continued" if section.name else "",
                _costs(section, reading) if begins and section.name else (),
                Chain(tuple(items)),
                _output(shape, items[-1]),
                _side(section.side) if ends and section.side else None,
            )
        )
    return tuple(bands)


def _side(section: Section) -> Band:
    return Band(
        section.name,
        (f"{quantity(section.parameters)} parameters",),
        section.pieces,
        _output(section.output, section.pieces.items[-1]),
    )


def _costs(section: Section, reading: Reading) -> tuple[str, ...]:
    if not section.parameters and not section.macs:
        return ()
    share = section.macs / reading.cost.macs if reading.cost.macs else 0.0
    percent = f"{share:.0%}" if share == 0 or share >= 0.005 else "<1%"
    return f"{quantity(section.parameters)} parameters", f"{quantity(section.macs)}MAC, {percent}"


def _output(shape: tuple[int, ...], last: Piece) -> str:
    if len(shape) != 1:
        return shape_text(shape)
    return f"{shape[0]} {'logits' if isinstance(last, Box) and last.kind == 'linear' else 'features'}"
