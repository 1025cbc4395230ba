"""What may change in a run that goes on: only what leaves all that it has done as it would have been anyway."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from depthwise.errors import DepthwiseError
from depthwise.tasks import DEFAULT as SINGLE_LABEL
from depthwise.train.checkpoint import Checkpoint
from depthwise.train.files import RunFiles
from depthwise.train.loop import Trainer
from depthwise.train.recipe import Recipe, differences

FREE = ("eval_every", "eval_unit", "log_every", "early_stop", "recompute")
"""Fields of the recipe that say only when the run is looked at and whether it is over then, or that trade memory for
time."""


def refuse_changes(
    files: RunFiles,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    finish: bool = False,
    crops_jpeg: bool = False,
) -> None:
    """Raise DepthwiseError if the data, or the versions, which `finish` leaves alone, are not those of run.json.

    crops_jpeg: the run cuts crops out of JPEG files, which a version that does not say how decoded whole.
    """
    changed = []
    for part in ("data",) if finish else ("data", "versions"):
        old, new = before[part], now[part]
        if part == "data":
            # A run of an older version says nothing of its task.
            names = {"fingerprint": None, "task": SINGLE_LABEL}
            old, new = (
                {name: values.get(name, named) for name, named in names.items()} for values in (old, new)
            )
        elif "jpeg" not in old:  # a run of an older version
            old = {**old, "jpeg": "whole files" if crops_jpeg else new["jpeg"]}
        changed += [f"{part}.{difference}" for difference in differences(old, new)]
    if changed:
        raise _refused(files, changed, "--finish" if finish else "--resume")


def changed_recipe(
    files: RunFiles, recipe: Mapping[str, Any], checkpoint: Checkpoint, trainer: Trainer, *, force: bool
) -> list[str]:
    """Where the trainer's recipe is another than that of `checkpoint`, or, if it is of an older version, `recipe`.

    Raises DepthwiseError, unless `force`, if by the new recipe they would have been others.
    """
    # A recipe of an older version has not all the fields of today's.
    old, new = Recipe.from_json(checkpoint.state.get("recipe", recipe)), trainer.recipe
    old = replace(old, virtual_shards=old.virtual_shards or 1)
    changed = [f"recipe.{difference}" for difference in differences(old.to_json(), new.to_json())]
    if force:
        return changed
    names = {difference.partition(":")[0].removeprefix("recipe.") for difference in changed}
    laid_out = {name for name in names if name in ("epochs", "samples") or name.startswith("schedule.")}
    if names - laid_out - {*FREE}:
        raise _refused(files, changed, "--resume")
    if laid_out and (reason := _other_past(old, checkpoint.state["step"], trainer)):
        raise DepthwiseError(
            f"{files.root} cannot be resumed with {'; '.join(changed)}, {reason}: leave it as it was, start anew with "
            f"--force, or go on all the same with --resume --force"
        )
    return changed


def _other_past(old: Recipe, step: int, trainer: Trainer) -> str:
    """Why the updates done would have been others, or more than there are; "" if they would not."""
    new, clock = trainer.recipe, trainer.clock
    if clock.total_steps < step:
        return f"which are {clock.total_steps} updates, and {step} are done"
    total = old.total_steps(clock.steps_per_epoch, clock.samples_per_step)
    if trainer.descent.fixed and total != clock.total_steps:
        return "for the order of an asynchronous run's pushes depends on how many there are"
    for number in range(step):
        before = old.schedule.factor(replace(clock, step=number, total_steps=total))
        if before != new.schedule.factor(replace(clock, step=number)):
            kind = old.to_json()["schedule"]["kind"]
            why = (
                f"for the schedule {kind} is laid out over epochs, and"
                if new.schedule == old.schedule
                else "for"
            )
            return f"{why} the {step} updates done would have had other learning rates"
    return ""


def _refused(files: RunFiles, changed: list[str], option: str) -> DepthwiseError:
    return DepthwiseError(
        f"{files.root} cannot be resumed exactly, this has changed: {'; '.join(changed)}: put it back, or go on "
        f"all the same with {option} --force"
    )
