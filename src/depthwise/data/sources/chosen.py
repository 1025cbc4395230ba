"""Which columns of a table hold what, and what parts the labels in one value."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from depthwise.data.columns import Columns
from depthwise.data.names import some
from depthwise.data.sources.flags import flagged
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
    """Columns of a table by what they hold, None for none. separator: between labels in a text.

    flags: columns that are a label each, in place of `label`: 1 for an image that has it, see `Flags`.
    """

    path: str
    label: str | None
    part: str | None
    negative: str | None
    separator: str | None
    notes: tuple[str, ...]
    flags: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Of the columns that are read."""
        return [self.path, *self.flags, *filter(None, (self.label, self.part, self.negative))]


def choose(table: Table, columns: Columns) -> Chosen:
    """As `columns` say, and where they do not, as far as there is no doubt. Raises DepthwiseError."""
    names = table.names
    path = _required(table, columns.path_column, PATHS, "--path-column", "paths of images")
    label = columns.label_column
    if label is None and len(names) == 2 and not any(_plain(name) in LABELS for name in names):
        (label,) = (name for name in names if name != path)
    part = _optional(table, columns.split_column, PARTS, "--split-column")
    negative = _optional(table, columns.negative_column, NEGATIVES, "--negative-column")
    found = _optional(table, label, LABELS, "--label-column")
    notes: tuple[str, ...] = ()
    flags = () if found else flagged(table, [name for name in names if name not in (path, part, negative)])
    if flags:
        unused = [name for name in names if name not in (path, part, negative, *flags)]
        notes = (f"not used: {some(unused)}, with other values than 0 and 1",) if unused else ()
    else:
        found = _required(table, label, LABELS, "--label-column", "labels")
    chosen = Chosen(path, found, part, negative, columns.label_separator, notes, flags)
    roles = chosen.names
    if len(set(roles)) < len(roles):
        twice = next(name for name in roles if roles.count(name) > 1)
        raise DepthwiseError(
            f"column {twice} of {table.path} is asked for twice: each column holds one thing"
        )
    return _surveyed(table, chosen, columns)


def choose_images(table: Table, columns: Columns, kept: Columns) -> Chosen:
    """Of a table whose labels nobody asks for: the column of paths, the only one if there is no other, and of parts.

    kept: what a training was given, used as far as the table has such columns. Raises DepthwiseError.
    """
    names = table.names
    path = columns.path_column or (kept.path_column if kept.path_column in names else None)
    if path is None and len(names) == 1:
        (path,) = names
    path = _required(table, path, PATHS, "--path-column", "paths of images")
    parts = [name for name in names if name == kept.split_column] or [
        name for name in names if _plain(name) in PARTS
    ]
    part = parts[0] if len(parts) == 1 and parts[0] != path else None
    return _surveyed(table, Chosen(path, None, part, None, None, ()), columns)


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
    commas = ""
    places = {name: place for place, name in enumerate(chosen.names)}
    of_labels = [places[name] for name in (chosen.label, chosen.negative) if name]
    for _, values in table.rows(chosen.names):
        for text in _texts(*(values[place] for place in of_labels)):
            separators |= {c: text for c in SEPARATORS if c in text}
            commas = commas or (text if "," in text else "")
        if chosen.part:
            part = values[places[chosen.part]]
            if not (isinstance(part, str) and part_of(part.strip())):
                return _surveyed(table, _without_part(table, chosen, columns, part), columns)
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
