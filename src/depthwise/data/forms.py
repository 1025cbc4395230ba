"""The forms in which a set is packed: what the files are called, how they are written, and whether one is whole."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa

from depthwise.data.image import UnreadableImageError
from depthwise.data.sources.shard_file import Row, open_shard, write_shard
from depthwise.data.sources.shard_manifest import KIND
from depthwise.data.sources.shard_parquet import whole_rows, write_parquet
from depthwise.data.sources.shards import UNDIVIDED, shard_name


@dataclass(frozen=True)
class About:
    """What is known of the images of a file before it is written.

    made_for: what the file says that it is a part of. single: each image is of one of the `classes`; negatives: some
    were looked at for classes that they do not show.
    """

    made_for: str
    classes: Sequence[str]
    single: bool
    negatives: bool


class Form(Protocol):
    """A kind of files."""

    kind: str
    """What its manifest.json calls itself."""
    pattern: str
    """What all its files are called, for glob."""
    vocabulary: bool
    """Whether the names of the classes stand in a file of their own."""

    def file(self, part: str, number: int, count: int) -> str:
        """The name of a part's file; `count`: how many it has."""

    def write(self, file: BinaryIO, rows: Iterable[Row], about: About) -> None: ...

    def whole(self, path: Path) -> tuple[str, int] | None:
        """What `path` was made for, and how many images it has; None if one of them is not as it was written."""


class Arrow:
    """Shards: to be trained on."""

    kind = KIND
    pattern = "*-[0-9][0-9][0-9][0-9][0-9].arrow"
    vocabulary = True

    def file(self, part: str, number: int, count: int) -> str:
        return shard_name(part, number)

    def write(self, file: BinaryIO, rows: Iterable[Row], about: About) -> None:
        write_shard(file, rows, about.made_for, negatives=about.negatives)

    def whole(self, path: Path) -> tuple[str, int] | None:
        try:
            shard = open_shard(path, single=False)
            for row in range(len(shard)):
                shard.encoded(row)
        except UnreadableImageError:
            return None
        return shard.facts.made_for, len(shard)


class Parquet:
    """What the Hugging Face hub shows and other programs read: to be published."""

    kind = "depthwise parquet"
    pattern = "*-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9].parquet"
    vocabulary = False

    def file(self, part: str, number: int, count: int) -> str:
        part = {"val": "validation", UNDIVIDED: "train"}.get(part, part)  # as the hub calls them
        return f"{part}-{number:05}-of-{count:05}.parquet"

    def write(self, file: BinaryIO, rows: Iterable[Row], about: About) -> None:
        write_parquet(
            file, rows, about.made_for, classes=about.classes, single=about.single, negatives=about.negatives
        )

    def whole(self, path: Path) -> tuple[str, int] | None:
        try:
            return whole_rows(path)
        except (pa.ArrowException, OSError):
            return None


FORMS: dict[str, Form] = {"arrow": Arrow(), "parquet": Parquet()}
