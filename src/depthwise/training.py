"""`depthwise train` in Python."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from depthwise.errors import UsageError
from depthwise.job import Job
from depthwise.train.asynchronous.service import Service
from depthwise.train.asynchronous.simulation import Simulation
from depthwise.train.options import PATIENCE, Options

if TYPE_CHECKING:
    from depthwise.data.columns import Columns
    from depthwise.data.dataset import Dataset
    from depthwise.finished import Run
    from depthwise.train.recipe import Recipe
    from depthwise.train.session import Watcher


def train(
    data: str | os.PathLike[str] | Dataset | None = None,
    *,
    out: str | os.PathLike[str],
    model: str | None = None,
    recipe: str | Recipe | None = None,
    init: str | os.PathLike[str] | None = None,
    minutes: float | None = None,
    resume: bool = False,
    finish: bool = False,
    force: bool = False,
    skip_bad: bool = False,
    nested: bool = False,
    max_pixels: int | None = None,
    allow_truncated: bool | None = None,
    columns: Columns | None = None,
    simulate: Mapping[str, Any] | None = None,
    asynchronous: Mapping[str, Any] | None = None,
    ray: str | None = None,
    replay: str | os.PathLike[str] | None = None,
    workers: int = 2,
    checkpoint_minutes: float = 5.0,
    checkpoint_steps: int = 0,
    device: str = "auto",
    processes: int | tuple[int, int] = 1,
    patience: float = PATIENCE,
    watcher: Watcher | None = None,
    **settings: Any,
) -> Run:
    """Train a network on the images `data` and leave a run directory `out`: `depthwise train` in Python.

    data: a folder of images, a manifest (read by its `columns`), a built-in set's name, or a `Dataset`. settings:
    fields of the recipe (epochs=20), of its parts (**{"optimizer.lr": 0.1}) and arguments of the network (width=0.5).
    processes: how many train together; on the Ray cluster at the address `ray`, (fewest, most) of them. simulate:
    made-up asynchronous workers, as {"workers": 60, "slow": 4}. asynchronous: real ones, {"workers": 3}, on that
    cluster. replay: the log of an asynchronous run that is done again. watcher: who is told how far the run is, by
    default the terminal, notebook or log. The others are the command's options.

    Raises DepthwiseError with the command's sentences, and KeyboardInterrupt, after a checkpoint, for Ctrl-C.
    """
    if resume and finish:
        raise UsageError("--finish takes the run in --out as it is: leave --resume out")
    fewest, most = processes if isinstance(processes, tuple) else (0, processes)
    options = Options(workers, checkpoint_minutes, checkpoint_steps, device, most, patience, fewest=fewest)
    reading = (skip_bad, nested, max_pixels, allow_truncated, columns)
    made_up = None if simulate is None else Simulation.of(simulate.items())
    real = None if asynchronous is None else Service.of(asynchronous.items())
    asked = (tuple(settings.items()), init, minutes, *reading, options, made_up, replay, real, ray)
    job = Job(out, data, model, recipe, *asked)
    return job.do("resume" if resume else "finish" if finish else "start", force=force, watcher=watcher)
