"""Parquet files as the Hugging Face hub has data sets of images, to be published: written here, read as any are.

Columns: `image` (struct of the file's `bytes` and its `path`), `label` (a ClassLabel) or, of images with any number,
`labels` (a List of them), and `negatives` where a set has any. The names of the classes stand in the schema's metadata.
Each page has a checksum.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from depthwise.data.sources.shard_file import Row

_ROWS = 100  # of a group, as the hub's own library writes images
_FACTS = b"depthwise"


def write_parquet(
    file: BinaryIO,
    rows: Iterable[Row],
    made_for: str,
    *,
    classes: Sequence[str],
    single: bool,
    negatives: bool,
) -> int:
    """Write `rows` to `file` and return how many they are; the images of a row group are in memory at a time.

    single: each image is of one of the `classes`. negatives: whether there is a column of them.
    """
    schema = _schema(made_for, classes, single, negatives)
    count, waiting = 0, iter(rows)
    # Statistics would be whole images, the least and the greatest.
    how: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with pq.ParquetWriter(file, schema, write_page_checksum=True, **how) as writer:
        while group := list(islice(waiting, _ROWS)):
            values = [_values(row, single) for row in group]
            columns = [pa.array([value[field.name] for value in values], field.type) for field in schema]
            writer.write_table(pa.table(columns, schema=schema))
            count += len(group)
    return count


def whole_rows(path: Path) -> tuple[str, int]:
    """What the file says that it was made for, and how many rows it has, after all its pages were read and compared.

    Raises pa.ArrowException or OSError if one is damaged.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        made_for = (file.schema_arrow.metadata or {}).get(_FACTS, b"").decode("ascii", "replace")
        return made_for, sum(len(batch) for batch in _batches(file))


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    yield from file.iter_batches(_ROWS, use_threads=False)


def _schema(made_for: str, classes: Sequence[str], single: bool, negatives: bool) -> pa.Schema:
    label = {"names": list(classes), "_type": "ClassLabel"}
    labels = {"feature": label, "_type": "List"}
    columns: dict[str, Any] = {
        "image": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"_type": "Image"})
    }
    columns |= {"label": (pa.int64(), label)} if single else {"labels": (pa.list_(pa.int64()), labels)}
    columns |= {"negatives": (pa.list_(pa.int64()), labels)} if negatives else {}
    features = {name: feature for name, (_, feature) in columns.items()}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}), _FACTS: made_for}
    return pa.schema([(name, kind) for name, (kind, _) in columns.items()], metadata)


def _values(row: Row, single: bool) -> dict[str, Any]:
    # A path that is no UTF-8 cannot be a text of Arrow's.
    path = os.fsencode(row.key).decode("utf-8", "backslashreplace")
    labels = {"label": row.classes[0]} if single else {"labels": row.classes, "negatives": row.negatives}
    return {"image": {"bytes": row.encoded, "path": path}, **labels}
