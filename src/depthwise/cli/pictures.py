"""The images that a command's arguments mean, and what is answered of those that can be read."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from depthwise.cli.options import STANDARD_INPUT
from depthwise.cli.output import note
from depthwise.errors import UsageError
from depthwise.reading import read_bounded

if TYPE_CHECKING:
    from depthwise.batch.pictures import Picture, Pictures
    from depthwise.data import BadImage, Columns
    from depthwise.data.image import Decoding

A = TypeVar("A")


def find(
    arguments: Sequence[str], reading: "Decoding | None" = None, columns: "Columns | None" = None
) -> "list[Pictures]":
    """As `batch.pictures.find_pictures` has it; standard input is read now."""
    from depthwise.batch.pictures import Picture, find_pictures

    def given(argument: str) -> "Picture | None":
        return Picture("-", _standard_input()) if argument == STANDARD_INPUT else None

    return find_pictures(arguments, reading, columns, note=note, given=given)


def expand(
    arguments: Sequence[str], reading: "Decoding | None" = None, columns: "Columns | None" = None
) -> "list[Picture]":
    """The same, one by one."""
    from depthwise.batch.pictures import each_of

    return list(each_of(find(arguments, reading, columns)))


def columns_of(path_column: str | None, image_root: Path | None) -> "Columns | None":
    """How a manifest without labels is read, if the options say something of it."""
    if path_column is None and image_root is None:
        return None
    from depthwise.data import Columns

    return Columns(path_column=path_column, image_root=None if image_root is None else str(image_root))


def answers_of(
    stream: "Callable[..., Iterator[A | BadImage]]", pictures: "Sequence[Picture]", **options: Any
) -> "Iterator[A | BadImage]":
    """What `stream` gives for those of the `pictures` that are images, in the order of all."""
    from depthwise.data import BadImage

    images = [picture.image for picture in pictures if not isinstance(picture.image, BadImage)]
    answers = stream(images, **options)
    for picture in pictures:
        yield picture.image if isinstance(picture.image, BadImage) else next(answers)


def _standard_input() -> "bytes | BadImage":
    from depthwise.data import BadImage

    if sys.stdin is None:
        return BadImage("-", "standard input is closed")
    if sys.stdin.isatty():
        raise UsageError("- reads an image from standard input, and that is the terminal: pipe one in")
    try:
        return read_bounded(sys.stdin.buffer, "-")
    except OSError as error:
        return BadImage("-", error.strerror or str(error))
