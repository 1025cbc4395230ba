"""Ctrl-C and SIGTERM as a request that the run answers between two updates, when its state is whole."""

import signal
import threading
from types import FrameType
from typing import Any

from depthwise.words import spoken


class StopRequest:
    """Inside the `with`, the first SIGINT or SIGTERM sets `requested`; a second one interrupts at once.

    Inside another one, what nobody has answered when the `with` ends is asked of that one.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, StopRequest) and self.requested and kind is None:
                outer.requested = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt(
                spoken(
                    "a second time, and what was done since the last checkpoint is lost; go on from there with --resume"
                )
            )
        self.requested = True
