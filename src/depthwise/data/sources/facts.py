"""What is known of many image files, in 102 bytes and its name for each, and how it is written down."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depthwise.data.image import CHANNELS
from depthwise.data.texts import Texts

FORMAT = 4


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


# A Fact in its order, the stamp last. format, mode: places among words that are kept beside; low, high: -1 for None.
ROW = np.dtype(
    [
        *(("sha256", "V32"), ("width", "<i4"), ("height", "<i4"), ("channels", "u1")),
        *(("format", "<u2"), ("mode", "<u2"), ("counted", "<i8"), ("truncated", "?")),
        *(("low", "<i4"), ("high", "<i4")),
        *(
            ("num_bytes", "<i8"),
            ("mtime_ns", "<i8"),
            ("ctime_ns", "<i8"),
            ("inode", "<u8"),
            ("device", "<u8"),
        ),
    ]
)
_STAMP = list(Stamp._fields)


class Facts(Mapping[str, Fact]):
    """Facts by name, of those of `names` of which there are any.

    rows: ROW [n], one for each name. known: bool [n]. words: of formats and modes, which grow as facts are set.
    """

    def __init__(self, names: Sequence[str], words: Sequence[str] = ()) -> None:
        self.names = names
        self.rows = np.zeros(len(names), ROW)
        self.known = np.zeros(len(names), bool)
        self.words = list(words)

    def __len__(self) -> int:
        return int(self.known.sum())

    def __iter__(self) -> Iterator[str]:
        return (name for name, known in zip(self.names, self.known, strict=True) if known)

    def __contains__(self, name: object) -> bool:
        place = self._places.get(name)  # type: ignore[call-overload]
        return place is not None and bool(self.known[place])

    def __getitem__(self, name: str) -> Fact:
        place = self._places[name]
        if not self.known[place]:
            raise KeyError(name)
        return self.at(place)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def place(self, name: str) -> int | None:
        """Where the fact of `name` is, if there is one."""
        place = self._places.get(name)
        return place if place is not None and self.known[place] else None

    def at(self, place: int) -> Fact:
        """The fact of names[place]."""
        sha256, width, height, channels, kind, mode, counted, truncated, low, high, *stamp = self.rows[
            place
        ].item()
        return Fact(
            bytes(sha256).hex(),
            width,
            height,
            channels,
            self.words[kind],
            self.words[mode],
            Stamp(*stamp),
            counted,
            truncated,
            None if low < 0 else low,
            None if high < 0 else high,
        )

    def stamp(self, place: int) -> Stamp:
        """That of names[place]."""
        return Stamp(*self.rows[_STAMP][place].item())

    def put(self, place: int, fact: Fact) -> None:
        """Set the fact of names[place]."""
        low, high = (-1 if value is None else value for value in (fact.low, fact.high))
        words = (self._word(fact.format), self._word(fact.mode))
        sizes = (fact.width, fact.height, fact.channels)
        digest = np.void(bytes.fromhex(fact.sha256))
        self.rows[place] = (digest, *sizes, *words, fact.counted, fact.truncated, low, high, *fact.stamp)
        self.known[place] = True

    def sha256s(self) -> NDArray[np.bytes_]:
        """S32 [n], of each name; to be compared with each other alone, for NumPy takes zeros at the end for nothing."""
        return np.ascontiguousarray(self.rows["sha256"]).view("S32")

    def _word(self, word: str) -> int:
        if word not in self.words:
            self.words.append(word)
        return self.words.index(word)


def written(facts: Facts, kept: NDArray[np.bool_]) -> bytes:
    """Those facts for which `kept`, bool [n], is true, with a digest of it all."""
    places = np.flatnonzero(kept)
    names = Texts.of(facts.names[int(place)] for place in places)
    head = {"format": FORMAT, "words": facts.words, "count": len(names), "name_bytes": len(names.data)}
    content = b"".join(
        [json.dumps(head).encode(), b"\n", facts.rows[places].tobytes(), names.offsets.tobytes(), names.data]
    )
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def read(data: bytes) -> Facts:
    """What `written` made, but for entries that no file can have. Raises ValueError for anything else."""
    digest, _, content = data.partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise ValueError("it is damaged")
    head, _, rest = content.partition(b"\n")
    values = json.loads(head)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError("it is of another version")
    words, count, name_bytes = (values.get(name) for name in ("words", "count", "name_bytes"))
    if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise ValueError("it has no words")
    sizes = [ROW.itemsize, 8]
    if type(count) is not int or type(name_bytes) is not int or count < 0 or name_bytes < 0:
        raise ValueError("it has no sizes")
    if len(rest) != count * sizes[0] + (count + 1) * sizes[1] + name_bytes:
        raise ValueError("its size is another")
    offsets = np.frombuffer(rest, np.int64, count + 1, count * ROW.itemsize)
    if offsets[0] != 0 or offsets[-1] != name_bytes or (np.diff(offsets) < 0).any():
        raise ValueError("its names are damaged")
    found = Facts(Texts(rest[len(rest) - name_bytes :], offsets), words)
    found.rows = np.frombuffer(rest, ROW, count)
    found.known = _possible(found.rows, len(words))
    return found


def _possible(rows: NDArray[np.void], num_words: int) -> NDArray[np.bool_]:
    """Which rows a file can have."""
    deep = (rows["low"] >= 0) & (rows["low"] <= rows["high"]) & (rows["high"] < 2**16)
    possible = np.isin(rows["channels"], CHANNELS) & (deep | ((rows["low"] == -1) & (rows["high"] == -1)))
    for name in ("width", "height", "counted"):
        possible &= (rows[name] > 0) & (rows[name] < 2**40)
    for name in ("format", "mode"):
        possible &= rows[name] < num_words
    return np.asarray(possible)
