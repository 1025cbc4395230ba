"""What the commands print with: results for people or as one JSON document, and what surrounds them.

All that is printed goes through here, where control characters are spelled out: what a file or a class is called must
not steer the terminal.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from depthwise.words import printable, to_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from depthwise.ship.showing import Showing


def print_json(document: Any) -> None:
    """The one JSON document of a command, on standard output."""
    print(to_json(document, indent=2))


def say(text: str) -> None:
    """A line of the result for people: on standard output."""
    print(printable(text))


def note(text: str) -> None:
    """A line for people that is not the result: on standard error."""
    print(printable(text), file=sys.stderr)


def console(*, stderr: bool = False) -> "Console":
    """Where tables go: standard output, as wide as the terminal, and unlimited in a file or a pipe."""
    from rich.console import Console

    class Printable(Console):
        def render_str(self, text: str, **options: Any) -> "Text":  # of every cell, title and line
            return super().render_str(printable(text), **options)

    # Names are not markup: "[red].png" is a file.
    return Printable(
        stderr=stderr,
        width=None if stderr or sys.stdout.isatty() else 1000,
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


def showing() -> "Showing":
    """How what a command does is shown."""
    from depthwise.ship.showing import Showing

    return Showing(note, counting, status)


@contextmanager
def status(what: str) -> Iterator[Callable[[str], None]]:
    """Give a function to call with what is being done, which shows on a terminal (standard error); first `what`."""
    with console(stderr=True).status(what) as shown:
        yield shown.update


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with (done, total), which shows on a terminal (standard error) how far `what` is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    stderr = console(stderr=True)
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
