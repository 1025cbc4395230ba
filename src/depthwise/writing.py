"""Files that are whole or absent, whenever the process ends."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from depthwise.errors import DepthwiseError


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write what is to be in `path`, which it becomes in the end; folders on the way are made.

    Raises:
        DepthwiseError: `path` cannot be written; what was there before is untouched.
        OSError: no space is left (see `disk_full`), with `path` as its name.
    """
    # Always the same name: what a process that was killed leaves behind, the next one takes away.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise named(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def disk_full(error: OSError) -> bool:
    """Whether the error says that no more can be written: the disk or the quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def named(error: OSError, path: Path) -> OSError | DepthwiseError:
    """What to raise where `path` could not be written, whatever temporary file the error is about; see `disk_full`."""
    if disk_full(error):
        return OSError(error.errno, error.strerror, str(path))
    return DepthwiseError(f"{path} cannot be written ({error.strerror}): choose another place for it")
