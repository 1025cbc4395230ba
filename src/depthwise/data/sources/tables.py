"""A table in a file, a row an image or a label: CSV, TSV and JSON lines, read a row at a time."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from depthwise.data.names import some
from depthwise.errors import DepthwiseError, shown
from depthwise.reading import open_regular, parse_json

LOOKED_AT = 1000
"""Objects of JSON lines by which columns are known."""
_MOST_LINE = 2**26
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_LINES = (".jsonl", ".ndjson")
PARQUET, TAR = ".parquet", ".tar"
HOLDING = (PARQUET, TAR)
"""Tables that can hold images themselves, and of which a part can have several."""
SUFFIXES = (*_DELIMITERS, *_LINES, *HOLDING)


class DamagedTableError(DepthwiseError):
    """A file of many images cannot be read as a whole: nobody knows how many are lost."""


class Table(Protocol):
    """Rows with named columns."""

    @property
    def path(self) -> Path: ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""

    def where(self, number: int) -> str:
        """How a sentence calls a row, by the number that `rows` gives it."""

    def rows(self, names: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        """The number of each row, or of the line that it ends in, and its values in the columns `names`, None for none.

        Raises DepthwiseError, which names the line, for one that cannot be read.
        """


def open_table(path: Path, called: str) -> Table:
    """The table in `path`, of a kind that its suffix says. called: for names of images that it holds itself.

    Raises DepthwiseError.
    """
    suffix = path.suffix.lower()
    try:
        with open_regular(path) as file:
            head = file.read(4096)
    except OSError as error:
        raise DepthwiseError(
            f"{path} cannot be read ({error.strerror or error}): make it a readable file"
        ) from None
    if suffix == TAR:
        from depthwise.data.sources.tars import Tar

        return Tar(path, called)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DepthwiseError(f"{path} is UTF-16: save it as UTF-8")
    if suffix == PARQUET:  # Arrow takes a moment to import
        from depthwise.data.sources.parquet import Parquet

        return Parquet(path, called)
    return JsonLines(path) if suffix in _LINES else Delimited.of(path, _DELIMITERS[suffix])


@dataclass(frozen=True)
class Delimited:
    """CSV, TSV: the first line names the columns."""

    path: Path
    names: tuple[str, ...]
    delimiter: str

    @staticmethod
    def of(path: Path, delimiter: str) -> "Delimited":
        """By its first line, of which a semicolon or a tab parts the names too if there is no comma."""
        header = _header(path, delimiter)
        if len(header) == 1:
            for other in ";\t":
                if other in header[0]:
                    header, delimiter = _header(path, other), other
        names = tuple(name.strip() for name in header)
        if twice := [name for name, count in Counter(names).items() if name and count > 1]:
            raise DepthwiseError(
                f"{path} has {_times(names, twice[0])} columns called {twice[0]}: rename them"
            )
        return Delimited(path, names, delimiter)

    def where(self, number: int) -> str:
        return f"line {number} of {self.path}"

    def rows(self, names: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        places = [self.names.index(name) for name in names]
        for number, values in _values(self.path, self.delimiter):
            if len(values) > len(self.names):
                raise DepthwiseError(
                    f"line {number} of {self.path} has {len(values)} values for {len(self.names)} columns: quote a "
                    f"value that holds {_called(self.delimiter)}"
                )
            yield number, [values[place] if place < len(values) else None for place in places]


def _header(path: Path, delimiter: str) -> list[str]:
    for _, values in _values(path, delimiter, header=True):
        return values
    raise DepthwiseError(f"{path} is empty: the first line names the columns, path,label for example")


def _values(path: Path, delimiter: str, *, header: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Each line that is not empty, with its number; the first only if it is asked for."""
    with open_regular(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        skip = not header
        while True:
            try:
                values = next(reader, None)
            except csv.Error as error:
                raise DepthwiseError(
                    f"line {reader.line_num} of {path} cannot be read ({error}): a value in quotes ends with one, and "
                    f"quotes in it are doubled"
                ) from None
            if values is None:
                return
            if not values:
                continue
            if not "".join(values).isascii():
                _require_utf8(path, reader.line_num, values)
            if skip:
                skip = False
                continue
            yield reader.line_num, values


def _require_utf8(path: Path, number: int, values: Sequence[str]) -> None:
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        raise DepthwiseError(f"line {number} of {path} is not UTF-8: save the file as UTF-8") from None


def _times(names: Sequence[str], name: str) -> int:
    return sum(other == name for other in names)


def _called(delimiter: str) -> str:
    return {",": "a comma", ";": "a semicolon", "\t": "a tab"}[delimiter]


@dataclass(frozen=True)
class JsonLines:
    """An object a line; its keys are the columns."""

    path: Path

    @property
    def names(self) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for number, (_, values) in enumerate(self._objects()):
            if number == LOOKED_AT:
                break
            found |= dict.fromkeys(values)
        if not found:
            raise DepthwiseError(f"{self.path} is empty: write an object a line, with a path and labels")
        return tuple(found)

    def where(self, number: int) -> str:
        return f"line {number} of {self.path}"

    def rows(self, names: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        for number, values in self._objects():
            yield number, [values.get(name) for name in names]

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with open_regular(self.path) as file:
            number = 0
            while line := file.readline(_MOST_LINE):
                number += 1
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.isspace():
                    continue
                try:
                    values = parse_json(line)
                except ValueError as error:
                    raise DepthwiseError(
                        f"line {number} of {self.path} is no JSON ({error}): write an object a line"
                    ) from None
                if not isinstance(values, dict):
                    raise DepthwiseError(
                        f"line {number} of {self.path} is {shown(values)}: write an object a line, with a path and "
                        f"labels"
                    )
                yield number, values


def column_list(names: Sequence[str]) -> str:
    """The columns there are, for a sentence."""
    return some((name or "one without a name" for name in names), most=20)
