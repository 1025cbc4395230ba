"""`depthwise` in a process of its own that starts in a moment: forked from a server that has it all imported.

The process is as real as any, to be killed and seen from outside. What it does not do is to start Python and to import
torch, which takes seconds; the server of its data workers is forked likewise. What is tested of that start itself runs
`python -m depthwise`.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from depthwise import cli
from depthwise.stops import held_back

_CONTEXT = multiprocessing.get_context("forkserver")
# What `depthwise train` imports when it comes to it.
_IMPORTED = [
    "depthwise.cli.app",
    "depthwise.data.loader",
    "depthwise.evaluate.report",
    "depthwise.job",
    "depthwise.recipes",
    "depthwise.ship.load",
    "depthwise.train.run",
    "sklearn.datasets",
    "torch.utils.tensorboard",
    "torchmetrics.classification",
]


class Command:
    """`depthwise *arguments`, begun, in a session of its own."""

    def __init__(self, *arguments: str, cwd: Path | None = None, **environment: str) -> None:
        self.arguments = arguments
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._err = (Path(self._folder.name) / name for name in ("out", "err"))
        _CONTEXT.set_forkserver_preload(_IMPORTED)
        self._process = _CONTEXT.Process(
            target=_run,
            args=(arguments, cwd or Path.cwd(), {**os.environ, **environment}, (self._out, self._err)),
        )
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid
        return pid

    @property
    def ended(self) -> bool:
        return self._process.exitcode is not None

    def wait(self, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """How it ended, and what it printed."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout, stderr=self._err.read_text())
        printed = [path.read_text() if path.exists() else "" for path in (self._out, self._err)]
        return subprocess.CompletedProcess(self.arguments, code, *printed)


def command(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`depthwise *arguments`, run to its end."""
    return Command(*arguments, cwd=cwd, **environment).wait()


def _run(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], printed: Sequence[Path]
) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(printed, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    _fork_the_server_of_workers()
    sys.argv = ["depthwise", *arguments]
    cli.main()


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
    start, forkserver.util.spawnv_passfds = forkserver.util.spawnv_passfds, forked
    try:
        with held_back():
            forkserver.ensure_running()
    finally:
        forkserver.util.spawnv_passfds = start
