"""A data set whose parts a person names one by one: train=a.csv,val=b.csv, each a manifest or a folder of classes."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthwise.data.columns import Columns
from depthwise.data.names import some
from depthwise.data.sources.chosen import Chosen
from depthwise.data.sources.labelled import Labelled
from depthwise.data.sources.listing import Listing, list_folder
from depthwise.data.sources.manifest import labelled
from depthwise.data.sources.rows import Read
from depthwise.data.sources.shard_manifest import is_shards
from depthwise.data.sources.tables import HOLDING, SUFFIXES, Table, open_table
from depthwise.data.sources.verify import Looking
from depthwise.errors import DepthwiseError, UsageError


@dataclass(frozen=True)
class Sorted:
    """A `Table` of the images in a folder of classes, with columns of names and classes."""

    listing: Listing

    names = ("its name", "its folder")

    @property
    def path(self) -> Path:
        return self.listing.root

    def where(self, number: int) -> str:
        return f"an image of {self.path}"

    def rows(self, names: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        number = 0
        for label, images in self.listing.parts[""].items():
            for name in images:
                values = dict(zip(self.names, (name, label), strict=True))
                yield number, [values[column] for column in names]
                number += 1


def read_parts(
    spec: str,
    parts: Mapping[str, Path],
    columns: Columns,
    looking: Looking,
    chooser: Callable[[Table, Columns], Chosen],
    *,
    nested: bool = False,
) -> Labelled:
    """The images of `parts`, which `spec` names; of each manifest the paths begin in its own folder.

    nested: see `open_dataset`. Raises DepthwiseError, UsageError for a part that is neither manifest nor folder.
    """
    places = {part: path if path.is_dir() else path.parent for part, path in parts.items()}
    root = Path(
        columns.image_root or os.path.commonpath([os.path.abspath(place) for place in places.values()])
    )
    reads = []
    for part, path in parts.items():
        base = os.path.relpath(places[part], root)
        if path.is_dir():
            table: Table = _sorted(part, path, nested)
            chosen = Chosen("its name", "its folder", None, None, None, ())
        elif path.suffix.lower() in SUFFIXES:
            table = open_table(path, os.path.relpath(path, root))
            chosen = chooser(table, columns)._replace(part=None)
            if columns.image_root or path.suffix.lower() in HOLDING:
                base = ""
        else:
            raise UsageError(
                f"{path}, the {part} part, is neither a folder nor a manifest: give one that ends in "
                f"{some(SUFFIXES, joint=' or ', most=9)}"
            )
        reads.append(Read(table, chosen, part, "" if base == os.curdir else base))
    return labelled(Path(spec), reads, root, columns, looking)


def _sorted(part: str, folder: Path, nested: bool) -> Sorted:
    if is_shards(folder):
        raise DepthwiseError(
            f"{folder}, the {part} part, is a set of shards, which has its own parts: pack the files that the parts "
            f"are made of, `depthwise data shard train=...,val=... --out DIR`"
        )
    listing = list_folder(folder, nested=nested)
    if "" not in listing.parts:
        found = some(f"{part}/" for part in listing.parts)
        raise DepthwiseError(f"{folder}, the {part} part, has the parts {found} itself: name one of them")
    return Sorted(listing)
