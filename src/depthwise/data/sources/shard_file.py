"""One shard: an Arrow IPC file of a single record batch, read through a memory map, that can tell whether it is whole.

Columns: `key` (the image's path, as bytes), `labels` (the numbers of its classes), `negatives` (of classes that it was
looked at for and does not show; only where a set has any), `crc32` (of the encoded image) and `image` (its file, byte
for byte). The schema's metadata has the CRC-32 of all columns but `image`: so whatever byte of a shard is another than
was written, it is found before the image or its labels are used.
"""

import json
import mmap
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthwise.data.image import UnreadableImageError
from depthwise.data.targets import NONE, LabelLists, verified_absent
from depthwise.reading import open_regular

_FORMAT = 1
_FACTS = b"depthwise"  # the key of our facts in the schema's metadata
_LISTS = ("labels", "negatives")

_COLUMNS = {
    "key": pa.binary(),
    "labels": pa.list_(pa.int32()),
    "negatives": pa.list_(pa.int32()),
    "crc32": pa.uint32(),
    "image": pa.large_binary(),
}


class Row(NamedTuple):
    """An image as it is packed: its path, the numbers of its classes and of those it was seen not to show, its file."""

    key: str
    classes: list[int]
    negatives: list[int]
    encoded: bytes


class Facts(NamedTuple):
    """What a shard says of itself. made_for: the plan that it is a part of. index_crc32: of all columns but images."""

    format: int
    made_for: str
    index_crc32: int


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard that is open, whose keys, labels and checksums were found to be as they were written.

    single: each image is of one class. keys, images: the bytes of all of them, with where each begins, int64 [n + 1].
    """

    name: str
    single: bool
    facts: Facts
    key_starts: NDArray[np.int64]
    keys: memoryview
    shown: LabelLists
    negatives: LabelLists | None
    checksums: NDArray[np.uint32]
    image_starts: NDArray[np.int64]
    images: memoryview

    def __len__(self) -> int:
        return len(self.checksums)

    def key(self, row: int) -> str:
        """The image's path where it was packed."""
        return os.fsdecode(bytes(_piece(self.keys, self.key_starts, row)))

    def encoded(self, row: int) -> bytes:
        """The image's file. Raises UnreadableImageError if it is not what was packed."""
        data = bytes(_piece(self.images, self.image_starts, row))
        if zlib.crc32(data) != self.checksums[row]:
            raise UnreadableImageError(
                f"{self.name}/{self.key(row)}", f"damaged in {self.name}, its CRC-32 is another: {_REMEDY}"
            )
        return data

    def targets(self, rows: Tensor) -> Tensor:
        """What the images at `rows`, int64 [N], show: int64 [N] or [N, P], see `data/targets.py`."""
        shown = self.shown[rows]
        if self.negatives is not None:
            absent = self.negatives[rows]
            shown = torch.cat([shown, torch.where(absent >= 0, verified_absent(absent), NONE)], dim=1)
        return shown[:, 0] if self.single else shown


_REMEDY = "copy the shard again, or make the set anew with `depthwise data shard`"


def write_shard(file: BinaryIO, rows: Iterable[Row], made_for: str, *, negatives: bool) -> int:
    """Write `rows` to `file` as a shard and return how many they are; all their images are in memory meanwhile.

    negatives: whether there is a column of them.
    """
    keys, checksums, starts, images = [], [], [0], bytearray()
    lists: dict[str, list[list[int]]] = {name: [] for name in _LISTS}
    for row in rows:
        keys.append(os.fsencode(row.key))
        checksums.append(zlib.crc32(row.encoded))
        images += row.encoded
        starts.append(len(images))
        lists["labels"].append(row.classes)
        lists["negatives"].append(row.negatives)
    ends = pa.py_buffer(np.array(starts, np.int64))
    columns = {
        "key": pa.array(keys, pa.binary()),
        **{name: pa.array(lists[name], _COLUMNS[name]) for name in _LISTS},
        "crc32": pa.array(checksums, pa.uint32()),
        "image": pa.Array.from_buffers(pa.large_binary(), len(keys), [None, ends, pa.py_buffer(images)]),
    }
    if not negatives:
        del columns["negatives"]
    batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    facts = Facts(_FORMAT, made_for, _index_crc32(batch))
    schema = batch.schema.with_metadata({_FACTS: json.dumps(facts._asdict())})
    with pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    return len(keys)


def open_shard(path: Path, *, single: bool) -> Shard:
    """The shard `path`. Raises UnreadableImageError if it is none, or its keys, labels or checksums are damaged.

    single: each of its images is of one class. Its images are looked at one by one, when they are asked for.
    """
    try:
        with open_regular(path) as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.py_buffer(content))
        _check_columns(reader.schema)
        facts = _facts(reader.schema)
        if reader.num_record_batches != 1:
            raise ValueError(f"it has {reader.num_record_batches} record batches, and a shard has 1")
        batch = reader.get_batch(0)
        if _index_crc32(batch) != facts.index_crc32:
            raise ValueError("the CRC-32 of its keys, labels and checksums is another")
        return _opened(path.name, single, facts, batch)
    except OSError as error:
        raise UnreadableImageError(path.name, f"{error.strerror or error}: {_REMEDY}") from None
    except (pa.ArrowException, ValueError, LookupError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UnreadableImageError(path.name, f"damaged, or no shard ({reason}): {_REMEDY}") from None


def _opened(name: str, single: bool, facts: Facts, batch: pa.RecordBatch) -> Shard:
    arrays = {field: _arrays(batch.column(field), len(batch)) for field in batch.schema.names}
    lists = {
        field: LabelLists(torch.tensor(arrays[field][0], dtype=torch.int64), torch.tensor(arrays[field][1]))
        for field in _LISTS
        if field in arrays
    }
    if single and bool((lists["labels"].offsets.diff() != 1).any()):
        raise ValueError("it has images with several labels or none")
    return Shard(
        name,
        single,
        facts,
        arrays["key"][0].astype(np.int64),
        arrays["key"][1].data,
        lists["labels"],
        lists.get("negatives"),
        arrays["crc32"][0],
        arrays["image"][0],
        arrays["image"][1].data,
    )


def _arrays(column: pa.Array, count: int) -> list[NDArray[Any]]:
    """What a column of `count` values is made of, in the memory where it lies: numbers, or starts and contents.

    Nothing is taken for what it says it is: whatever the numbers are, no byte outside the column is reached.
    """
    if column.null_count or column.offset:
        raise ValueError("it has values that are missing")
    kind, buffers = column.type, column.buffers()
    if pa.types.is_integer(kind):
        return [np.frombuffer(buffers[1], kind.to_pandas_dtype(), count)]
    starts = np.frombuffer(buffers[1], np.int64 if pa.types.is_large_binary(kind) else np.int32, count + 1)
    if pa.types.is_list(kind):
        return [starts, np.frombuffer(buffers[-1] or b"", np.int32)[: starts[-1]]]
    return [starts, np.frombuffer(buffers[-1] or b"", np.uint8)]


def _index_crc32(batch: pa.RecordBatch) -> int:
    """Of all columns but the images themselves: where they begin counts, too."""
    found = len(batch)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        starts, *contents = _arrays(column, len(batch))
        found = zlib.crc32(starts.tobytes(), found)
        for content in contents if name != "image" else ():
            found = zlib.crc32(content[: starts[-1]].tobytes(), found)
    return found


def _piece(content: memoryview, starts: NDArray[np.int64], row: int) -> memoryview:
    return content[int(starts[row]) : int(starts[row + 1])]


def _check_columns(schema: pa.Schema) -> None:
    found = {field.name: field.type for field in schema}
    if found not in (_COLUMNS, {name: kind for name, kind in _COLUMNS.items() if name != "negatives"}):
        columns = ", ".join(f"{name}: {kind}" for name, kind in found.items())
        raise ValueError(f"its columns are {columns}")


def _facts(schema: pa.Schema) -> Facts:
    values = json.loads((schema.metadata or {}).get(_FACTS, b"null"))
    if not isinstance(values, dict) or values.get("format") != _FORMAT or values.keys() != set(Facts._fields):
        raise ValueError(f"it is not of format {_FORMAT}")
    return Facts(**values)
