"""Every file of a data set is decoded once before it is trained on, and what was found is remembered.

What is remembered of a file counts as long as size, both times, inode and device are as they were. The time of change
(ctime) is the kernel's own: whoever puts size and mtime back after a change cannot put it back.
"""

import contextlib
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from depthwise.data.cache import cache_folder
from depthwise.data.dataset import BadImage
from depthwise.data.image import CHANNELS, DEFAULT, Decoding, UnreadableImageError, examine
from depthwise.reading import read_regular

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""

_FORMAT = 3
_CHUNK = 64
_TICK_NS = 50_000_000  # a second change within a tick of the file system's clock does not show in its times
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Stamp(NamedTuple):
    """By what a file is known to be unchanged."""

    num_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int


class Fact(NamedTuple):
    """What is known of a file that can be decoded; width and height in pixels, upright; format and mode are Pillow's.

    truncated: only if that is allowed. counted, low, high: see `Decoded`; the last two None without 16 bits a sample.
    """

    sha256: str
    width: int
    height: int
    channels: int
    format: str
    mode: str
    stamp: Stamp
    counted: int = 0
    truncated: bool = False
    low: int | None = None
    high: int | None = None


class Verified(NamedTuple):
    """What is known of each file, those that cannot be decoded, and how many facts were remembered, not read."""

    facts: dict[str, Fact]
    bad: list[BadImage]
    num_trusted: int


def verify(
    root: Path,
    names: Sequence[str],
    *,
    workers: int = 2,
    progress: Progress | None = None,
    decoding: Decoding = DEFAULT,
    afresh: bool = False,
) -> Verified:
    """What is known of each file root/name, and those that cannot be decoded, with their reasons.

    A file whose `Stamp` is as remembered is not read again, unless `afresh`. Decoding and hashing leave Python's
    lock, so threads do: they start at once, and share what they find.
    """
    began_ns = time.time_ns()
    known = {} if afresh else _remembered(root)
    facts: dict[str, Fact] = {}
    unread = []
    for name in names:
        fact = known.get(name)
        if fact and _allowed(fact, decoding) and _stamp(root / name) == fact.stamp:
            facts[name] = fact
        else:
            unread.append(name)
    num_trusted = len(facts)
    bad: list[BadImage] = []
    if unread:
        try:
            for name, found in _examine_all(root, unread, workers, decoding):
                if isinstance(found, Fact):
                    facts[name] = found
                else:
                    bad.append(BadImage(name, found))
                if progress:
                    progress(len(facts) + len(bad), len(names))
        finally:  # an interrupted pass over a large set goes on where it was
            _remember(root, facts, began_ns)
    return Verified({name: facts[name] for name in names if name in facts}, bad, num_trusted)


def _examine_all(
    root: Path, names: Sequence[str], workers: int, decoding: Decoding
) -> Iterator[tuple[str, Fact | str]]:
    def examine_some(start: int) -> list[tuple[str, Fact | str]]:
        return [(name, _examine(root / name, decoding)) for name in names[start : start + _CHUNK]]

    pool = ThreadPoolExecutor(max(1, workers))
    try:
        for found in pool.map(examine_some, range(0, len(names), _CHUNK)):
            yield from found
    finally:
        pool.shutdown(cancel_futures=True)


def _examine(path: Path, decoding: Decoding) -> Fact | str:
    """The fact, or the reason why there is none."""
    stamp = _stamp(
        path
    )  # before it is read: of what is changed meanwhile an old stamp is remembered, and never fits
    try:
        data = read_regular(path)
        found = examine(data, decoding=decoding)
    except OSError as error:
        return error.strerror or str(error)
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


def _allowed(fact: Fact, decoding: Decoding) -> bool:
    return fact.counted <= decoding.max_pixels and (decoding.allow_truncated or not fact.truncated)


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def _memory(root: Path) -> Path:
    key = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
    return cache_folder() / "verified" / f"{key}.json"


def _remembered(root: Path) -> dict[str, Fact]:
    """Only what could be decoded: a file that could not is looked at again each time.

    A memory that is not there, is damaged or was written by another version is no memory, and neither is an entry
    that no file can have.
    """
    try:
        digest, _, text = read_regular(_memory(root)).decode("ascii").partition("\n")
        if digest != hashlib.sha256(text.encode()).hexdigest():
            return {}
        memory = json.loads(text)
        entries = memory["facts"].items() if memory["format"] == _FORMAT else ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError):
        return {}
    return {name: fact for name, values in entries if (fact := _fact(values))}


def _fact(values: object) -> Fact | None:
    """What `_remember` wrote of a file, if it is that."""
    if not (isinstance(values, list) and len(values) == len(_KINDS)):
        return None
    if not all(type(value) in kinds for value, kinds in zip(values, _KINDS, strict=True)):
        return None
    fact = Fact(*values)
    if [type(value) for value in fact.stamp] != [int] * len(Stamp._fields):
        return None
    if not (_SHA256.fullmatch(fact.sha256) and fact.channels in CHANNELS):
        return None
    if not all(0 < number < 2**40 for number in (fact.width, fact.height, fact.counted)):
        return None
    low, high = (0, 0) if fact.low is None and fact.high is None else (fact.low, fact.high)
    if low is None or high is None or not 0 <= low <= high < 2**16:
        return None
    return fact._replace(stamp=Stamp(*fact.stamp))


# In the order of Fact's fields, as JSON has them.
_KINDS: tuple[tuple[type, ...], ...] = (
    *((str,), (int,), (int,), (int,), (str,), (str,), (list,)),
    *((int,), (bool,), (int, type(None)), (int, type(None))),
)


def _remember(root: Path, facts: dict[str, Fact], began_ns: int) -> None:
    settled = {name: fact for name, fact in facts.items() if fact.stamp.ctime_ns < began_ns - _TICK_NS}
    text = json.dumps({"format": _FORMAT, "facts": settled})
    target = _memory(root)
    with contextlib.suppress(OSError):  # without a place to write, the next run reads the files again
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="ascii", dir=target.parent, delete=False) as file:
            file.write(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
        os.replace(file.name, target)
