"""The folder of finished pieces: each file is whole or absent, and whoever asks the same again goes on from them."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from depthwise.batch.forms import FOR_PIECES, count_bad
from depthwise.batch.pieces import Piece
from depthwise.batch.work import Answered, Asked
from depthwise.errors import DepthwiseError
from depthwise.writing import locked, named, written_whole

QUESTION = "question.json"
"""What was asked, in the folder of its answers."""
KIND = "depthwise answers"


@dataclass(frozen=True)
class Kept:
    """The folder, what is asked, and the pieces. num_bad: images without an answer in finished pieces, by piece."""

    folder: Path
    asked: Asked
    pieces: tuple[Piece, ...]
    num_bad: dict[str, int] = field(default_factory=dict)

    def file(self, piece: Piece) -> Path:
        """Where its answers are, or will be."""
        return self.folder / f"{piece.name}.{self.asked.form}"

    @property
    def left(self) -> list[Piece]:
        """The pieces that are not finished, in order."""
        return [piece for piece in self.pieces if piece.name not in self.num_bad]

    def keep(self, piece: Piece, answered: Answered) -> None:
        """Write a piece's file. Raises DepthwiseError or OSError."""
        with written_whole(self.file(piece)) as file:
            file.write(answered.content)
        self.num_bad[piece.name] = answered.num_bad


@contextmanager
def kept_in(
    folder: Path,
    asked: Asked,
    pieces: Sequence[Piece],
    digests: Sequence[str],
    *,
    afresh: bool,
    hidden: bool = False,
) -> Iterator[Kept]:
    """The answers in `folder` to what is `asked`, for this process alone inside the `with`.

    digests: of the images. A folder in which nothing was finished goes away. afresh: finished pieces are removed.
    hidden: nobody but this program knows the folder, so those of another question go unasked. Raises DepthwiseError if
    `folder` holds the answers to another question, or anything else.
    """
    question = _question(asked, pieces, digests)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise named(error, folder) from error
    with locked(folder.with_name(f".{folder.name.lstrip('.')}.lock"), folder):
        before = _before(folder)
        if before is not None and (afresh or (hidden and before != question)):
            _remove(folder, before)
        elif before is not None and before != question:
            differ = [key for key in question if before.get(key) != question[key]]
            raise DepthwiseError(
                f"{folder} holds the answers to another question (another {differ[0]}): choose another --out, or "
                f"replace them with --force"
            )
        with written_whole(folder / QUESTION) as file:
            file.write(json.dumps(question, indent=1).encode())
        kept = Kept(folder, asked, tuple(pieces))
        for piece in pieces:
            if (file_ := kept.file(piece)).exists():
                kept.num_bad[piece.name] = _counted(file_)
        try:
            yield kept
        finally:
            if not kept.num_bad:
                shutil.rmtree(folder, ignore_errors=True)


def _question(asked: Asked, pieces: Sequence[Piece], digests: Sequence[str]) -> dict[str, Any]:
    options = asdict(asked)
    options.pop("bundle")  # which may be moved: its digest says which it is
    return {
        "kind": KIND,
        **options,
        "images": list(digests),
        "pieces": {piece.name: len(piece) for piece in pieces},
    }


def _before(folder: Path) -> dict[str, Any] | None:
    """What was asked in `folder`; None if nothing is there. Raises DepthwiseError if something else is."""
    try:
        values = json.loads((folder / QUESTION).read_bytes())
        if isinstance(values, dict) and values.get("kind") == KIND and isinstance(values.get("pieces"), dict):
            return values
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
            return None
    except (OSError, ValueError):
        pass
    raise DepthwiseError(f"{folder} is no folder of answers, and is left as it is: choose another --out")


def _remove(folder: Path, before: dict[str, Any]) -> None:
    """The files of a question, and no others."""
    for name in before["pieces"]:
        for form in FOR_PIECES:
            if os.sep not in name:
                (folder / f"{name}.{form}").unlink(missing_ok=True)


def _counted(file: Path) -> int:
    try:
        return count_bad(file)
    except (OSError, ValueError, LookupError) as error:  # pyarrow's are of these
        raise DepthwiseError(f"{file} cannot be read ({error}): remove it, and it is made again") from None
