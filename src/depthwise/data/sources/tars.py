"""WebDataset's tar files as a table: key.jpg, and what it shows in key.cls, key.json or key.txt beside it.

A tar has no index. It is read through once for one, which is kept in the user's cache as long as the file is as it was.
"""

import hashlib
import json
import os
import re
import tarfile
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depthwise.data.cache import cache_folder
from depthwise.data.formats import is_image_name
from depthwise.data.image import Decoding, UnreadableImageError
from depthwise.data.order import WINDOW
from depthwise.data.sources.facts import Fact, Stamp
from depthwise.data.sources.tables import DamagedTableError
from depthwise.data.sources.verify import CHUNK, fact_of, in_threads, stamp_of
from depthwise.errors import DepthwiseError
from depthwise.reading import open_regular, parse_json, read_regular

IMAGE, LABEL = "image", "label"
"""The columns of such a table."""
MOST_LABEL = 2**20  # bytes of a file of labels
_FORMAT = 1
_OPEN = 2 * WINDOW
_KEYS = (LABEL, "labels", "cls", "class", "classes", "category", "categories", "tag", "tags", "keywords")
_BESIDE = ("cls", "json", "txt")  # the first that is there is read


class Member(NamedTuple):
    """An image in a tar: its name, where its bytes are, and its label, as a table has it."""

    name: str
    start: int
    size: int
    label: Any


@dataclass(frozen=True)
class Tar:
    """A `Table` of the images in a tar, in the order of their names. called: what the names begin with."""

    path: Path
    called: str
    names = (IMAGE, LABEL)

    @cached_property
    def members(self) -> list[Member]:
        """Raises DepthwiseError if the file is no tar."""
        stamp = stamp_of(self.path)
        found = _remembered(self.path, stamp)
        if found is None:
            try:
                found = _index(self.path)
            except (OSError, tarfile.TarError, EOFError) as error:
                raise _damaged(self.path, str(error)) from None
            _remember(self.path, stamp, found)
        return found

    def where(self, number: int) -> str:
        return f"{self.members[number].name} in {self.path}"

    def rows(self, names: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        for number, member in enumerate(self.members):
            values = {IMAGE: f"{self.called}/{member.name}", LABEL: member.label}
            yield number, [values[name] for name in names]


def _index(path: Path) -> list[Member]:
    images: dict[str, tarfile.TarInfo] = {}
    beside: dict[str, dict[str, tarfile.TarInfo]] = {}
    with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            if not info.isreg() or info.issparse():
                continue
            name = os.path.normpath(info.name).lstrip("/")
            folder, _, base = name.rpartition("/")
            stem, _, suffix = base.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            if is_image_name(base):
                if key in images:
                    raise DepthwiseError(f"{path} has two images called {key}: give each a name of its own")
                images[key] = info
            elif suffix.lower() in _BESIDE:
                beside.setdefault(key, {})[suffix.lower()] = info
        # tarfile takes a damaged header for the end, which is a block of zeros.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"it is cut or damaged at byte {tar.offset:,}")
        named = sorted((os.path.normpath(info.name).lstrip("/"), key) for key, info in images.items())
        return [
            Member(name, images[key].offset_data, images[key].size, _label(path, file, beside.get(key, {})))
            for name, key in named
        ]


def _label(path: Path, file: Any, beside: dict[str, tarfile.TarInfo]) -> Any:
    for suffix in _BESIDE:
        if info := beside.get(suffix):
            if info.size > MOST_LABEL:
                raise DepthwiseError(
                    f"{info.name} in {path} has {info.size:,} bytes, and holds no label: remove it"
                )
            file.seek(info.offset_data)
            return _said(path, info.name, suffix, file.read(info.size))
    return None


def _said(path: Path, name: str, suffix: str, content: bytes) -> Any:
    """What a file of labels says: a text, a number, or a list; of JSON, what stands under a name for it."""
    try:
        if suffix != "json":
            lines = [line.strip() for line in content.decode().splitlines() if line.strip()]
            return lines[0] if len(lines) == 1 else lines or None
        values = parse_json(content)
    except ValueError as error:
        raise DepthwiseError(f"{name} in {path} cannot be read ({error}): write UTF-8") from None
    if not isinstance(values, dict):
        return values
    given = [key for key in _KEYS if key in values]
    if len(given) > 1:
        raise DepthwiseError(
            f"{name} in {path} has {' and '.join(given)}, which mean one thing: keep one of them"
        )
    return values[given[0]] if given else None


def _memory(path: Path) -> Path:
    key = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    return cache_folder() / "tars" / f"{key}.json"


def _remembered(path: Path, stamp: Stamp | None) -> list[Member] | None:
    """What was found in the file in this state; a memory that is damaged is none."""
    try:
        digest, _, text = read_regular(_memory(path)).decode("ascii").partition("\n")
        if digest != hashlib.sha256(text.encode()).hexdigest():
            return None
        memory = json.loads(text)
        if memory["format"] != _FORMAT or stamp is None or memory["stamp"] != list(stamp):
            return None
        return [Member(*values) for values in memory["members"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(path: Path, stamp: Stamp | None, members: list[Member]) -> None:
    text = json.dumps({"format": _FORMAT, "stamp": stamp, "members": members})
    target = _memory(path)
    with suppress(OSError):  # without a place to write, the next run reads the file again
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="ascii", dir=target.parent, delete=False) as file:
            file.write(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
        os.replace(file.name, target)


def _damaged(path: Path, reason: str) -> DamagedTableError:
    hint = (
        "unpack it: tars that are compressed are not read"
        if re.search(r"\.t?gz|\.xz|\.zst", path.name)
        else ""
    )
    return DamagedTableError(f"{path} is no tar, or is damaged ({reason}): {hint or 'copy it again'}")


class File(NamedTuple):
    """A file in one state: what is kept of it is of no other."""

    path: str
    stamp: Stamp | None


Key = tuple[int, int, int]
"""The file, where the image begins in it, and its size."""


@lru_cache(maxsize=_OPEN)
def _opened(file: File) -> Any:
    return open_regular(file.path)


def _read(files: tuple[File, ...], key: Key) -> bytes:
    number, start, size = key
    try:
        data = os.pread(_opened(files[number]).fileno(), size, start)
    except OSError as error:
        raise UnreadableImageError(files[number].path, error.strerror or str(error)) from None
    if len(data) != size:
        raise UnreadableImageError(files[number].path, "the tar ends before the image does: copy it again")
    return data


@dataclass(frozen=True, eq=False)
class Members:
    """A `Store`: the images of tars, one after the other."""

    tars: tuple[Tar, ...]

    @staticmethod
    def of(tars: Sequence[Tar]) -> "Members":
        """In the order of the images' names."""
        return Members(tuple(sorted(tars, key=lambda tar: f"{tar.called}/")))

    @property
    def root(self) -> Path:
        return self.tars[0].path

    @cached_property
    def files(self) -> tuple[File, ...]:
        return tuple(File(str(tar.path), stamp_of(tar.path)) for tar in self.tars)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The first image of each tar, and the end."""
        return np.array([0, *accumulate(len(tar.members) for tar in self.tars)], np.int64)

    def key(self, place: int) -> Key:
        number = int(np.searchsorted(self.starts, place, side="right")) - 1
        member = self.tars[number].members[place - int(self.starts[number])]
        return number, member.start, member.size

    @property
    def finder(self) -> Callable[[Key], tuple[bytes, str]]:
        """Of an image by its key the file, and what sentences call it."""
        return partial(_found, self.files)

    def encoded(self, place: int) -> bytes:
        """The image's file. Raises UnreadableImageError."""
        return _read(self.files, self.key(place))

    def stamp(self, place: int, name: str) -> Stamp | None:
        return self.files[self.key(place)[0]].stamp

    def examined(
        self, names: Sequence[str], places: "array[int]", workers: int, decoding: Decoding
    ) -> Iterator[tuple[int, Fact | str]]:
        def examine(some: list[int]) -> list[tuple[int, Fact | str]]:
            return [(place, self._examine(place, decoding)) for place in some]

        waiting = iter(places)
        yield from in_threads(examine, iter(lambda: list(islice(waiting, CHUNK)), []), workers)

    def _examine(self, place: int, decoding: Decoding) -> Fact | str:
        try:
            return fact_of(self.encoded(place), self.stamp(place, ""), decoding)
        except UnreadableImageError as error:
            return error.reason


def _found(files: tuple[File, ...], key: Key) -> tuple[bytes, str]:
    return _read(files, key), f"{Path(files[key[0]].path).name}, the image at byte {key[1]}"
