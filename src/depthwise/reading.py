"""Files that a person names are read only if they are regular: a pipe or a device may never end, or make us wait."""

import errno
import json
import os
import stat
from typing import Any, BinaryIO

from depthwise.errors import shown

MOST_BYTES = 2**30
"""Of a file that is taken into memory whole."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """The regular file `path`, or the one that it is a link to, opened to be read. Raises OSError."""
    _check(os.stat(path), path)  # before it is opened: that alone does something to some devices

    def opener(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)

    file = open(path, "rb", opener=opener)  # noqa: SIM115 (whoever asked for it closes it)
    try:
        _check(os.fstat(file.fileno()), path)  # what was looked at may have been replaced
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """The content of the regular file `path`. Raises OSError: not regular, over MOST_BYTES, or unreadable."""
    with open_regular(path) as file:
        return read_bounded(file, path)


def read_bounded(file: BinaryIO, name: str | os.PathLike[str]) -> bytes:
    """What is left of `file`, which an error calls `name`. Raises OSError: over MOST_BYTES, or unreadable."""
    parts: list[bytes] = []
    size = 0
    # Piece by piece: a file may say of itself that it is empty, or have grown. Each piece is one system call, for
    # between two that `read` makes, a Ctrl-C would not be noticed until more comes.
    read = getattr(file, "read1", file.read)
    while part := read(2**20):
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise OSError(errno.EFBIG, f"over {MOST_BYTES / 2**30:g} GiB, more than is read", os.fspath(name))
    if part is None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), os.fspath(name))
    return b"".join(parts)


def parse_json(text: str | bytes) -> Any:
    """What JSON that anybody may have written says.

    Raises ValueError: it is no JSON or not UTF-8, nested too deep for Python, says one thing twice, or has a text
    that no file and no terminal can hold.
    """
    try:
        values = json.loads(text, object_pairs_hook=_object)
        # What no UTF-8 can hold but for the bytes of a file's name that is none, which Python keeps in this way.
        json.dumps(values, ensure_ascii=False).encode(errors="surrogateescape")
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half a surrogate pair, which is no character") from None
    return values


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it says {shown(twice)} twice")
    return values


def _check(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, and only regular files are read", os.fspath(path))
