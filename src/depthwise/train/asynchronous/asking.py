"""What a person asks of an asynchronous run, refused where it cannot be, before anything heavy is imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from depthwise.errors import UsageError

if TYPE_CHECKING:
    from depthwise.train.asynchronous.order import Order
    from depthwise.train.asynchronous.service import Service
    from depthwise.train.asynchronous.simulation import Simulation
    from depthwise.train.recipe import Recipe


def check_asked(
    simulate: Simulation | None,
    service: Service | None,
    replay: str | os.PathLike[str] | None,
    cluster: str | None,
    *,
    how: str,
    minutes: float | None,
    chosen: bool,
) -> None:
    """Raise UsageError for what an asynchronous run cannot have.

    cluster: its address. how: "start" of a new run. chosen: a recipe, a network or settings are given, too.
    """
    given = {"--simulate": simulate, "--asynchronous": service, "--replay": replay}
    names = [name for name, value in given.items() if value is not None]
    if not names:
        return
    if replay and names[1:]:
        raise UsageError(f"--replay does a run again as it was: leave {names[0]} out")
    if names[1:]:
        raise UsageError("--simulate makes workers up, and --asynchronous has real ones: give one of them")
    if how != "start":
        raise UsageError(f"--{how} takes the run in --out as it is: leave {names[0]} out")
    if minutes is not None:
        raise UsageError(f"--minutes measures synchronous updates: give {names[0]} epochs")
    if service and not cluster:
        raise UsageError("--asynchronous has its workers on a cluster: say which, with --ray ADDRESS")
    if cluster and not service:
        raise UsageError(f"{names[0]} trains in one process: leave --ray out")
    if replay and chosen:
        raise UsageError(
            "--replay takes recipe and network from the log: leave --recipe, --model and settings out"
        )


def order_asked(
    simulate: Simulation | None,
    service: Service | None,
    replay: str | os.PathLike[str] | None,
    *,
    alone: bool,
) -> tuple[Order | None, Recipe | None]:
    """Where the order of a new run's pushes comes from, if it is an asynchronous one; of a log, the recipe in it.

    Raises UsageError unless there is one process, and DepthwiseError for a log that cannot be read.
    """
    if simulate is None and service is None and replay is None:
        return None, None
    if not alone:
        raise UsageError(
            "asynchronous training is led by one process, and --simulate and --replay are all in it: leave --processes "
            "out, and torchrun"
        )
    if replay is None:
        return simulate or service, None
    from depthwise.train.asynchronous.pushes import read_log
    from depthwise.train.recipe import Recipe

    log = read_log(Path(replay))
    return log, Recipe.from_json(log.head.recipe)
