"""Every file of a data set is decoded once before it is trained on, and what was found is remembered.

What is remembered of a file counts as long as size, both times, inode and device are as they were. The time of change
(ctime) is the kernel's own: whoever puts size and mtime back after a change cannot put it back.
"""

import contextlib
import hashlib
import os
import tempfile
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from depthwise.data.cache import cache_folder
from depthwise.data.dataset import BadImage
from depthwise.data.image import DEFAULT, Decoding, UnreadableImageError, examine
from depthwise.data.sources.facts import Fact, Facts, Stamp, read, written
from depthwise.reading import open_regular, read_regular

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""

CHUNK = 64
"""Images that a thread examines at a time."""
_AHEAD = 4  # chunks that a thread has before it
_TICK_NS = 50_000_000  # a second change within a tick of the file system's clock does not show in its times


class Looking(NamedTuple):
    """How images are looked over: by how many threads, who is told, whether every file is read again, how files are
    read, and the channels that images are to have, None for what suits them."""

    workers: int
    progress: Progress | None
    afresh: bool
    decoding: Decoding
    channels: int | None

    def verify(self, store: "Path | Store", names: Sequence[str]) -> "Verified":
        """As the function `verify`."""
        return verify(
            store,
            names,
            workers=self.workers,
            progress=self.progress,
            decoding=self.decoding,
            afresh=self.afresh,
        )


class Verified(NamedTuple):
    """What is known of each file, those that cannot be decoded, and how many facts were remembered, not read."""

    facts: Facts
    bad: list[BadImage]
    num_trusted: int


class Store(Protocol):
    """Where image files lie: on a disk, or in a larger file. place: of an image among all names."""

    @property
    def root(self) -> Path:
        """Under whose path facts are remembered."""

    def stamp(self, place: int, name: str) -> Stamp | None:
        """None if the file is not there."""

    def examined(
        self, names: Sequence[str], places: "array[int]", workers: int, decoding: Decoding
    ) -> Iterator[tuple[int, Fact | str]]:
        """Of each of `places`, in order, the fact, or the reason why there is none."""


def verify(
    store: Path | Store,
    names: Sequence[str],
    *,
    workers: int = 2,
    progress: Progress | None = None,
    decoding: Decoding = DEFAULT,
    afresh: bool = False,
) -> Verified:
    """What is known of each file in `store`, a folder for one, and those that cannot be decoded, with their reasons.

    A file whose `Stamp` is as remembered is not read again, unless `afresh`. Decoding and hashing leave Python's
    lock, so threads do: they start at once, and share what they find.
    """
    began_ns = time.time_ns()
    store = Files(store) if isinstance(store, Path) else store
    known = Facts(()) if afresh else _remembered(store.root)
    facts = Facts(names, known.words)
    unread = array("q")
    for place, name in enumerate(names):
        before = known.place(name)
        if (
            before is not None
            and _allowed(known, before, decoding)
            and store.stamp(place, name) == known.stamp(before)
        ):
            facts.rows[place], facts.known[place] = known.rows[before], True
        else:
            unread.append(place)
    del known
    num_trusted = len(facts)
    bad: list[BadImage] = []
    if unread:
        try:
            for done, (place, found) in enumerate(store.examined(names, unread, workers, decoding), 1):
                if isinstance(found, Fact):
                    facts.put(place, found)
                else:
                    bad.append(BadImage(names[place], found))
                if progress:
                    progress(num_trusted + done, len(names))
        finally:  # an interrupted pass over a large set goes on where it was
            _remember(store.root, facts, began_ns)
    return Verified(facts, bad, num_trusted)


@dataclass(frozen=True)
class Files:
    """Those in a folder, by their paths below it: a `Store`."""

    root: Path

    def stamp(self, place: int, name: str) -> Stamp | None:
        return stamp_of(self.root / name)

    def examined(
        self, names: Sequence[str], places: "array[int]", workers: int, decoding: Decoding
    ) -> Iterator[tuple[int, Fact | str]]:
        def examine_some(start: int) -> list[tuple[int, Fact | str]]:
            return [
                (place, _examine(self.root / names[place], decoding))
                for place in places[start : start + CHUNK]
            ]

        yield from in_threads(examine_some, range(0, len(places), CHUNK), workers)


def in_threads(work: Callable[[T], list[R]], items: Iterable[T], workers: int) -> Iterator[R]:
    """What work(item) gives, item after item; only so much is done ahead that neither items nor results pile up."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: deque[Future[list[R]]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > _AHEAD * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _examine(path: Path, decoding: Decoding) -> Fact | str:
    """The fact, or the reason why there is none."""
    stamp = stamp_of(
        path
    )  # before it is read: of what is changed meanwhile an old stamp is remembered, and never fits
    try:
        return fact_of(read_regular(path), stamp, decoding)
    except OSError as error:
        return error.strerror or str(error)


def fact_of(data: bytes, stamp: Stamp | None, decoding: Decoding) -> Fact | str:
    """Of an encoded image, or the reason why there is none."""
    try:
        found = examine(data, decoding=decoding)
    except UnreadableImageError as error:
        return error.reason
    if stamp is None:
        return "it was replaced while it was read"
    channels, height, width = found.pixels.shape
    return Fact(
        sha256=hashlib.sha256(data).hexdigest(),
        width=width,
        height=height,
        channels=channels,
        format=found.format,
        mode=found.mode,
        stamp=stamp,
        counted=found.counted,
        truncated=bool(found.missing),
        low=found.values[0] if found.values else None,
        high=found.values[1] if found.values else None,
    )


def _allowed(facts: Facts, place: int, decoding: Decoding) -> bool:
    row = facts.rows[place]
    return bool(row["counted"] <= decoding.max_pixels and (decoding.allow_truncated or not row["truncated"]))


def stamp_of(path: Path) -> Stamp | None:
    """None if `path` is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def _memory(root: Path) -> Path:
    key = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
    return cache_folder() / "verified" / f"{key}.facts"


def _remembered(root: Path) -> Facts:
    """Only what could be decoded: a file that could not is looked at again each time.

    A memory that is not there, is damaged or was written by another version is no memory.
    """
    try:
        with open_regular(
            _memory(root)
        ) as file:  # our own, and of millions of images larger than a file may be
            return read(file.read() or b"")
    except (OSError, ValueError, RecursionError, MemoryError):
        return Facts(())


def _remember(root: Path, facts: Facts, began_ns: int) -> None:
    settled = facts.known & (facts.rows["ctime_ns"] < began_ns - _TICK_NS)
    target = _memory(root)
    with contextlib.suppress(OSError):  # without a place to write, the next run reads the files again
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            file.write(written(facts, settled))
        os.replace(file.name, target)
