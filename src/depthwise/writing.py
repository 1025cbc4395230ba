"""Files that are whole or absent, whenever the process ends, and written by one process at a time."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from depthwise.errors import DepthwiseError


class BusyError(DepthwiseError):
    """Another process is writing the same."""


_HOLDER = "held by process "
_HELD: ContextVar[dict[Path, "Lock"]] = ContextVar("held", default={})  # noqa: B039 (never changed, only replaced)


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write what is to be in `path`, which it becomes in the end; folders on the way are made.

    Raises:
        DepthwiseError: `path` cannot be written, or another process writes it; what was there before is untouched.
        OSError: no space is left (see `disk_full`), with `path` as its name.
    """
    # Always the same name: what a process that was killed leaves behind, the next one takes away.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _make_folder(path.parent)
        with locked(temporary, path) as lock:
            yield lock.file
            lock.file.flush()
            os.fsync(lock.file.fileno())
            temporary.replace(path)
    except OSError as error:
        raise named(error, path) from error


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, whose content gets its name inside the `with`; what is left in it then goes away.

    So do the folders of processes that were killed. Raises DepthwiseError if another process writes `path`, OSError if
    nothing can be written there.
    """
    with reserved(path) as lock:
        folder = partial_of(path)
        if lock.held:
            _sweep(path)
        else:  # two processes must not meet in one folder
            folder = path.with_name(f".{path.name}.{os.getpid()}.partial")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def reserved(path: Path) -> Iterator["Lock"]:
    """Nobody else is inside `written_folder` for `path` during this `with`, in which it may be entered.

    For work that ends there: who comes second is told before it. Raises what `written_folder` does.
    """
    _make_folder(path.parent)
    with locked(path.with_name(f".{path.name}.lock"), path) as lock:
        lock.sign()
        yield lock


def partial_of(path: Path) -> Path:
    """The folder in which `written_folder` has what is to become `path`."""
    return path.with_name(f".{path.name}.partial")


@dataclass(frozen=True, eq=False)
class Lock:
    """The open file that is locked; `held` is False where the file system, a network's as a rule, has no locks."""

    file: BinaryIO
    held: bool

    def sign(self) -> None:
        """Say in the file who holds it."""
        with suppress(OSError):
            os.pwrite(self.file.fileno(), f"{_HOLDER}{os.getpid()}\n".encode(), 0)


@contextmanager
def locked(
    file: Path, what: Path, remedy: str = "wait until it ends, or choose another name"
) -> Iterator[Lock]:
    """The only process inside this `with` for `file`, which is made, and removed in the end, if it has its name still.

    The kernel lets the lock go when its holder dies, however it dies. Who is inside may enter again. Raises
    DepthwiseError, about `what`, if another process or thread is inside; OSError if the file cannot be opened.
    """
    held = _HELD.get()
    if file in held:
        yield held[file]
        return
    while True:
        lock = _lock(file, what, remedy)
        if _is(file, lock.file):
            break
        lock.file.close()  # its holder has removed it while this process opened it
    try:
        os.ftruncate(lock.file.fileno(), 0)
        before = _HELD.set({**held, file: lock})
        try:
            yield lock
        finally:
            _HELD.reset(before)
    finally:
        with suppress(OSError):
            if _is(file, lock.file):
                file.unlink()
        lock.file.close()


def leftover_of(name: str) -> str:
    """The name of what a process was writing that was killed and left a file or folder `name`; "" if it is none."""
    found = re.fullmatch(r"\.(.+?)(\.\d{1,9})?\.(tmp|lock|partial)", name)
    return found[1] if found else ""


def check_free(file: Path, force: bool) -> None:
    """Raise, before work is done, what `written_whole` would in the end, or that `file` exists and not `force`."""
    if file.is_dir():
        raise DepthwiseError(f"{file} is a folder: name a file in it, {file / 'results'} for example")
    if os.path.lexists(file) and not force:
        raise DepthwiseError(f"{file} exists and is not overwritten: choose another name or add --force")
    try:
        _make_folder(file.parent)
        TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise named(error, file) from error


def disk_full(error: OSError) -> bool:
    """Whether the error says that no more can be written: the disk or the quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def named(error: OSError, path: Path) -> OSError | DepthwiseError:
    """What to raise where `path` could not be written, whatever temporary file the error is about; see `disk_full`."""
    if disk_full(error):
        return OSError(error.errno, error.strerror, str(path))
    return DepthwiseError(
        f"{path} cannot be written ({error.strerror or error}): choose another place for it"
    )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # as a file; what is said should be why nothing can be written in it
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None


def _lock(file: Path, what: Path, remedy: str) -> Lock:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    opened = os.fdopen(descriptor, "r+b")
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        said = os.read(descriptor, 32).decode("ascii", errors="replace")
        opened.close()
        number = said.removeprefix(_HOLDER).strip() if said.startswith(_HOLDER) else ""
        holder = f"process {number}" if number.isdecimal() else "another process"
        raise BusyError(f"{holder} is writing {what}: {remedy}") from None
    except (ImportError, OSError):  # no such thing in this system, or in this file system
        return Lock(opened, held=False)
    return Lock(opened, held=True)


def _is(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _sweep(path: Path) -> None:
    """Remove folders of older versions, which had their process's number in the name, unless it lives."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d{{1,9}})\.partial")
    for name in os.listdir(path.parent):
        if (found := pattern.fullmatch(name)) and not _lives(int(found[1])):
            shutil.rmtree(path.with_name(name), ignore_errors=True)


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
