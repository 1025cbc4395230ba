"""Answer what is left of a question, by whatever carries the work, and bring it to one file or leave it as a folder."""

import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from depthwise.batch.forms import Document, read_json_lines, write_as
from depthwise.batch.kept import Kept
from depthwise.batch.pictures import Pictures
from depthwise.batch.pieces import Piece, pictures_of
from depthwise.batch.work import Answered, Asked, answered, predictor_of
from depthwise.words import inert
from depthwise.writing import written_whole

Results = Generator[tuple[Piece, Answered], None, None]
"""Pieces with their answers, each once, in any order. Closed, it stops what is under way."""

Carry = Callable[[Asked, Sequence[Piece], Sequence[Pictures]], Results]
"""Answers pieces of the images."""


def here(asked: Asked, pieces: Sequence[Piece], found: Sequence[Pictures]) -> Results:
    """A `Carry`: one after the other in this process."""
    predictor = predictor_of(asked)
    for piece in pieces:
        yield piece, answered(asked, predictor, pictures_of(piece, found))


def answer_all(
    kept: Kept, found: Sequence[Pictures], carry: Carry, progress: Callable[[int, int], None]
) -> int:
    """Do the pieces that are left; returns how many images have no answer. progress: images done, and all.

    Raises what `carry` does; what was finished until then stays.
    """
    total = sum(map(len, kept.pieces))
    if left := kept.left:
        done = total - sum(map(len, left))
        with closing(carry(kept.asked, left, found)) as results:
            for piece, result in results:
                kept.keep(piece, result)
                done += len(piece)
                progress(done, total)
    return sum(kept.num_bad.values())


def hidden_for(out: Path) -> Path:
    """The folder in which the pieces of the file `out` lie until it is whole."""
    return out.with_name(f".{out.name}.pieces")


def documents_in(kept: Kept) -> Iterator[Document]:
    """All answers, in the images' order, of finished pieces in JSON lines."""
    return read_json_lines([kept.file(piece) for piece in kept.pieces])


def joined(kept: Kept, out: Path, documents: Iterable[Document]) -> None:
    """The `documents` as the file `out`, in the form of its suffix; the folder of the pieces goes away."""
    with written_whole(out) as file:
        write_as(out.suffix.lower().lstrip("."), documents, file, str if kept.asked.exact else inert)
    shutil.rmtree(kept.folder, ignore_errors=True)
