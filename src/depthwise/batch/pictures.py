"""The images that a person names to be answered: files, folders, patterns, shards, manifests, in their order."""

import glob
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from depthwise.data import BadImage
from depthwise.data.columns import Columns
from depthwise.data.dataset import ArraySplit, FileSplit, InFiles, Reader, Split, encoded, undecoded
from depthwise.data.image import DEFAULT, Decoding, File
from depthwise.data.sources.blocks import BlockSplit
from depthwise.data.sources.listing import images_below, passed_over
from depthwise.data.sources.manifest import SUFFIXES as TABLES
from depthwise.data.sources.manifest import manifests
from depthwise.data.sources.open import open_images
from depthwise.data.sources.shard_manifest import is_shards
from depthwise.data.sources.stored import StoredSplit
from depthwise.errors import UsageError


class Picture(NamedTuple):
    """An image and what a person calls it: a path, its bytes, a function that gives them when its turn has come, or why
    there is none."""

    name: str
    image: str | bytes | Callable[[], bytes | Tensor] | BadImage


@dataclass(frozen=True)
class Listed:
    """Images that were named one by one, with their names."""

    pictures: tuple[Picture, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def at(self, index: int) -> Picture:
        return self.pictures[index]

    @property
    def files(self) -> tuple[tuple[str, int], ...]:
        return ()

    @property
    def digest(self) -> str:
        """Of the names, and of what tells a changed file: its size and the time of its change."""
        digest = hashlib.sha256()
        for name, image in self.pictures:
            if isinstance(image, str):
                digest.update(_state(name, image))
            else:
                known = image if isinstance(image, bytes) else repr(image).encode(errors="surrogateescape")
                digest.update(os.fsencode(name) + b"\0" + hashlib.sha256(known).digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class OfSplit:
    """The images of a split: light where the split is, however many they are."""

    split: Split

    def __len__(self) -> int:
        return len(self.split)

    def at(self, index: int) -> Picture:
        return Picture(self.split.name(index), partial(encoded, self.split, index))

    @property
    def files(self) -> tuple[tuple[str, int], ...]:
        return self.split.files if isinstance(self.split, InFiles) else ()

    @property
    def digest(self) -> str:
        digest, split = hashlib.sha256(), self.split
        match split:
            case BlockSplit():
                digest.update(repr((split.source, split.numbers, split.blocks)).encode())
            case StoredSplit():
                digest.update(repr((split.held.files, len(split))).encode())
            case ArraySplit():
                digest.update(split.images.contiguous().numpy().tobytes())
            case FileSplit():
                for name in split.paths:
                    digest.update(_state(name, os.path.join(split.root, name)))
            case _:
                for index in range(len(split)):
                    digest.update(os.fsencode(split.name(index)) + b"\0")
        return digest.hexdigest()


Pictures = Listed | OfSplit
"""Images in an order. `files`: the larger files that they lie in, in their order, with how many are in each; `digest`:
by what they are known."""


def narrowed(pictures: Pictures, start: int, stop: int) -> Pictures:
    """The images from `start` up to `stop` alone, light to be sent elsewhere; both are where files begin or end, if
    there are any."""
    if isinstance(pictures, Listed):
        return Listed(pictures.pictures[start:stop])
    split = pictures.split
    if isinstance(split, BlockSplit):  # whose names stand in the blocks, which need not be here
        starts = [0, *accumulate(split.blocks)]
        some = slice(starts.index(start), starts.index(stop))
        return OfSplit(replace(split, numbers=split.numbers[some], blocks=split.blocks[some], counts=None))
    return Listed(
        tuple(
            Picture(split.name(index), partial(_read, split.reader, split.key(index)))
            for index in range(start, stop)
        )
    )


def _read(reader: Reader, key: Any) -> bytes | Tensor:
    found = undecoded(reader, key)
    return found.data if isinstance(found, File) else found


def _state(name: str, path: str) -> bytes:
    try:
        known = os.stat(path)
        state = f"{known.st_size} {known.st_mtime_ns}"
    except (OSError, ValueError):
        state = "-"
    return os.fsencode(name) + f"\0{state}\0".encode()


def find_pictures(
    arguments: Sequence[str],
    reading: Decoding | None = None,
    columns: Columns | None = None,
    *,
    note: Callable[[str], None],
    given: Callable[[str], Picture | None] = lambda name: None,
) -> list[Pictures]:
    """The images that `arguments` mean, in order: folders and patterns replaced by their files, shards and manifests by
    their images.

    reading: how a manifest's files are looked over; columns: where it has their paths; given: what an argument means
    that is no path. A file that does not exist stays in the list, to be reported among the others. Raises UsageError
    for a folder or a pattern without images.
    """
    found: list[Pictures] = []
    files: list[Picture] = []

    def end_of_files() -> None:
        if files:
            found.append(Listed(tuple(files)))
            files.clear()

    for argument in arguments:
        before = len(found) + len(files)
        if picture := given(argument):
            files.append(picture)
            continue
        for name in _meant(argument):
            if _is_table(Path(name)):
                end_of_files()
                found += _of_table(name, reading, columns, note)
            elif os.path.isdir(name):
                files += (Picture(each, each) for each in images_below(name))
            else:
                files.append(Picture(name, name))
        if len(found) + len(files) == before:
            raise UsageError(
                f"{argument!r} holds no image: name an image file, or a folder or a pattern with some"
            )
    end_of_files()
    return found


def each_of(found: Sequence[Pictures]) -> Iterator[Picture]:
    """All of them, one after the other."""
    return (pictures.at(index) for pictures in found for index in range(len(pictures)))


def _is_table(path: Path) -> bool:
    """Whether it is shards, or a manifest, or a folder of them without images beside."""
    if path.is_dir():
        return is_shards(path) or (bool(manifests(path)) and not images_below(path))
    return path.suffix.lower() in TABLES and path.is_file()


def _of_table(
    spec: str, reading: Decoding | None, columns: Columns | None, note: Callable[[str], None]
) -> list[Pictures]:
    """The images of a data set, labelled or not, in its order, and after them what of it cannot be read."""
    found = open_images(spec, decoding=reading or DEFAULT, columns=columns)
    for text in found.notes:
        note(text)
    pictures: list[Pictures] = [OfSplit(split) for split in found.splits.values()]
    if found.bad:
        pictures.append(Listed(tuple(Picture(bad.path, bad) for bad in found.bad)))
    return pictures


def _meant(argument: str) -> list[str]:
    """The argument itself, or if it is a pattern what it means, without what training would pass over, unless the
    pattern itself has its name."""
    if os.path.lexists(argument) or not glob.has_magic(argument):
        return [argument]
    named = set(Path(argument).parts)
    return sorted(
        match
        for match in glob.glob(argument, recursive=True)
        if not any(passed_over(part) for part in Path(match).parts if part not in named)
    )
