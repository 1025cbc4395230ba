"""Work for a cluster that goes wrong; a module that workers import."""

import os
import signal
from collections.abc import Iterator


def killing(_: int) -> Iterator[None]:
    """Takes its worker with it."""
    os.kill(os.getpid(), signal.SIGKILL)
    yield


def raising(_: int) -> Iterator[None]:
    """Has a fault of its own."""
    raise ValueError("seven")
    yield
