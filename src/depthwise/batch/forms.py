"""Answers in the forms that are written and printed: a document an image, in CSV, JSON, JSON lines or parquet.

Each function takes documents as they come. A `Document` is what `predict --json` prints of an image.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from depthwise.serve import schema
from depthwise.words import to_json

if TYPE_CHECKING:
    from depthwise.data import BadImage
    from depthwise.infer import Prediction

Document = dict[str, Any]
"""As `serve/schema.py` has it: of an image with its predictions, or the error that is why there are none."""

Write = Callable[[str], object]

FOR_FILES = (".csv", ".json", ".jsonl", ".parquet")
"""Forms of one file, by its suffix."""
FOR_PIECES = ("jsonl", "csv", "parquet")
"""Those of a folder's files, each of which is whole as it stands."""

_GROUP = 10_000  # images of a row group in parquet


def document(name: str, answer: "Prediction | BadImage") -> Document:
    """That of the image `name`."""
    from depthwise.data import BadImage

    return (
        schema.document(name, None, answer.reason)
        if isinstance(answer, BadImage)
        else schema.document(name, answer)
    )


def as_csv(documents: Iterable[Document], write: Write, spell: Callable[[str], str]) -> None:
    """A line for each image and class; one without rank for an image without an answer. `spell`: a cell of text."""
    line = io.StringIO()
    cells = csv.writer(line, lineterminator="\r\n")  # what ends a line is quoted inside of one

    def row(*values: Any) -> None:
        cells.writerow([spell(value) if isinstance(value, str) else value for value in values])
        write(line.getvalue().removesuffix("\r\n") + "\n")
        line.seek(0)
        line.truncate()

    row("image", "rank", "class", "index", "probability", "error")
    for each in documents:
        if not each.get("predictions"):
            row(each["image"], "", "", "", "", each.get("error", ""))
            continue
        for rank, answer in enumerate(each["predictions"], start=1):
            row(each["image"], rank, answer["class"], answer["index"], answer["probability"], "")


def as_json(documents: Iterable[Document], write: Write) -> None:
    """One document of all."""
    write(to_json({"images": list(documents)}, indent=2) + "\n")


def as_json_lines(documents: Iterable[Document], write: Write) -> None:
    """A line an image."""
    for each in documents:
        write(to_json(each) + "\n")


def as_parquet(documents: Iterable[Document], file: BinaryIO) -> None:
    """A row an image: image, predictions (null without an answer), error (null with one).

    Parquet's texts are UTF-8: bytes of a name that are none are spelled out.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    answer = pa.struct([("class", pa.string()), ("index", pa.int32()), ("probability", pa.float64())])
    schema = pa.schema([("image", pa.string()), ("predictions", pa.list_(answer)), ("error", pa.string())])
    waiting = iter(documents)
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(waiting, _GROUP)):
            rows = [{**each, "image": _utf8(each["image"])} for each in group]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _utf8(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def write_as(form: str, documents: Iterable[Document], file: BinaryIO, spell: Callable[[str], str]) -> None:
    """`documents` to a binary `file` in the form "csv", "json", "jsonl" or "parquet"; spell: a cell of text in CSV."""

    def write(text: str) -> None:
        file.write(text.encode(errors="surrogateescape"))

    match form:
        case "csv":
            as_csv(documents, write, spell)
        case "json":
            as_json(documents, write)
        case "parquet":
            as_parquet(documents, file)
        case _:
            as_json_lines(documents, write)


def read_json_lines(paths: Sequence[Path]) -> Iterator[Document]:
    """What such files hold, one after the other. Raises OSError or ValueError."""
    for path in paths:
        with path.open(encoding="ascii") as file:
            yield from map(json.loads, file)


def count_bad(path: Path) -> int:
    """How many images a written file has no answer for; its form is that of its suffix."""
    if path.suffix == ".jsonl":
        return sum("error" in each for each in read_json_lines([path]))
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        errors = pq.read_table(path, columns=["error"]).column(0)
        return len(errors) - errors.null_count
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return sum(bool(row["error"]) for row in csv.DictReader(file))
