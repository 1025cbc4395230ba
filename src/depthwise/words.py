"""Words for people: a command that can be pasted into a shell, text that steers no terminal, a number with its noun."""

import os
import shlex
from collections.abc import Iterable


def quote(word: str) -> str:
    """`word` as a shell reads it back, in characters that can be shown.

    What a terminal would not show as it is (control characters, bytes that are no UTF-8) is spelled out in the
    $'...' of bash and zsh.
    """
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_spelled, word)) + "'"


def quote_path(path: str | os.PathLike[str]) -> str:
    """The same for a file or folder, which no command takes for an option though it may begin with a dash."""
    name = os.fspath(path)
    return quote(f"./{name}" if name.startswith("-") else name)


def command_line(words: Iterable[str]) -> str:
    """Words as one line for a shell."""
    return " ".join(map(quote, words))


def printable(text: str) -> str:
    """`text` with control characters and odd bytes spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def number_of(number: float, noun: str, plural: str | None = None) -> str:
    """1 image, 2 images, 1,000 images, 0.5 epochs; `plural` where it is not the noun with an s."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:,.4g}"
    return f"{shown} {noun if number == 1 else plural or noun + 's'}"


def pace(number: float) -> str:
    """How many a second: 1,234; 12.3; 0.505."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _spelled(c: str) -> str:
    if c in "'\\":
        return f"\\{c}"
    if c.isprintable():
        return c
    return "".join(f"\\x{byte:02x}" for byte in c.encode("utf-8", errors="surrogateescape"))
