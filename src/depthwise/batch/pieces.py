"""Images cut into pieces, each answered at once and kept as one file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from depthwise.batch.pictures import Pictures, narrowed

SIZE = 1000
"""Images of a piece where they do not lie in larger files, which are the pieces then."""


@dataclass(frozen=True)
class Piece:
    """The images from `start` up to `stop` of the `pictures` of this number; name: what its file is called."""

    name: str
    pictures: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return self.name


def cut(found: Sequence[Pictures], size: int = SIZE) -> list[Piece]:
    """All images: a piece for each larger file that they lie in, else for `size` images in a row.

    It follows from the images alone, so the same ones give the same pieces again.
    """
    pieces: list[Piece] = []
    names: set[str] = set()
    numbers = count()
    for number, pictures in enumerate(found):
        start = 0
        for called, length in pictures.files or _rows(len(pictures), size):
            name = _free(called or f"images-{next(numbers):05}", names)
            pieces.append(Piece(name, number, start, start + length))
            start += length
    return pieces


def pictures_of(piece: Piece, found: Sequence[Pictures]) -> Pictures:
    """Its images, of all that it is cut from."""
    return narrowed(found[piece.pictures], piece.start, piece.stop)


def _rows(total: int, size: int) -> list[tuple[str, int]]:
    return [("", min(size, total - start)) for start in range(0, total, size)]


def _free(called: str, names: set[str]) -> str:
    """A name that no other piece has: photos of photos.tar, then photos-2."""
    path = Path(called)
    stem = re.sub(r"[^\w-]", "_", path.name.removesuffix(path.suffix)) or "images"
    name = next(
        name for name in chain([stem], (f"{stem}-{k}" for k in count(2))) if name.lower() not in names
    )
    names.add(name.lower())  # some file systems do not tell A from a
    return name
