"""Which columns of a table hold what, and what parts the labels in one value."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from depthwise.data.columns import Columns
from depthwise.data.sources.listing import part_of
from depthwise.data.sources.tables import Table, column_list
from depthwise.errors import DepthwiseError

# Names that are taken to say what they hold, in lower case and without what parts their words.
PATHS = frozenset(
    [
        *("path", "file", "filename", "filepath", "photo", "picture"),
        *("image", "imagepath", "imagefile", "imagename", "img", "imgpath", "imgname"),
    ]
)
LABELS = frozenset(
    [
        *("label", "labels", "labelname", "tag", "tags", "keyword", "keywords"),
        *("class", "classes", "classname", "category", "categories"),
    ]
)
PARTS = frozenset(["split", "part", "subset", "partition", "usage"])
NEGATIVES = frozenset(["negative", "negatives", "negativelabels", "verifiednegatives"])
SEPARATORS = ";|"
"""What is taken to part labels, unless another separator is given; a comma is in the names of many classes."""


class Chosen(NamedTuple):
    """Columns of a table by what they hold, None for none. separator: between labels in a text."""

    path: str
    label: str
    part: str | None
    negative: str | None
    separator: str | None
    notes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Of the columns that are read."""
        return [self.path, self.label, *filter(None, (self.part, self.negative))]


def choose(table: Table, columns: Columns) -> Chosen:
    """As `columns` say, and where they do not, as far as there is no doubt. Raises DepthwiseError."""
    names = table.names
    path = _required(table, columns.path_column, PATHS, "--path-column", "paths of images")
    label = columns.label_column
    if label is None and len(names) == 2 and not any(_plain(name) in LABELS for name in names):
        (label,) = (name for name in names if name != path)
    label = _required(table, label, LABELS, "--label-column", "labels")
    part = _optional(table, columns.split_column, PARTS, "--split-column")
    negative = _optional(table, columns.negative_column, NEGATIVES, "--negative-column")
    chosen = Chosen(path, label, part, negative, columns.label_separator, ())
    roles = chosen.names
    if len(set(roles)) < len(roles):
        twice = next(name for name in roles if roles.count(name) > 1)
        raise DepthwiseError(
            f"column {twice} of {table.path} is asked for twice: each column holds one thing"
        )
    return _surveyed(table, chosen, columns)


def _required(table: Table, asked: str | None, known: frozenset[str], option: str, what: str) -> str:
    found = _optional(table, asked, known, option)
    if found is None:
        raise DepthwiseError(
            f"{table.path} has no column that is known to hold {what}, only {column_list(table.names)}: name it with "
            f"{option}; the first line of a CSV names the columns"
        )
    return found


def _optional(table: Table, asked: str | None, known: frozenset[str], option: str) -> str | None:
    if asked is not None:
        if asked not in table.names:
            raise DepthwiseError(f"{table.path} has no column {asked}: it has {column_list(table.names)}")
        return asked
    found = [name for name in table.names if _plain(name) in known]
    if len(found) > 1:
        raise DepthwiseError(
            f"{table.path} has the columns {' and '.join(found)}, which mean one thing: say with {option} which"
        )
    return found[0] if found else None


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def _surveyed(table: Table, chosen: Chosen, columns: Columns) -> Chosen:
    """`chosen`, with the separator that the labels have, and without a part that nobody asked for and that is none."""
    separators: dict[str, str] = {}
    commas, odd_part = "", None
    for _, values in table.rows(chosen.names):
        for text in _texts(values[1], values[3 if chosen.part else 2] if chosen.negative else None):
            separators |= {c: text for c in SEPARATORS if c in text}
            commas = commas or (text if "," in text else "")
        if (
            chosen.part
            and not (isinstance(values[2], str) and part_of(values[2].strip()))
            and odd_part is None
        ):
            odd_part = values[2]
            chosen = _without_part(table, chosen, columns, odd_part)
            return _surveyed(table, chosen, columns)
    if chosen.separator is not None:
        return chosen
    if len(separators) > 1:
        told = " and ".join(f"{c!r} ({text})" for c, text in separators.items())
        raise DepthwiseError(
            f"labels in {table.path} hold {told}: say with --label-separator what parts them"
        )
    if separators:
        return chosen._replace(separator=next(iter(separators)))
    if commas:
        note = (
            f"commas in labels are taken to be part of their names ({commas}): --label-separator , parts them"
        )
        chosen = chosen._replace(notes=(*chosen.notes, note))
    return chosen


def _without_part(table: Table, chosen: Chosen, columns: Columns, value: Any) -> Chosen:
    told = f"{value!r}" if value else "nothing"
    if columns.split_column is not None:
        raise DepthwiseError(
            f"column {chosen.part} of {table.path} says {told} of an image's part: write train, val or test"
        )
    note = f"column {chosen.part} says {told} of an image's part, where train, val or test would divide: it is not used"
    return chosen._replace(part=None, notes=(*chosen.notes, note))


def _texts(*values: Any) -> Sequence[str]:
    return [value for value in values if isinstance(value, str)]
