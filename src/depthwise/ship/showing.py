"""How what takes long is shown, and where its sentences go: in a command, in Python."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from depthwise.words import printable, spoken


@contextmanager
def _unseen(what: str) -> Iterator[Callable[..., None]]:
    yield lambda *_: None


@dataclass(frozen=True)
class Showing:
    """Sentences on standard error and nothing else, unless a command has more.

    note: told a sentence. counting: of what is counted, gives what is told (done, total). status: of what begins, gives
    what is told what is being done.
    """

    note: Callable[[str], None] = lambda text: print(printable(spoken(text)), file=sys.stderr)
    counting: Callable[[str], AbstractContextManager[Callable[[int, int], Any]]] = _unseen
    status: Callable[[str], AbstractContextManager[Callable[[str], Any]]] = _unseen
