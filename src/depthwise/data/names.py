"""What names mean: which are one class, in what order people expect them, and how they are shown.

A class's name is compared in Unicode's composed form (NFC): macOS writes the é of `café` as an e and an accent, and
a folder copied from there is the same class. Files and folders keep the names that they have on the disk.
"""

import re
import unicodedata
from collections.abc import Iterable

SHOWN_CHARACTERS = 60
SHOWN_NAMES = 5


def composed(name: str) -> str:
    """The form in which names of classes are compared."""
    return unicodedata.normalize("NFC", name)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts as people count: 9 before 10, img9 before img10. For what is shown; a class's number is its place in
    the plain order, which a bundle keeps."""
    key = []
    for piece in re.findall(r"[0-9]+|[^0-9]+", composed(name)):
        number = piece.lstrip("0")
        key.append((0, len(number), number) if piece[0] in "0123456789" else (1, 0, piece))
    return [*key, (-1, len(name), name)]


def shortened(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """`text` without its middle if it is long: both ends of a path say something."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 2
    return f"{text[: most - 1 - tail]}…{text[-tail:]}"


def some(names: Iterable[str], most: int = SHOWN_NAMES, joint: str = ", ") -> str:
    """The first few names, shortened, and how many more there are."""
    listed = list(names)
    more = len(listed) - most
    return joint.join(map(shortened, listed[:most])) + (f" and {more:,} more" if more > 0 else "")
