"""suspects.csv and suspects.html, whole or not at all."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from depthwise.suspects.found import Row, Suspects
from depthwise.words import inert
from depthwise.writing import check_free, written_whole

TABLE, PAGE = "suspects.csv", "suspects.html"


def check_out(out: Path, *, force: bool) -> None:
    """Make the folder. Raises, before work is done, what `write` would, or that something is there and not `force`."""
    for name in (TABLE, PAGE):
        check_free(out / name, force)


def write(found: Suspects, out: Path, command: Sequence[str]) -> None:
    """Write both. In the table no cell is a formula for a spreadsheet."""
    from depthwise.suspects.page import render

    page = render(found, command)
    with written_whole(out / TABLE) as file:
        file.write(_table(found).encode("utf-8", errors="surrogateescape"))
    with written_whole(out / PAGE) as file:
        file.write(page.encode("utf-8", errors="replace"))


def _table(found: Suspects) -> str:
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(Row._fields)
    for row in found.rows():
        lines.writerow(map(_cell, row))
    return text.getvalue()


def _cell(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return inert(str(value))
