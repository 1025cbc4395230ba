"""How a training run is seen from outside: a bar with numbers on a terminal, a line that changes in a notebook, a line
now and then in a log.
"""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from depthwise.words import pace, printable, spoken

LOG_INTERVAL = 10.0  # seconds between two lines about steps where there is no terminal
# So many steps and seconds after the first news the time left is estimated; the first steps are slow ones.
SURE_STEPS, SURE_SECONDS = 5, 5.0
# What a line of metrics has beside fractions of the images, and what some of those are called.
NO_FRACTIONS = ("epoch", "seconds", "time", "loss")
NAMES = {
    **{"top1": "top-1", "top5": "top-5"},
    **{"map_at_100": "MAP@100", "macro_ap": "mAP", "micro_f1": "micro F1"},
}


class TrainProgress:
    """Shows a run on standard error: `looking`, `start`, `step`, `evaluated` and `message` as they come, `close`."""

    def __init__(self, console: Console | None = None) -> None:
        self._in_notebook = console is None and Console().is_jupyter
        # A notebook's kernel asks for colours as if there were a terminal.
        terminal = False if self._in_notebook else None
        self._console = console or Console(stderr=True, force_jupyter=False, force_terminal=terminal)
        self._bar: Progress | None = None
        self._line: Any = None  # a notebook's, which is written anew
        self._total_steps, self._accuracy = 0, "accuracy"
        self._first: tuple[int, float] | None = None  # step and time of the first news
        self._logged_at = time.monotonic()

    def looking(self, done: int, total: int) -> None:
        """So many of the files of the data set have been looked over."""
        if self._console.is_terminal and self._bar is None:
            columns = (
                TextColumn("looking images over"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task("")
            self._bar.start()
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)
            if done == total:
                self.close()

    def start(self, total_steps: int, start_step: int = 0, accuracy: str = "accuracy") -> None:
        """The run goes from `start_step`, above 0 when it is resumed, to `total_steps`; `accuracy` is called so."""
        self._total_steps, self._first, self._accuracy = total_steps, None, accuracy
        self._logged_at = time.monotonic()
        if self._console.is_terminal:
            self._bar = Progress(
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[numbers]}", markup=False),
                console=self._console,
                expand=True,
                refresh_per_second=4,  # drawing takes time from training
            )
            self._bar.add_task("", total=total_steps, completed=start_step, numbers="")
            self._bar.start()
        elif self._in_notebook:
            from IPython.display import display

            self._line = display({"text/plain": ""}, raw=True, display_id=True)

    def step(self, step: int, loss: float, accuracy: float | None, images_per_second: float) -> None:
        """`step` steps are done; `accuracy` is a fraction, None where mixed targets leave it no meaning."""
        numbers = f"loss {loss:.3f}  "
        if accuracy is not None:
            numbers += f"{self._accuracy} {accuracy:.1%}  "
        numbers += f"{pace(images_per_second)} images/s{self._time_left(step)}"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step, numbers=numbers)
        elif self._line:
            self._line.update({"text/plain": f"step {step}/{self._total_steps}  {numbers}"}, raw=True)
        elif time.monotonic() - self._logged_at >= LOG_INTERVAL:
            self._logged_at = time.monotonic()
            self.message(f"step {step}/{self._total_steps}  {numbers}")

    def evaluated(self, line: dict[str, Any]) -> None:
        """One evaluation, as metrics.jsonl has it."""
        fractions = [
            f"{NAMES.get(key, key)} {value:.2%}  "
            for key, value in line.items()
            if key not in NO_FRACTIONS and isinstance(value, float)
        ]
        final = "final, " if line["kind"] == "test" else ""
        self.message(
            f"{final}{line['split']} at step {line['step']}, {line['weights']} weights:  "
            f"{''.join(fractions)}loss {line['loss']:.4f}"
        )

    def message(self, text: str) -> None:
        """A line that stays, above the bar if there is one."""
        self._console.print(
            printable(spoken(text)), soft_wrap=True, markup=False, emoji=False, highlight=False
        )

    def close(self) -> None:
        """Leave the bar as it stands; the run is over, or interrupted."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _time_left(self, step: int) -> str:
        """ "  0:02:13 left", or nothing as long as it would be a guess."""
        now = time.monotonic()
        self._first = self._first or (step, now)
        steps, seconds = step - self._first[0], now - self._first[1]
        if steps < SURE_STEPS or seconds < SURE_SECONDS:
            return ""
        minutes, seconds = divmod(round(seconds / steps * (self._total_steps - step)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"  {hours}:{minutes:02}:{seconds:02} left"
