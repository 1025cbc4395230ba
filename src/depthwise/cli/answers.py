"""What `depthwise predict` found, in each of its forms: a table for people, CSV, JSON, and a line of JSON an image.

Each takes results as they come and returns how many images could not be read.
"""

import csv
import io
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from depthwise.cli.output import console, table, to_json
from depthwise.serve.schema import document

if TYPE_CHECKING:
    from depthwise.infer import Prediction

Result = tuple[str, "Prediction | None", str]
"""An image's name, and the answer or the reason why there is none."""

Write = Callable[[str], object]


def as_table(results: Iterable[Result], threshold: float | None = None) -> int:
    """On standard output."""
    rows = table("image", "class", "probability", right=("probability",))
    num_bad = 0
    for name, prediction, reason in results:
        if prediction is None:
            num_bad += 1
            rows.add_row(name, f"cannot be read: {reason}", "", style="red")
            continue
        if not prediction.classes:
            least = "its threshold" if threshold is None else f"{threshold:.2%}"
            rows.add_row(name, f"none reaches {least}", "")
        for rank, (label, probability) in enumerate(
            zip(prediction.classes, prediction.probabilities, strict=True)
        ):
            rows.add_row("" if rank else name, label, f"{probability:.2%}")
    console().print(rows)
    return num_bad


def as_csv(results: Iterable[Result], write: Write, spell: Callable[[str], str]) -> int:
    """A line for each image and class; one without rank for an image without an answer. `spell`: a cell of text."""
    num_bad = 0
    line = io.StringIO()
    cells = csv.writer(line, lineterminator="\r\n")  # what ends a line is quoted inside of one

    def row(*values: Any) -> None:
        cells.writerow([spell(value) if isinstance(value, str) else value for value in values])
        write(line.getvalue().removesuffix("\r\n") + "\n")
        line.seek(0)
        line.truncate()

    row("image", "rank", "class", "index", "probability", "error")
    for name, prediction, reason in results:
        num_bad += prediction is None
        if prediction is None or not prediction.classes:
            row(name, "", "", "", "", reason)
            continue
        answers = zip(prediction.classes, prediction.indices, prediction.probabilities, strict=True)
        for rank, answer in enumerate(answers, start=1):
            row(name, rank, *answer, "")
    return num_bad


def as_json(results: Iterable[Result], write: Write) -> int:
    """One document."""
    images = [document(*result) for result in results]
    write(to_json({"images": images}, indent=2) + "\n")
    return sum("error" in image for image in images)


def as_json_lines(results: Iterable[Result], write: Write) -> int:
    """Of each image what the document has."""
    num_bad = 0
    for name, prediction, reason in results:
        num_bad += prediction is None
        write(to_json(document(name, prediction, reason)) + "\n")
    return num_bad
