"""Every file of a data set is decoded once before it is trained on, and what was found is remembered."""

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from depthwise.data.cache import cache_folder
from depthwise.data.dataset import BadImage
from depthwise.data.image import DEFAULT, Decoding, UnreadableImageError, examine

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""

_FORMAT = 2
_CHUNK = 64


class Fact(NamedTuple):
    """What is known of a file that can be decoded; width and height in pixels, upright; format and mode are Pillow's.

    truncated: only if that is allowed. counted, low, high: see `Decoded`; the last two None without 16 bits a sample.
    """

    num_bytes: int
    mtime_ns: int
    sha256: str
    width: int
    height: int
    channels: int
    format: str
    mode: str
    counted: int = 0
    truncated: bool = False
    low: int | None = None
    high: int | None = None


def verify(
    root: Path,
    names: Sequence[str],
    *,
    workers: int = 2,
    progress: Progress | None = None,
    decoding: Decoding = DEFAULT,
) -> tuple[dict[str, Fact], list[BadImage]]:
    """What is known of each file root/name, and those that cannot be decoded, with their reasons.

    A file whose size and time of change are as remembered is not read again. Decoding and hashing leave Python's
    lock, so threads do: they start at once, and share what they find.
    """
    known = _remembered(root)
    facts: dict[str, Fact] = {}
    unread = []
    for name in names:
        fact = known.get(name)
        if fact and _allowed(fact, decoding) and _unchanged(root / name, fact):
            facts[name] = fact
        else:
            unread.append(name)
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
            _remember(root, facts)
    return {name: facts[name] for name in names if name in facts}, bad


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
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        data = path.read_bytes()
        found = examine(data, decoding=decoding)
    except OSError as error:
        return error.strerror or str(error)
    except UnreadableImageError as error:
        return error.reason
    channels, height, width = found.pixels.shape
    return Fact(
        num_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        sha256=hashlib.sha256(data).hexdigest(),
        width=width,
        height=height,
        channels=channels,
        format=found.format,
        mode=found.mode,
        counted=found.counted,
        truncated=bool(found.missing),
        low=found.values[0] if found.values else None,
        high=found.values[1] if found.values else None,
    )


def _allowed(fact: Fact, decoding: Decoding) -> bool:
    return fact.counted <= decoding.max_pixels and (decoding.allow_truncated or not fact.truncated)


def _unchanged(path: Path, fact: Fact) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (fact.num_bytes, fact.mtime_ns)


def _memory(root: Path) -> Path:
    key = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
    return cache_folder() / "verified" / f"{key}.json"


def _remembered(root: Path) -> dict[str, Fact]:
    """Only what could be decoded: a file that could not is looked at again each time."""
    try:
        memory = json.loads(_memory(root).read_text())
        if memory["format"] != _FORMAT:
            return {}
        return {name: Fact(*fact) for name, fact in memory["facts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # a memory that is not there or is damaged is no memory


def _remember(root: Path, facts: dict[str, Fact]) -> None:
    target = _memory(root)
    with contextlib.suppress(OSError):  # without a place to write, the next run reads the files again
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False) as file:
            json.dump({"format": _FORMAT, "facts": facts}, file)
        os.replace(file.name, target)
