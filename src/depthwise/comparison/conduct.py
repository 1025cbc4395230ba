"""Do an experiment: open the data, settle the arms, do what runs are left, take times, and say what came of it."""

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from depthwise import native
from depthwise.comparison.experiment import Experiment
from depthwise.comparison.jobs import Assignment, Carry, Share, do_all
from depthwise.comparison.outcome import Outcome, read_outcome
from depthwise.comparison.plan import Asked, Place, Planned, differences, outstanding, planned
from depthwise.comparison.report import write_page
from depthwise.comparison.results import Results
from depthwise.comparison.setting import Scale, Setting
from depthwise.comparison.speed import Taken, take
from depthwise.data import region
from depthwise.data.columns import Columns
from depthwise.data.dataset import Dataset, require_trainable
from depthwise.data.sources.open import open_dataset
from depthwise.errors import DepthwiseError, DivergedError, about
from depthwise.recipes import Traits
from depthwise.train.files import RunFiles, environment, write_json
from depthwise.train.run import choose_device
from depthwise.words import number_of, printable
from depthwise.writing import locked, named

Build = Callable[[Setting], Experiment]

LOCK = ".lock"


class Watcher(Protocol):
    """Who looks on while an experiment is done."""

    def message(self, text: str) -> None:
        """A line that stays."""

    def now(self, text: str) -> None:
        """What is being done, until the next."""

    def looking(self, done: int, total: int) -> None:
        """Of so many images, so many have been looked over."""


class Printed:
    """A Watcher that writes its lines to standard error."""

    def message(self, text: str) -> None:
        print(printable(text), file=sys.stderr)

    def now(self, text: str) -> None: ...

    def looking(self, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Order:
    """An experiment to be done: its name and how it is built, on which data, at which scale, with how many seeds.

    arms: plain values from which `build` makes the arms, where they are not the experiment's own.
    """

    name: str
    build: Build
    scale: str
    data: str
    seeds: int = 3
    columns: Columns | None = None
    arms: Any = None


def conduct(
    order: Order,
    place: Place,
    share: Share,
    watcher: Watcher,
    *,
    force: bool = False,
    carry: Carry | None = None,
) -> Results:
    """Do what is left of an experiment in `place`, and write results and report.

    Runs that are finished and equal, in `place.runs`, are taken as they are; one that was stopped goes on. `force` asks
    another question in a place that has one; no run is removed. carry: who does the runs, by default processes here.

    Raises DepthwiseError where `place` holds another question, or a run cannot be done; KeyboardInterrupt for Ctrl-C,
    after checkpoints.
    """
    with (
        _directories(place),
        locked(place.root / LOCK, place.root, "wait until it ends, or choose another --out"),
        locked(place.runs / LOCK, place.runs, "wait until it ends, or choose another --runs"),
    ):
        before = place.read()
        watcher.now("looking over the images")
        asked = settled(order, share, watcher)
        others = differences(before, asked) if before else []
        if others and not force:
            raise DepthwiseError(
                f"{place.root} holds another experiment: {', '.join(others)}: choose another --out, or replace it with "
                f"--force"
            )
        if before and not others:
            asked = replace(asked, kept=before.kept, seeds=max(asked.seeds, before.seeds))
        setting = asked.setting
        watcher.now("bringing the arms to one budget")
        experiment = order.build(setting)
        _check(experiment, asked)
        costs = _costs(experiment, setting)  # which builds every network: before anything is kept or trained
        asked = replace(asked, kept=setting.kept)
        if others:
            place.speed.unlink(missing_ok=True)  # of other arms, as are the figures
            shutil.rmtree(place.figures, ignore_errors=True)
        place.write(asked)
        runs = planned(experiment, asked, place.runs)
        lost = _do_runs(runs, asked, share, watcher, carry)
        speed = _timed(experiment, experiment.setting or setting, place, share, watcher)
        results = _collected(experiment, asked, costs, runs, speed)
        write_page(results, place)
        if lost:
            raise DivergedError(
                f"{number_of(len(lost), 'run')} diverged, the first {lost[0]}; {place.report} has all others"
            )
        return results


@contextmanager
def _directories(place: Place) -> Iterator[None]:
    """Those of `place` are there; what was made for it and is empty in the end is removed."""
    made = []
    for folder, option in ((place.root, "--out"), (place.runs, "--runs")):
        if folder.exists() and not folder.is_dir():
            raise DepthwiseError(f"{folder} is a file, and a directory is needed: choose another {option}")
        if not folder.exists():
            made.append(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise named(error, folder) from error
    try:
        yield
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # it has something in it
                folder.rmdir()


def setting_for(scale: Scale, data: str | None, columns: Columns | None, watcher: Watcher) -> Setting:
    """That of the scale for a data set, or, without one, for the set that the scale was made for."""
    if data is None:
        return Setting(scale, scale.data)
    dataset = _opened(data, columns, watcher)
    return Setting(scale, Traits.of(dataset), dataset.channels)


def settled(order: Order, share: Share, watcher: Watcher) -> Asked:
    """What is asked, with what was seen of the data."""
    dataset = _opened(order.data, order.columns, watcher)
    facts = environment(choose_device(share.device), native.status(), region.status())
    return Asked(
        name=order.name,
        scale=order.scale,
        data=os.path.abspath(order.data) if os.path.exists(order.data) else order.data,
        fingerprint=dataset.fingerprint,
        channels=dataset.channels,
        traits=vars(Traits.of(dataset)),
        seeds=order.seeds,
        environment={**facts, "threads": str(share.threads)},
        columns=order.columns.to_json() if order.columns else None,
        arms=order.arms,
    )


def _check(experiment: Experiment, asked: Asked) -> None:
    """Raise DepthwiseError for data that the experiment says nothing of, and for arms of one name."""
    names = [arm.name for arm in experiment.arms]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DepthwiseError(f"two arms are called {twice[0]}: give each a name of its own")
    has = "several labels" if asked.setting.traits.several else "one label"
    if experiment.needs not in ("any", has):
        raise DepthwiseError(
            f"{asked.name} is about images of {experiment.needs}, and those of {asked.data} have {has}: give "
            f"other --data"
        )


def reported(build: Build, place: Place) -> Results:
    """Results and report anew, of the runs that are finished so far.

    Raises DepthwiseError if none is, or no experiment was asked for in `place`.
    """
    asked = place.read()
    if asked is None:
        raise DepthwiseError(f"{place.root} holds no experiment: name the --out of one")
    setting = asked.setting
    experiment = build(setting)
    runs = planned(experiment, asked, place.runs)
    finished = [run for run in runs if RunFiles(run.out).finished]
    if not finished and not place.speed.exists():
        if not place.runs.exists():
            raise DepthwiseError(
                f"the runs of {place.root} are to lie in {place.runs}, which is not there: put them back, or go on "
                f"with depthwise experiment run, whose --runs names another place"
            )
        raise DepthwiseError(f"{place.root} has no finished run yet: go on with depthwise experiment run")
    results = _collected(experiment, asked, _costs(experiment, setting), runs, _read_speed(place))
    write_page(results, place)
    return results


def _opened(data: str, columns: Columns | None, watcher: Watcher) -> Dataset:
    dataset = open_dataset(data, progress=watcher.looking, columns=columns)
    require_trainable(dataset)
    return dataset


def _do_runs(
    runs: Sequence[Planned], asked: Asked, share: Share, watcher: Watcher, carry: Carry | None
) -> list[str]:
    """Do those that are not finished; two arms that are equal are one run. Sentences on those that diverged."""
    of = {run.out: run for run in runs}
    left = [run for run in outstanding(runs) if not _is_done(run)]
    if found := len(of) - len(left):
        watcher.message(f"{number_of(found, 'run')} of {len(of)} are finished already, and taken as they are")
    began, steps = time.monotonic(), Counter[Path]()
    totals: dict[Path, int] = {}
    done: list[Path] = []

    def progress(run: Assignment, step: int, of_steps: int) -> None:
        first = run.out not in totals
        totals[run.out] = of_steps
        if first:
            offsets[run.out] = step
        steps[run.out] = step - offsets[run.out]
        watcher.now(_how_far(len(of) - len(left) + len(done), len(of), began, len(left), steps, totals))

    offsets: dict[Path, int] = {}

    def ended(run: Assignment) -> None:
        done.append(run.out)
        steps[run.out] = totals.get(run.out, 0)
        planned_run = of[run.out]
        outcome = read_outcome(run.out, planned_run.arm, planned_run.seed)
        number = len(of) - len(left) + len(done)
        key = "top1" if "top1" in outcome.evaluation else "map_at_100"
        watcher.message(
            f"{number} of {len(of)}: {planned_run.called}: {outcome.evaluation[key]:.2%} in {outcome.seconds:,.0f} s"
        )

    columns = None if asked.columns is None else dict(asked.columns)
    lost: list[str] = []

    def diverged(run: Assignment, sentence: str) -> None:
        lost.append(f"{run.called} ({run.out}): {sentence}")
        watcher.message(lost[-1])

    left_to_do = [
        Assignment(
            run.called,
            run.out,
            asked.data,
            run.recipe.to_json(),
            columns,
            asdict(run.simulate) if run.simulate else None,
        )
        for run in left
    ]
    do_all(left_to_do, share, ended, progress, diverged, carry)
    return lost


def _how_far(
    done: int, of: int, began: float, left: int, steps: "Counter[Path]", totals: dict[Path, int]
) -> str:
    """How many runs are done, and the time that is left by the pace so far."""
    said = f"run {min(done + 1, of)} of {of}"
    average = sum(totals.values()) / len(totals)
    made, all_steps = sum(steps.values()), average * left
    if not made:
        return said
    seconds = (time.monotonic() - began) * (all_steps - made) / made
    return f"{said}, about {max(1, round(seconds / 60)):,} min left"


def _is_done(run: Planned) -> bool:
    return RunFiles(run.out).finished


def _timed(
    experiment: Experiment, setting: Setting, place: Place, share: Share, watcher: Watcher
) -> Taken | None:
    if experiment.speed is None:
        return None
    if taken := _read_speed(place):
        return taken
    torch.set_num_threads(max(1, min(share.threads * share.at_once, os.cpu_count() or 1)))
    taken = take(
        experiment,
        experiment.speed,
        setting,
        share.device,
        lambda kind, number: watcher.now(f"timing {kind}, round {number + 1}"),
    )
    write_json(place.speed, taken.to_json())
    return taken


def _read_speed(place: Place) -> Taken | None:
    if not place.speed.exists():
        return None
    try:
        return Taken.from_json(json.loads(place.speed.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DepthwiseError(f"{place.speed} cannot be read ({error}): remove it to measure again") from None


def _costs(experiment: Experiment, setting: Setting) -> dict[str, dict[str, int]]:
    """What the network of each arm costs. Raises DepthwiseError, naming the arm, for one that cannot be built."""
    own = experiment.setting or setting
    found = {}
    for arm in experiment.arms:
        with about(f"arm {arm.name}"):
            found[arm.name] = own.cost(arm.recipe)
    return found


def _collected(
    experiment: Experiment,
    asked: Asked,
    costs: Mapping[str, Mapping[str, int]],
    runs: Sequence[Planned],
    speed: Taken | None,
) -> Results:
    outcomes: list[Outcome] = [read_outcome(run.out, run.arm, run.seed) for run in runs if _is_done(run)]
    return Results(experiment, asked, outcomes, costs, speed, len(runs))
