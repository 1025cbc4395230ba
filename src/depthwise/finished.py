"""What a job comes to: the run it left, and the ways on from there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthwise.words import number_of

if TYPE_CHECKING:
    from depthwise.evaluate.inline import Report
    from depthwise.infer import Predictor
    from depthwise.train.ending import Result
    from depthwise.train.session import Watcher


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, and what its network is worth.

    job: the `Job` that was asked for; result: what came of it.
    """

    job: Any
    result: Result

    def __repr__(self) -> str:
        return f"Run({str(self.out)!r}: {self.summary})"

    def __fspath__(self) -> str:
        """The directory: a run is given to whatever takes a bundle."""
        return os.fspath(self.out)

    @property
    def out(self) -> Path:
        """Its directory."""
        return self.result.out

    @property
    def evaluation(self) -> Any:
        """What the bundle's weights are worth: of the task's kind, see `Result`."""
        return self.result.evaluation

    @property
    def summary(self) -> str:
        """What the network is worth, in a phrase."""
        result, evaluation = self.result, self.evaluation
        images = number_of(evaluation.num_images, f"{result.split} image")
        of_step = f" of step {result.step:,}" if result.weights == "best" else ""
        said = evaluation.headline.said(evaluation, images)
        return f"{said} ({result.weights} weights{of_step}, {result.seconds:,.0f} s)"

    @cached_property
    def predictor(self) -> Predictor:
        """What answers for images, see `load`."""
        from depthwise.ship.load import load

        return load(self.out)

    @property
    def report(self) -> Report:
        """The page with curves, confusions and mistakes."""
        from depthwise.evaluate.inline import Report

        return Report(self.out / "report.html")

    def resume(self, *, force: bool = False, watcher: Watcher | None = None, **settings: Any) -> Run:
        """Go on with the run, by other `settings` where that changes nothing of what is done: more epochs, say."""
        settled = tuple(settings.items())
        job = type(self.job)(self.out, self.job.data, settings=settled, options=self.job.options)
        run: Run = job.do("resume", force=force, watcher=watcher)
        return run
