"""Features in a file, a row an image: parquet, or one array of records in NumPy's own form.

Both have the fields `image`, the name, and `features`, float32 [D]. Parquet also keeps the SHA-256 of the weights that
made them. `np.load(FILE)["features"]` is float32 [N, D], without pickle.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from depthwise.data.dataset import BadImage
from depthwise.errors import DepthwiseError, UsageError
from depthwise.writing import written_whole

SUFFIXES = (".parquet", ".npy")
BLOCK = 4096
"""Rows in memory at a time."""

WEIGHTS = b"depthwise.weights"
_HEADER = (2, 0)

Block = tuple[Sequence[str], np.ndarray]
"""Names, and features float32 [n, D]."""


@dataclass(frozen=True)
class Embeddings:
    """Features as read: `width` is D, `blocks` gives them from the first on, `weights` the SHA-256 if it is known."""

    path: Path
    width: int
    weights: str | None
    blocks: Callable[[], Iterator[Block]]


def check_suffix(out: Path) -> None:
    """Raise UsageError unless `out` names a form that is written."""
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{out} ends in neither {' nor '.join(SUFFIXES)}: name it {out.stem}.parquet, for example"
        )


def write(
    out: Path, names: Sequence[str], rows: Iterable[np.ndarray | BadImage], weights: str | None = None
) -> list[BadImage]:
    """Write the features `rows` of the images of these `names`, float32 [D] each, to `out`, whole or not at all.

    Returns the images that cannot be read, which have no row. Raises DepthwiseError if none can, and what
    `written_whole` does.
    """
    bad: list[BadImage] = []

    def readable() -> Iterator[tuple[str, np.ndarray]]:
        for name, row in zip(names, rows, strict=True):
            if isinstance(row, BadImage):
                bad.append(BadImage(name, row.reason))
            else:
                # A file name that is no valid Unicode comes as lone surrogates.
                yield name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), row

    found = readable()
    with written_whole(out) as file:
        first = next(found, None)
        if first is None:
            raise DepthwiseError(
                f"none of the {len(names)} images can be read, {bad[0].path} ({bad[0].reason}) for one"
            )
        blocks = _in_blocks(chain([first], found))
        if out.suffix.lower() == ".npy":
            _write_records(file, blocks, max(map(len, names)), len(first[1]), len(names))
        else:
            _write_parquet(file, blocks, len(first[1]), weights)
    return bad


def read(path: Path) -> Embeddings:
    """The embeddings in a file that `write` has written. Raises DepthwiseError for anything else."""
    check_suffix(path)
    try:
        found = _of_records(path) if path.suffix.lower() == ".npy" else _of_parquet(path)
    except FileNotFoundError:
        raise DepthwiseError(f"{path} does not exist: write it with depthwise embed") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise DepthwiseError(
            f"{path} cannot be read ({reason}): write it anew with depthwise embed"
        ) from None
    if found is None:
        raise DepthwiseError(
            f"{path} holds no field 'image' of names beside 'features' of float32: write it with depthwise embed"
        )
    return found


def _in_blocks(rows: Iterator[tuple[str, np.ndarray]]) -> Iterator[Block]:
    names: list[str] = []
    features: list[np.ndarray] = []
    for name, row in rows:
        names.append(name)
        features.append(row)
        if len(names) == BLOCK:
            yield names, np.stack(features)
            names, features = [], []
    if names:
        yield names, np.stack(features)


def _write_records(file: BinaryIO, blocks: Iterator[Block], longest: int, width: int, most: int) -> None:
    dtype = np.dtype([("image", f"<U{max(1, longest)}"), ("features", "<f4", (width,))])

    def header(rows: int) -> bytes:
        np.lib.format.write_array_header_2_0(
            file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows,)}
        )
        return b""

    header(most)
    start, rows = file.tell(), 0
    for names, features in blocks:
        records = np.zeros(len(names), dtype)
        records["image"], records["features"] = names, features
        file.write(records.tobytes())
        rows += len(names)
    file.seek(0)
    header(rows)
    assert file.tell() == start  # NumPy leaves room for the number of rows
    file.seek(0, 2)


def _write_parquet(file: BinaryIO, blocks: Iterator[Block], width: int, weights: str | None) -> None:
    fields = [("image", pa.string()), ("features", pa.list_(pa.float32(), width))]
    schema = pa.schema(fields, metadata=None if weights is None else {WEIGHTS: json.dumps(weights)})
    with pq.ParquetWriter(file, schema) as writer:
        for names, features in blocks:
            flat = pa.array(features.reshape(-1), pa.float32())
            listed = pa.FixedSizeListArray.from_arrays(flat, width)
            writer.write_batch(pa.record_batch([pa.array(names, pa.string()), listed], schema=schema))


def _of_records(path: Path) -> Embeddings | None:
    records = np.load(path, mmap_mode="r", allow_pickle=False)
    if (
        not isinstance(records, np.ndarray)
        or records.ndim != 1
        or records.dtype.names != ("image", "features")
    ):
        return None
    shape = records.dtype["features"].shape
    if len(shape) != 1 or records.dtype["features"].base != np.float32 or records.dtype["image"].kind != "U":
        return None

    def blocks() -> Iterator[Block]:
        for start in range(0, len(records), BLOCK):
            part = records[start : start + BLOCK]
            yield part["image"].tolist(), np.ascontiguousarray(part["features"])

    return Embeddings(path, shape[0], None, blocks)


def _of_parquet(path: Path) -> Embeddings | None:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
    kind = schema.field("features").type if "features" in schema.names else None
    if kind is None or not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32():
        return None
    if "image" not in schema.names or schema.field("image").type != pa.string():
        return None

    def blocks() -> Iterator[Block]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BLOCK, columns=["image", "features"]):
                if batch.column("features").null_count or batch.column("image").null_count:
                    raise DepthwiseError(
                        f"{path} has rows without a name or features: write it anew with depthwise embed"
                    )
                flat = batch.column("features").flatten().to_numpy(zero_copy_only=False)
                yield batch.column("image").to_pylist(), flat.reshape(-1, kind.list_size)

    weights = (schema.metadata or {}).get(WEIGHTS)
    return Embeddings(path, kind.list_size, None if weights is None else json.loads(weights), blocks)
