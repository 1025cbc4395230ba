"""Words for people: a command that can be pasted into a shell, text that steers no terminal and runs in no spreadsheet,
a number with its noun."""

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

FLAGS = (
    "allow-drop",
    "allow-truncated",
    "backbone",
    "finish",
    "force",
    "freeze",
    "ignore-unknown",
    "lr-range",
    "miss-unknown",
    "nested",
    "one-label",
    "overfit",
    "resume",
    "skip-bad",
    "undivided",
)
"""Options that are on if they are given: those that sentences speak of."""

_IN_A_SHELL = False

# What is to be typed into a shell stays: a whole command, to its end. A value stands after = or is a number (or some),
# or a word in capitals for what a person puts there.
_OPTION = re.compile(
    r"(?P<command>(?:depthwise [a-z]+|docker run) [^`)]*)"
    r"|(?<![^\s(])--(?:set (?P<key>[\w.]+)=(?P<setting>[^\s,;:)]+)|(?P<name>[a-z][a-z-]*)"
    r"(?:=(?P<value>[^\s,;:)]+)| (?P<numbers>\d[\d.]*(?: \d[\d.]*)*|[A-Z]{2,}))?)(?P<more> (?=--))?"
)


@contextmanager
def in_a_shell() -> Iterator[None]:
    """Who reads inside of this `with` typed a command; outside, they wrote Python."""
    global _IN_A_SHELL
    before, _IN_A_SHELL = _IN_A_SHELL, True
    try:
        yield
    finally:
        _IN_A_SHELL = before


def spoken(text: str) -> str:
    """A sentence, as it is for who reads it: all are written with a command's options (--force), and in Python those
    are arguments (force=True)."""
    return text if _IN_A_SHELL else _OPTION.sub(_argument, text)


def _argument(found: re.Match[str]) -> str:
    if found["command"]:
        return found[0]
    more = ", " if found["more"] else ""
    if key := found["key"]:
        setting = _literal(found["setting"])
        return (f"{key}={setting}" if "." not in key else f"**{{{key!r}: {setting}}}") + more
    name = found["name"].replace("-", "_")
    if value := found["value"] or found["numbers"]:
        return f"{name}={_literal(value)}{more}"
    if name == "set":
        return f"settings{more}"
    return f"{name}=True{more}" if found["name"] in FLAGS else f"{name}{more}"


def _literal(word: str) -> str:
    if " " in word:
        return f"({word.replace(' ', ', ')})"
    return word if word[0].isdigit() or word.isupper() or word in ("True", "False", "None") else repr(word)


def going_on(out: str | os.PathLike[str]) -> str:
    """What goes on with the run in the directory `out`."""
    if _IN_A_SHELL:
        return f"depthwise train --out {quote_path(out)} --resume"
    return f"depthwise.train(out={os.fspath(out)!r}, resume=True)"


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


# What makes a spreadsheet take a cell for a formula, in the wide forms of East Asian keyboards, too.
_FORMULA = re.compile(r"[=+\-@＝＋－＠\t\r\n]")  # noqa: RUF001
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def inert(text: str) -> str:
    """`text` with an apostrophe before it if a spreadsheet would run it as a formula (OWASP, CSV injection).

    Numbers stay, and so does what is nothing but signs, a class "+" for example: there is nothing to run in them.
    """
    if not _FORMULA.match(text) or _NUMBER.fullmatch(text) or not any(map(str.isalnum, text)):
        return text
    return f"'{text}"


def number_of(number: float, noun: str, plural: str | None = None) -> str:
    """1 image, 2 images, 1,000 images, 0.5 epochs; `plural` where it is not the noun with an s."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:,.4g}"
    return f"{shown} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """In the unit that people would say it in: 12 s, 7.5 min, 3.2 h."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            number = seconds / size
            return f"{number:,.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def pace(number: float) -> str:
    """How many a second: 1,234; 12.3; 0.505."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON in ASCII, control characters spelled out, of which Python leaves one."""
    return json.dumps(value, indent=indent, allow_nan=False).replace("\x7f", "\\u007f")


def _spelled(c: str) -> str:
    if c in "'\\":
        return f"\\{c}"
    if c.isprintable():
        return c
    return "".join(f"\\x{byte:02x}" for byte in c.encode("utf-8", errors="surrogateescape"))
