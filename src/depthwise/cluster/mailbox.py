"""What the processes of a run on Ray and the one that asked for it tell each other."""

import time
from typing import Any

SECONDS = 0.2
"""Between two looks into the box, and two words on how far a run is."""


class Mailbox:
    """An actor beside the driver, which outlives every process of the run.

    The first `end` counts: ("result", plain values), ("error", sentence), ("usage", sentence) or ("stopped", sentence).
    """

    def __init__(self) -> None:
        self._news: list[tuple[str, tuple[Any, ...]]] = []
        self._ended: tuple[str, Any] | None = None
        self._stopping = False

    def say(self, name: str, *values: Any) -> None:
        """Let the driver's watcher hear of `name`."""
        self._news.append((name, values))

    def take(self) -> list[tuple[str, tuple[Any, ...]]]:
        """All that was said since the last time."""
        news, self._news = self._news, []
        return news

    def end(self, kind: str, value: Any) -> None:
        self._ended = self._ended or (kind, value)

    def ended(self) -> tuple[str, Any] | None:
        return self._ended

    def stop(self) -> None:
        """The person wants the run to stop, with a checkpoint."""
        self._stopping = True

    def stopping(self) -> bool:
        return self._stopping


class Sent:
    """A run's watcher whose words go to a Mailbox."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._stepped = 0.0

    def looking(self, done: int, total: int) -> None:
        if done == total or self._is_time():
            self._mailbox.say.remote("looking", done, total)

    def start(self, total_steps: int, start_step: int = 0, accuracy: str = "accuracy") -> None:
        self._mailbox.say.remote("start", total_steps, start_step, accuracy)

    def step(self, step: int, loss: float, accuracy: float, images_per_second: float) -> None:
        if self._is_time():
            self._mailbox.say.remote("step", step, loss, accuracy, images_per_second)

    def evaluated(self, line: dict[str, Any]) -> None:
        self._mailbox.say.remote("evaluated", line)

    def message(self, text: str) -> None:
        self._mailbox.say.remote("message", text)

    def close(self) -> None:
        self._mailbox.say.remote("close")

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now < self._stepped + SECONDS:
            return False
        self._stepped = now
        return True
