"""Files of a set that lies elsewhere, s3://bucket/set for one: fetched whole through Arrow's file systems, and kept.

What is kept is bounded: where a file would go beyond MOST_BYTES, those that were not used for longest are removed.
"""

import hashlib
import os
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as fs

from depthwise.bounds import parse_bytes
from depthwise.data.cache import cache_folder
from depthwise.data.image import UnreadableImageError
from depthwise.errors import DepthwiseError
from depthwise.writing import BusyError, written_whole

MOST_BYTES = 20 * 10**9
"""That are kept of all sets, unless DEPTHWISE_SHARD_CACHE says how many."""
_SETTING = "DEPTHWISE_SHARD_CACHE"
_PIECE = 2**20
_WAIT = 0.05  # seconds, for another process that fetches the same file


def kept_in(uri: str) -> Path:
    """The folder in which files of the set at `uri` are kept."""
    return cache_folder() / "shards" / hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:32]


def sizes(uri: str) -> dict[str, int]:
    """The files of the set at `uri`, and how many bytes each has. Raises DepthwiseError: it cannot be listed."""
    system, path = _opened(uri)
    try:
        found = system.get_file_info(fs.FileSelector(path))
    except (OSError, pa.ArrowException) as error:
        raise _unreachable(uri, error) from None
    return {info.base_name: info.size for info in found if info.type == fs.FileType.File}


def fetch_small(uri: str, name: str) -> None:
    """Bring the manifest or the vocabulary of the set at `uri`, as it is now, to `kept_in`. Raises DepthwiseError."""
    system, path = _opened(uri)
    target = kept_in(uri) / name
    try:
        with system.open_input_stream(f"{path}/{name}") as stream:
            content = stream.read()
    except FileNotFoundError:
        target.unlink(missing_ok=True)
        return
    except (OSError, pa.ArrowException) as error:
        raise _unreachable(uri, error) from None
    while not target.exists() or target.read_bytes() != content:
        try:
            with written_whole(target) as file:
                file.write(content)
        except BusyError:  # another process writes the same
            time.sleep(_WAIT)


def fetched(uri: str, name: str, size: int, sha256: str) -> Path:
    """Where the file `name` of the set at `uri` is kept, after it was fetched if it was not there.

    Raises UnreadableImageError: it cannot be had, or is another than `size` and `sha256` say.
    """
    target = (
        kept_in(uri) / sha256[:16] / name
    )  # another set may come to lie there, with files of the same names
    while True:
        if _is_there(target, size):
            os.utime(target)  # it is the last that was used
            return target
        try:
            with written_whole(target) as file:
                if _is_there(target, size):  # another one has finished since
                    raise BusyError(f"{target} is there")
                _make_room(size)
                _copy(uri, name, size, sha256, file)
        except BusyError:
            time.sleep(_WAIT)
        except (DepthwiseError, OSError, pa.ArrowException) as error:
            raise UnreadableImageError(name, f"it cannot be fetched from {uri} ({error})") from None


def _is_there(target: Path, size: int) -> bool:
    with suppress(OSError):
        return target.stat().st_size == size
    return False


def _copy(uri: str, name: str, size: int, sha256: str, file: Any) -> None:
    system, path = _opened(uri)
    digest, count = hashlib.sha256(), 0
    with system.open_input_stream(f"{path}/{name}") as stream:
        while piece := stream.read(_PIECE):
            file.write(piece)
            digest.update(piece)
            count += len(piece)
    if count != size or digest.hexdigest() != sha256:
        raise DepthwiseError(f"{name} is damaged, its size or SHA-256 is another than in the manifest")


def _make_room(size: int) -> None:
    """Remove what was not used for longest until `size` more bytes may be kept. Who has such a file open keeps it."""
    files = []
    for path in cache_folder().glob("shards/*/*/*.arrow"):
        with suppress(OSError):
            status = path.stat()
            files.append((status.st_mtime_ns, status.st_size, path))
    total = sum(taken for _, taken, _ in files)
    for _, taken, path in sorted(files):
        if total + size <= most_bytes():
            return
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
        total -= taken


def most_bytes() -> int:
    """How many bytes are kept. Raises UsageError where the setting is no number of bytes."""
    said = os.environ.get(_SETTING)
    return parse_bytes(said, _SETTING) if said else MOST_BYTES


@lru_cache(maxsize=4)
def _opened(uri: str) -> tuple[fs.FileSystem, str]:
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (OSError, pa.ArrowException) as error:
        raise _unreachable(uri, error) from None
    return system, path.rstrip("/")


def _unreachable(uri: str, error: Exception) -> DepthwiseError:
    reason = str(error).partition("\n")[0]
    return DepthwiseError(
        f"{uri} cannot be read ({reason}): give file://, s3://, gs:// or another place that Arrow knows, and what it "
        "takes to be let in"
    )
