"""Processes that start in a moment: forked from a server that has `depthwise train` and all that it needs imported.

They are as real as any, to be killed and seen from outside. What they do not do is to start Python and to import torch,
which takes seconds; the server of their data workers is forked likewise. What is tested of that start itself runs
`python -m depthwise`.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from depthwise import cli
from depthwise.stops import held_back, released

_CONTEXT = multiprocessing.get_context("forkserver")
# What `depthwise train` imports when it comes to it.
_IMPORTED = [
    "depthwise.cli.app",
    "depthwise.data.loader",
    "depthwise.evaluate.report",
    "depthwise.job",
    "depthwise.recipes",
    "depthwise.serve.server",
    "depthwise.ship.load",
    "depthwise.train.run",
    "sklearn.datasets",
    "torch.utils.tensorboard",
    "torchmetrics.classification",
]


class Forked:
    """`function(*arguments)` in a process and a session of its own; the function is one of a module's."""

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: str,
        cwd: Path | None = None,
        stdin: bytes | Path = b"",
        stdout: Path | None = None,
        **environment: str,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._streams = [Path(self._folder.name) / name for name in ("in", "out", "err")]
        for path in self._streams:
            path.touch()
        if isinstance(stdin, Path):
            self._streams[0] = stdin
        else:
            self._streams[0].write_bytes(stdin)
        if stdout:
            self._streams[1] = stdout
        _CONTEXT.set_forkserver_preload(_IMPORTED)
        self._arguments = (cwd or Path.cwd(), {**os.environ, **environment}, self._streams)
        self._process = _CONTEXT.Process(target=_run, args=(function, arguments, *self._arguments))
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid
        return pid

    @property
    def ended(self) -> bool:
        return self._process.exitcode is not None

    @property
    def printed(self) -> list[str]:
        """What it has printed on standard output and standard error so far; bytes that are no UTF-8 are kept."""
        return [path.read_bytes().decode(errors="surrogateescape") for path in self._streams[1:]]

    def wait_for(self, condition: Callable[[], object], seconds: float = 120, every: float = 0.002) -> None:
        """Until the condition holds, the process has ended, or the time is over."""
        end = time.monotonic() + seconds
        while not condition() and not self.ended and time.monotonic() < end:
            time.sleep(every)

    def code(self, timeout: float = 600) -> int:
        """The exit code; of a process that a signal ended less than 0, as `subprocess` has it."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(self._arguments, timeout, *self.printed)
        return code

    def wait(self, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """How it ended, and what it printed."""
        return subprocess.CompletedProcess(self._arguments, self.code(timeout), *self.printed)


class Piped:
    """`function()` in a process of its own, as `subprocess.Popen` with pipes would have it."""

    def __init__(self, function: Callable[[], object], **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        pipes = [Path(self._folder.name) / name for name in ("in", "out")]
        for pipe in pipes:
            os.mkfifo(pipe)
        self._forked = Forked(function, stdin=pipes[0], stdout=pipes[1], **environment)
        self.pid = self._forked.pid
        self.stdin, self.stdout = pipes[0].open("w"), pipes[1].open()

    def wait(self, timeout: float = 600) -> int:
        return self._forked.code(timeout)

    def communicate(self) -> None:
        with suppress(BrokenPipeError):
            self.stdin.close()
        self.stdout.close()
        self.wait()


def start(*arguments: str, cwd: Path | None = None, stdin: bytes | Path = b"", **environment: str) -> Forked:
    """`depthwise *arguments`, begun."""
    return Forked(depthwise, *arguments, cwd=cwd, stdin=stdin, **environment)


def command(
    *arguments: str, cwd: Path | None = None, stdin: bytes | Path = b"", **environment: str
) -> subprocess.CompletedProcess[str]:
    """`depthwise *arguments`, run to its end."""
    return start(*arguments, cwd=cwd, stdin=stdin, **environment).wait()


def depthwise(*arguments: str) -> None:
    """In a process of its own: the command as its entry point runs it."""
    sys.argv = ["depthwise", *arguments]
    cli.main()


def _run(
    function: Callable[..., object],
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    streams: Sequence[Path],
) -> None:
    released()  # the server may have been started for data workers, to which stops must not come
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND), number)
    sys.stdin = os.fdopen(0, closefd=False)
    _fork_the_server_of_workers()
    function(*arguments)


def _fork_the_server_of_workers() -> None:
    """As multiprocessing starts it and the pool of data workers wants it, from this process, in which nothing ran yet,
    instead of a new Python."""

    def forked(path: object, arguments: Sequence[str], kept: Sequence[int]) -> int:
        if pid := os.fork():
            return pid
        for number in map(int, os.listdir("/dev/fd")):
            if number > 2 and number not in kept:
                with suppress(OSError):
                    os.close(number)
        try:
            exec(arguments[-1])
        finally:
            os._exit(0)

    resource_tracker.ensure_running()
    spawn, forkserver.util.spawnv_passfds = forkserver.util.spawnv_passfds, forked
    try:
        with held_back():
            forkserver.ensure_running()
    finally:
        forkserver.util.spawnv_passfds = spawn
