"""How much each label counts in MAP@100: read from a file, or as often as it is there."""

import csv
import io
import math
import os
from collections.abc import Iterator, Sequence

from depthwise.data.dataset import Split
from depthwise.data.names import composed
from depthwise.data.targets import class_counts
from depthwise.errors import DepthwiseError, shown, unknown_name
from depthwise.reading import read_regular
from depthwise.words import quote_path

FREQUENCY = "frequency"


def label_weights(asked: str | os.PathLike[str], classes: Sequence[str], split: Split) -> list[float]:
    """Of each of `classes`: with FREQUENCY the images of `split` that have it, else what a file says of it.

    The file is CSV without a header, a label and its weight on a line; labels that it does not name weigh nothing.
    Raises DepthwiseError for a file that cannot be read, a label that is no class, or no weight from 0 up.
    """
    if asked == FREQUENCY:
        return [float(count) for count in class_counts(split, len(classes)).tolist()]
    try:
        text = read_regular(asked).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DepthwiseError(
            f"{os.fspath(asked)} cannot be read as label weights ({error}): give a CSV file of labels and weights, or "
            f"{FREQUENCY}"
        ) from error
    places = {composed(name): k for k, name in enumerate(classes)}
    weights = [0.0] * len(classes)
    for number, row in _rows(asked, text):
        if not row:
            continue
        if len(row) != 2:
            raise _refused(asked, number, f"has {len(row)} values and must have a label and its weight")
        label, weight = row
        if composed(label) not in places:
            raise _refused(asked, number, str(unknown_name("label", label, classes)))
        weights[places[composed(label)]] = _weight(asked, number, weight)
    if not any(weights):
        raise DepthwiseError(f"{quote_path(asked)} gives no label a weight above 0: weigh one at least")
    return weights


def _rows(asked: str | os.PathLike[str], text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise _refused(asked, reader.line_num, f"is no line of CSV ({error})") from None


def _weight(asked: str | os.PathLike[str], line: int, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise _refused(asked, line, f"gives the weight {shown(text)}, which must be a number from 0 up")
    return weight


def _refused(asked: str | os.PathLike[str], line: int, rule: str) -> DepthwiseError:
    return DepthwiseError(f"{os.fspath(asked)}, line {line}: {rule}")
