"""A folder of images whose labels are keywords: in files beside them, or inside JPEGs."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from depthwise.data.columns import Columns
from depthwise.data.keywords import KeywordsError, of_jpeg, of_text, of_xmp
from depthwise.data.names import some
from depthwise.data.sources.chosen import Chosen
from depthwise.data.sources.labelled import Labelled
from depthwise.data.sources.listing import images_below, part_of
from depthwise.data.sources.manifest import about_labels
from depthwise.data.sources.rows import Read, Rows, gather
from depthwise.data.sources.verify import Files, Looking
from depthwise.data.texts import Texts
from depthwise.errors import DepthwiseError
from depthwise.reading import open_regular, read_regular
from depthwise.words import number_of

FOR_TABLES = ("path_column", "label_column", "split_column", "negative_column", "image_root")
"""Columns that only a table has."""


@dataclass
class Tagged:
    """A `Table` of images in a folder, with the columns path, keywords and part. unread: reasons, by image."""

    path: Path
    images: Texts
    source: Literal["sidecar", "embedded"]
    separator: str | None
    unread: dict[str, str] = field(default_factory=dict)
    used: Counter[str] = field(default_factory=Counter)

    names = ("path", "keywords", "part")

    def where(self, number: int) -> str:
        return f"image {self.images[number]} of {self.path}"

    def rows(self, names: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        for number, name in enumerate(self.images):
            values = {"path": name, "part": name.partition(os.sep)[0], "keywords": self._keywords(name)}
            yield number, [values[column] for column in names]

    def _keywords(self, name: str) -> list[str]:
        try:
            return self._embedded(name) if self.source == "embedded" else self._beside(name)
        except (KeywordsError, OSError) as error:
            self.unread[name] = getattr(error, "strerror", None) or str(error)
            return []

    def _embedded(self, name: str) -> list[str]:
        with open_regular(self.path / name) as file:
            found = of_jpeg(file)
        self.used["JPEG"] += bool(found)
        return found

    def _beside(self, name: str) -> list[str]:
        """Of photo.jpg: photo.txt, photo.jpg.txt, photo.xmp or photo.jpg.xmp, the first of them that is there."""
        stem = os.path.splitext(name)[0]
        for suffix in (".txt", ".xmp"):
            for beside in (f"{stem}{suffix}", f"{name}{suffix}"):
                if os.path.lexists(self.path / beside):
                    data = read_regular(self.path / beside)
                    self.used[suffix] += 1
                    return of_text(data, self.separator) if suffix == ".txt" else of_xmp(data)
        return []


def read_tagged(root: Path, columns: Columns, looking: Looking) -> Labelled:
    """The images in the folder `root` and below, with the keywords that `columns.labels_from` means.

    Raises DepthwiseError: there is no image, or not one has keywords.
    """
    source = columns.labels_from
    assert source is not None
    names = [os.path.relpath(path, root) for path in images_below(root)]
    if not names:
        raise DepthwiseError(f"{root} has no image: give a folder of images with keywords")
    table = Tagged(root, Texts.of(names), source, columns.label_separator)
    divided = all(part_of(name.partition(os.sep)[0]) for name in names)
    chosen = Chosen("path", "keywords", "part" if divided else None, None, None, ())
    rows = gather([Read(table, chosen)], root, columns)
    if not table.used.total():
        where = "inside its JPEGs" if source == "embedded" else "in .txt or .xmp files beside its images"
        raise DepthwiseError(f"{root} has no keyword {where}: see --labels-from in `depthwise train --help`")
    store = Files(root)
    verified = looking.verify(store, rows.names)
    return Labelled(
        root,
        store,
        rows,
        "folders",
        (*_notes(table, rows), *about_labels(rows)),
        columns,
        *verified,
        looking.decoding,
        looking.channels,
    )


def _notes(table: Tagged, rows: Rows) -> Iterator[str]:
    counted = " and ".join(f"{count:,} {kind}" for kind, count in table.used.items() if count)
    where = "keywords inside" if table.source == "embedded" else "keywords in"
    images = number_of(len(table.images), "image")
    kind = "any number of labels" if rows.several else "one label"
    yield f"{table.path}: {images} of {kind} each, {where} {counted} files"
    if table.unread:
        which = some(f"{name} ({reason})" for name, reason in table.unread.items())
        count = number_of(len(table.unread), "image")
        yield f"keywords of {count} cannot be read and are taken for none: {which}"
