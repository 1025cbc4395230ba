"""What a person asks of an asynchronous run, refused where it cannot be, before anything heavy is imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from depthwise.errors import UsageError

if TYPE_CHECKING:
    from depthwise.train.asynchronous.order import Order
    from depthwise.train.asynchronous.simulation import Simulation
    from depthwise.train.recipe import Recipe


def check_asked(
    simulate: Simulation | None,
    replay: str | os.PathLike[str] | None,
    *,
    how: str,
    minutes: float | None,
    chosen: bool,
) -> None:
    """Raise UsageError for what an asynchronous run cannot have.

    how: "start" of a new run. chosen: a recipe, a network or settings are given, too.
    """
    if simulate is None and replay is None:
        return
    if simulate and replay:
        raise UsageError("--replay does a run again as it was: leave --simulate out")
    if how != "start":
        raise UsageError(f"--{how} takes the run in --out as it is: leave --simulate and --replay out")
    if minutes is not None:
        raise UsageError("--minutes measures synchronous updates: give --simulate and --replay epochs")
    if replay and chosen:
        raise UsageError(
            "--replay takes recipe and network from the log: leave --recipe, --model and settings out"
        )


def order_asked(
    simulate: Simulation | None, replay: str | os.PathLike[str] | None, *, alone: bool
) -> tuple[Order | None, Recipe | None]:
    """Where the order of a new run's pushes comes from, if it is an asynchronous one; of a log, the recipe in it.

    Raises UsageError unless there is one process, and DepthwiseError for a log that cannot be read.
    """
    if simulate is None and replay is None:
        return None, None
    if not alone:
        raise UsageError("--simulate and --replay train in one process: leave --processes out, and torchrun")
    if replay is None:
        return simulate, None
    from depthwise.train.asynchronous.pushes import read_log
    from depthwise.train.recipe import Recipe

    log = read_log(Path(replay))
    return log, Recipe.from_json(log.head.recipe)
