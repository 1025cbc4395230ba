"""What the commands print with: results for people or as one JSON document, and what surrounds them."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_json(document: Any) -> None:
    """The one JSON document of a command, on standard output."""
    print(json.dumps(document, indent=2, allow_nan=False))


def note(text: str) -> None:
    """A line for people that is not the result: on standard error."""
    print(printable(text), file=sys.stderr)


def printable(text: str) -> str:
    """`text` with control characters and odd bytes spelled out: a file's name must not steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def console() -> "Console":
    """Where tables go: standard output, as wide as the terminal, and unlimited in a file or a pipe."""
    from rich.console import Console

    # Names are not markup: "[red].png" is a file.
    return Console(
        width=None if sys.stdout.isatty() else 1000,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=False,
    )


def table(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> "Table":
    """An empty table with these columns, those in `right` flush right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    result = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        result.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return result


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with (done, total), which shows on a terminal (standard error) how far `what` is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    stderr = Console(stderr=True)
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
