"""Parquet as a table of labels, with the images in files beside it or, as Hugging Face has it, in a column of bytes."""

import json
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from depthwise.data.image import Decoding, UnreadableImageError
from depthwise.data.order import WINDOW
from depthwise.data.sources.facts import Fact, Stamp
from depthwise.data.sources.tables import DamagedTableError
from depthwise.data.sources.verify import CHUNK, fact_of, in_threads, stamp_of
from depthwise.errors import DepthwiseError

_ROWS = 4096  # of labels, that are read at a time
_OPEN = 2 * WINDOW  # row groups that a process keeps: those of a window, and of the next
_HUGGING_FACE = b"huggingface"


@dataclass(frozen=True)
class Parquet:
    """A `Table`, whose rows have numbers from 0 on. called: what the names of its images begin with."""

    path: Path
    called: str

    @cached_property
    def file(self) -> "File":
        """As it is now."""
        return File(str(self.path), stamp_of(self.path))

    @cached_property
    def _schema(self) -> pa.Schema:
        return _opened(self.file).schema_arrow

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._schema.names)

    def where(self, number: int) -> str:
        return f"row {number} of {self.path}"

    def leaf(self, name: str) -> str | None:
        """The bytes of images in the column `name`; None if it holds something else, paths for one."""
        kind = self._schema.field(name).type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return f"{name}.bytes"
        return name if _is_bytes(kind) else None

    def rows(self, names: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        """Of a column of images their names: this table's and the number of the row."""
        read = [name for name in names if self.leaf(name) is None]
        if len(names) - len(read) > 1:
            name = [name for name in names if name not in read][1]
            raise DepthwiseError(
                f"{self.path}: the column {name} holds bytes, and of images there is one column: write labels as text "
                f"or numbers"
            )
        known = {name: self._class_names(name) for name in read}
        number = 0
        try:
            for batch in _opened(self.file).iter_batches(_ROWS, columns=read, use_threads=False):
                columns = {name: batch.column(name).to_pylist() for name in read}
                for place in range(len(batch)):
                    values = [
                        self._named(columns[name][place], known[name], number)
                        if name in columns
                        else f"{self.called}/{number:09}"
                        for name in names
                    ]
                    yield number, values
                    number += 1
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.path, error) from None

    def _class_names(self, name: str) -> list[str]:
        """What the numbers in a column mean, as Hugging Face writes it into the schema: for List and Sequence too."""
        try:
            facts = json.loads((self._schema.metadata or {})[_HUGGING_FACE])["info"]["features"][name]
        except (KeyError, TypeError, ValueError):
            return []
        while isinstance(facts, list) or (isinstance(facts, dict) and "feature" in facts):
            facts = facts[0] if isinstance(facts, list) else facts["feature"]
        found = facts.get("names") if isinstance(facts, dict) and facts.get("_type") == "ClassLabel" else None
        return [str(name) for name in found] if isinstance(found, list) else []

    def _named(self, value: Any, names: Sequence[str], number: int) -> Any:
        if isinstance(value, list):
            return [self._named(one, names, number) for one in value]
        if not names or type(value) is not int:
            return value
        if value == -1:  # as they write that a label is not known
            return None
        if not 0 <= value < len(names):
            raise DepthwiseError(
                f"{self.where(number)} has the label {value}, and the schema names {len(names)}: mend the file"
            )
        return names[value]


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _damaged(path: Path, error: Exception) -> DamagedTableError:
    reason = str(error).partition("\n")[0]
    return DamagedTableError(f"{path} is no parquet file, or is damaged ({reason}): copy it again")


class File(NamedTuple):
    """A file in one state: what is kept of it is of no other."""

    path: str
    stamp: Stamp | None


@lru_cache(maxsize=_OPEN)
def _opened(file: File) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file.path, memory_map=True, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(Path(file.path), error) from None


@dataclass(frozen=True)
class Column:
    """A column of images in files, light whatever they hold. leaf: its bytes."""

    files: tuple[File, ...]
    leaf: str


@lru_cache(maxsize=_OPEN)
def _group(column: Column, file: int, group: int) -> pa.ChunkedArray:
    """The images of a row group. Raises UnreadableImageError if it is damaged."""
    path = column.files[file].path
    try:
        table = _opened(column.files[file]).read_row_group(group, columns=[column.leaf], use_threads=False)
        found = table.column(0)
        return (
            found if _is_bytes(found.type) else pa.chunked_array([chunk.field(0) for chunk in found.chunks])
        )
    except (pa.ArrowException, OSError, DepthwiseError) as error:
        reason = str(error).partition("\n")[0]
        raise UnreadableImageError(
            path, f"row group {group} of {Path(path).name} is damaged ({reason})"
        ) from None


def images_of(tables: Sequence[Parquet], names: Sequence[str]) -> "Images | None":
    """Those in the columns `names`, one for each table; None if they hold paths. Raises DepthwiseError."""
    leaves = [table.leaf(name) for table, name in zip(tables, names, strict=True)]
    if leaves[0] is None:
        return None
    if odd := next((table for table, leaf in zip(tables, leaves, strict=True) if leaf != leaves[0]), None):
        raise DepthwiseError(
            f"{odd.path} holds images in another column than {tables[0].path}: make their columns alike"
        )
    ordered = sorted(tables, key=lambda table: f"{table.called}/")
    return Images(Column(tuple(table.file for table in ordered), leaves[0]))


Key = tuple[int, int, int]
"""File, row group, and row in it."""


def _encoded(column: Column, key: Key) -> bytes:
    file, group, row = key
    data = _group(column, file, group)[row].as_py()
    if data is None:
        raise UnreadableImageError(column.files[file].path, "the row has no bytes of an image")
    return bytes(data)


@dataclass(frozen=True)
class Images:
    """A `Store`: all images of a column, one row after the other."""

    column: Column

    @property
    def root(self) -> Path:
        return Path(self.column.files[0].path)

    @property
    def files(self) -> tuple[File, ...]:
        return self.column.files

    @cached_property
    def _groups(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Where each row group begins, and the end; and each one's file and number in it."""
        sizes, places = [0], []
        for number, file in enumerate(self.column.files):
            facts = _opened(file).metadata
            for group in range(facts.num_row_groups):
                sizes.append(facts.row_group(group).num_rows)
                places.append((number, group))
        return [*accumulate(sizes)], places

    def group_of(self, place: int) -> int:
        """The row group that an image is in, of all files."""
        return bisect_right(self._groups[0], place) - 1

    def key(self, place: int) -> Key:
        group = self.group_of(place)
        return *self._groups[1][group], place - self._groups[0][group]

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first image of each row group, and the end."""
        return np.array(self._groups[0], np.int64)

    @property
    def finder(self) -> Callable[[Key], tuple[bytes, str]]:
        """Of an image by its key the file, and what sentences call it."""
        return partial(_found, self.column)

    def encoded(self, place: int) -> bytes:
        """The image's file. Raises UnreadableImageError."""
        return _encoded(self.column, self.key(place))

    def stamp(self, place: int, name: str) -> Stamp | None:
        return self.column.files[self.key(place)[0]].stamp

    def examined(
        self, names: Sequence[str], places: "array[int]", workers: int, decoding: Decoding
    ) -> Iterator[tuple[int, Fact | str]]:
        def read() -> Iterator[list[tuple[int, bytes | str]]]:
            for _, members in groupby(places, self.group_of):
                some = []
                for place in members:
                    some.append((place, self._read(place)))
                    if len(some) == CHUNK:
                        yield some
                        some = []
                if some:
                    yield some

        def examine(some: list[tuple[int, bytes | str]]) -> list[tuple[int, Fact | str]]:
            return [
                (place, data if isinstance(data, str) else fact_of(data, self.stamp(place, ""), decoding))
                for place, data in some
            ]

        yield from in_threads(examine, read(), workers)

    def _read(self, place: int) -> bytes | str:
        try:
            return self.encoded(place)
        except UnreadableImageError as error:
            return error.reason


def _found(column: Column, key: Key) -> tuple[bytes, str]:
    file, group, row = key
    return _encoded(column, key), f"{Path(column.files[file].path).name}, row {row} of group {group}"
