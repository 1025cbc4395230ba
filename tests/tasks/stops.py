"""A Watcher that stops a run on its way, as SIGTERM does."""

import signal

from depthwise.train.run import Silent


class Stops(Silent):
    """At the third line of metrics."""

    lines = 0

    def step(self, step: int, loss: float, accuracy: float, images_per_second: float) -> None:
        self.lines += 1
        if self.lines == 3:
            signal.raise_signal(signal.SIGTERM)
