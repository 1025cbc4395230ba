"""A sheet that shapes are put on, and the SVG of it: plain shapes and real text, without styles, scripts or fonts."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from depthwise.draw.pieces import BY

FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, system-ui, sans-serif"
SIZE, SMALL = 11.0, 9.0

INK, FAINT, LINE, BAND = "#1f2933", "#616e7c", "#52606d", "#f3f5f7"

PALETTE = {
    "regular": ("#d6e4f5", "#3f72af", "convolution"),
    "grouped": ("#d9dcf5", "#5a61b8", "grouped convolution"),
    "depthwise": ("#d3eedd", "#2f855a", "depthwise, separable"),
    "pointwise": ("#fdeccb", "#b7791f", f"1{BY}1 convolution"),
    "pooling": ("#f9dcd8", "#c0564a", "pooling"),
    "gate": ("#f7d9ec", "#a83f83", "squeeze-and-excite"),
    "linear": ("#e6dcf4", "#7551ad", "fully connected"),
    "join": ("#ffffff", "#52606d", "sum, concatenation"),
    "other": ("#e9ecef", "#7b8794", "other"),
}
"""Of each kind of box its fill, its outline and its name in the legend."""

# Advance widths in hundredths of the type size: the widest of DejaVu Sans and bold Liberation Sans, which is as wide
# as Arial and Helvetica, so that a text fits its box in whatever sans-serif it is shown in.
_WIDTHS = {
    char: width
    for width, chars in {
        30: "'Iijl",
        35: " ,./:;\\|·",
        40: "!()-[]ft",
        45: "r",
        50: '"*`',
        55: "z",
        60: "J_cksvxy",
        65: "$0123456789?FLTabdeghnopqu{}",
        70: "EPSVXYZ",
        75: "ABCKNRU",
        80: "&DGHOQ",
        85: f"#+<=>^w~{BY}",
        90: "M",
        95: "%",
        100: "Wm→",
        105: "@",
    }.items()
    for char in chars
}

Point = tuple[float, float]


def text_width(text: str, size: float = SIZE) -> float:
    """How wide `text` is at most, in the usual sans-serif fonts."""
    return sum(_WIDTHS.get(char, 110) for char in text) * size / 100


class Sheet:
    """Shapes in the order in which they cover each other: bands, then lines, then boxes with their text."""

    def __init__(self) -> None:
        self._bands: list[str] = []
        self._lines: list[str] = []
        self._boxes: list[str] = []

    def band(self, x: float, y: float, width: float, height: float) -> None:
        """The ground of a stage."""
        self._bands.append(f'<rect class="band" {_rect(x, y, width, height, 6)} fill="{BAND}"/>')

    def frame(self, x: float, y: float, width: float, height: float) -> None:
        """The dashed outline of what is repeated."""
        self._bands.append(
            f'<rect class="frame" {_rect(x, y, width, height, 6)} fill="none" stroke="{FAINT}" '
            f'stroke-dasharray="4 3"/>'
        )

    def box(
        self, x: float, y: float, width: float, height: float, lines: Sequence[str], kind: str, note: str = ""
    ) -> None:
        """A layer, with its text in the middle and a note for the mouse."""
        fill, outline, _ = PALETTE[kind]
        pitch = SIZE + 1.5
        first = y + height / 2 - pitch * (len(lines) - 1) / 2
        texts = "".join(
            _text(x + width / 2, first + pitch * i + 0.36 * SIZE, line) for i, line in enumerate(lines)
        )
        self._boxes.append(
            f'<g class="box {kind}">{f"<title>{clean(note)}</title>" if note else ""}'
            f'<rect {_rect(x, y, width, height, 3)} fill="{fill}" stroke="{outline}"/>{texts}</g>'
        )

    def pill(self, x: float, y: float, width: float, height: float, text: str) -> None:
        """What stands small on a line."""
        self._boxes.append(
            f'<g class="mark"><rect {_rect(x, y, width, height, height / 2)} fill="#ffffff" '
            f'stroke="#9aa5b1" stroke-width="0.75"/>'
            f"{_text(x + width / 2, y + height / 2 + 0.36 * SMALL, text, size=SMALL)}</g>"
        )

    def plus(self, x: float, y: float, radius: float) -> None:
        """The node of a sum."""
        r = radius * 0.5
        self._boxes.append(
            f'<g class="plus"><circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" fill="#ffffff" stroke="{LINE}"/>'
            f'<path d="M{_n(x - r)} {_n(y)}h{_n(2 * r)}M{_n(x)} {_n(y - r)}v{_n(2 * r)}" stroke="{LINE}" '
            f'stroke-width="1.4"/></g>'
        )

    def line(self, *points: Point, head: bool = False) -> None:
        """A line through the points, its corners rounded, with an arrow's head at its end if asked."""
        if len(points) == 2 and points[0] == points[1]:
            return
        path = f"M{_n(points[0][0])} {_n(points[0][1])}"
        for before, corner, behind in zip(points, points[1:], points[2:], strict=False):
            start, end = _toward(corner, before), _toward(corner, behind)
            path += (
                f"L{_n(start[0])} {_n(start[1])}Q{_n(corner[0])} {_n(corner[1])} {_n(end[0])} {_n(end[1])}"
            )
        x, y = points[-1]
        self._lines.append(f'<path d="{path}L{_n(x)} {_n(y)}"/>')
        if head:
            dx, dy = _direction(points[-2], points[-1])
            self._lines.append(
                f'<path d="M{_n(x)} {_n(y)}L{_n(x - 5 * dx - 2.8 * dy)} {_n(y - 5 * dy - 2.8 * dx)}'
                f'L{_n(x - 5 * dx + 2.8 * dy)} {_n(y - 5 * dy + 2.8 * dx)}Z" fill="{LINE}"/>'
            )

    def label(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = SMALL,
        bold: bool = False,
        faint: bool = False,
        anchor: str = "start",
    ) -> None:
        """Text on its own, `y` being its base line; nothing for no text."""
        if not text:
            return
        colour = FAINT if faint else INK
        self._boxes.append(_text(x, y, text, size=size, bold=bold, colour=colour, anchor=anchor, free=True))

    def swatch(self, x: float, y: float, kind: str) -> None:
        """The colour of a kind, for the legend."""
        fill, outline, _ = PALETTE[kind]
        self._boxes.append(f'<rect {_rect(x, y, 14, 10, 2)} fill="{fill}" stroke="{outline}"/>')

    def svg(self, width: float, height: float, title: str, description: str) -> str:
        """The whole as a document of this size."""
        # ImageMagick outlines text in black unless the root says that nothing is outlined.
        return "\n".join(
            [
                '<?xml version="1.0" encoding="UTF-8"?>',
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" '
                f'width="{_n(width)}" height="{_n(height)}" stroke="none" role="img" aria-labelledby="title desc" '
                f'font-family="{FONT}">',
                f'<title id="title">{clean(title)}</title>',
                f'<desc id="desc">{clean(description)}</desc>',
                f'<rect width="{_n(width)}" height="{_n(height)}" fill="#ffffff"/>',
                *self._bands,
                f'<g fill="none" stroke="{LINE}" stroke-width="1.1" stroke-linejoin="round">',
                *self._lines,
                "</g>",
                *self._boxes,
                "</svg>\n",
            ]
        )


def clean(text: str) -> str:
    """`text` as XML may hold it: escaped, and what XML has no characters for replaced."""
    return escape("".join(c if c.isprintable() else "\ufffd" for c in text), {'"': "&quot;"})


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: float = SIZE,
    bold: bool = False,
    colour: str = INK,
    anchor: str = "middle",
    free: bool = False,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    place = f' text-anchor="{anchor}"' if anchor != "start" else ""
    kind = ' class="label"' if free else ""
    return (
        f'<text{kind} x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" fill="{colour}"{place}{weight}>'
        f"{clean(text)}</text>"
    )


def _rect(x: float, y: float, width: float, height: float, radius: float) -> str:
    return f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="{_n(radius)}"'


def _n(value: float) -> str:
    """A coordinate to a tenth."""
    return f"{round(value, 1) + 0:g}" if abs(value) < 1e5 else f"{value:.0f}"


def _direction(start: Point, end: Point) -> Point:
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = max(abs(dx), abs(dy)) or 1.0
    return dx / length, dy / length


def _toward(corner: Point, other: Point, radius: float = 6.0) -> Point:
    """The point where the rounding of `corner` ends on the way to `other`."""
    dx, dy = _direction(corner, other)
    reach = min(radius, max(abs(other[0] - corner[0]), abs(other[1] - corner[1])) / 2)
    return corner[0] + dx * reach, corner[1] + dy * reach
