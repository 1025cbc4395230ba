"""A whole training run: from a recipe and a data set to a directory with bundle, metrics and report."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from depthwise import native
from depthwise.analysis.cost import cost, machine_memory, without_memory
from depthwise.bundle import read_bundle
from depthwise.data import region
from depthwise.data.dataset import Dataset, has_jpeg, require_trainable
from depthwise.data.numbering import as_before, with_white_level
from depthwise.data.sources.stored import holds_jpeg
from depthwise.errors import DepthwiseError, UsageError
from depthwise.modes import in_mode, in_place
from depthwise.tasks import Task, find_task
from depthwise.train.asynchronous.crew import Hire, LostServerError
from depthwise.train.asynchronous.order import Order, kept_order, order_json, ordered
from depthwise.train.asynchronous.service import Service
from depthwise.train.budget import Budget, check_minutes, lay_out
from depthwise.train.checkpoint import load_checkpoint
from depthwise.train.convolutions import settled
from depthwise.train.ending import Result, finish_run
from depthwise.train.files import RunFiles, environment, write_json
from depthwise.train.loop import Trainer
from depthwise.train.options import Options
from depthwise.train.recipe import Recipe
from depthwise.train.record import FORMAT, Resumed
from depthwise.train.resume import changed_recipe, refuse_changes
from depthwise.train.selection import check_selection
from depthwise.train.session import Session, Watcher
from depthwise.train.signals import StopRequest
from depthwise.train.together import begin_alike, wanted
from depthwise.train.world import ALONE, World, launch
from depthwise.words import going_on, number_of
from depthwise.writing import disk_full

FEW_IN_A_SHARD = 16
"""Images of a part of the batch below which batch norm's statistics are noisy (Wu 2018, arXiv 1803.08494, figure 1)."""

MOST_LOSSES = 5
"""Times that servers are lost with no checkpoint between; one more, and others would be lost, too."""

IN_TABLES = ", in parquet and tars as well"
"""What decodes JPEG in a run that cuts crops out of such: an older version decoded them whole."""


class Silent:
    """A Watcher that looks away."""

    def looking(self, done: int, total: int) -> None: ...

    def start(self, total_steps: int, start_step: int = 0, accuracy: str = "accuracy") -> None: ...

    def step(self, step: int, loss: float, accuracy: float, images_per_second: float) -> None: ...

    def evaluated(self, line: dict[str, Any]) -> None: ...

    def message(self, text: str) -> None: ...

    def close(self) -> None: ...


def train(
    recipe: Recipe,
    module: nn.Module,
    dataset: Dataset,
    out: str | Path,
    *,
    options: Options | None = None,
    resume: bool = False,
    finish: bool = False,
    force: bool = False,
    minutes: float | None = None,
    watcher: Watcher | None = None,
    world: World = ALONE,
    order: Order | None = None,
    hire: Hire | None = None,
) -> Result:
    """Train `module` on `dataset` by `recipe` and leave bundle, metrics and report in the directory `out`.

    With `resume` the run in `out` goes on from its last checkpoint and ends bit for bit as if it had never stopped;
    the recipe may be another then where that changes nothing of what is done (see `train/resume.py`). `finish` makes
    bundle and report from the last checkpoint instead, which stays as it is. `force` then accepts any other recipe,
    data set or version, and without either replaces the run that is there. `minutes` lays a new run out over so much
    time, in epochs of its own: see `train/budget.py`. `module` comes out with the last
    weights, its batch norms with `recipe.norm_momentum`, and in all else as it went in. This process leads `world`,
    whose others `follow`. `order` makes the run an asynchronous one, see `train/asynchronous`; with `resume` it is that
    of the run. Real workers are what `hire` makes of `wanted` and the number of workers; when their servers are lost,
    the run goes on from the last checkpoint with others.

    Raises:
        DepthwiseError: `out` holds a run (or none to go on with), another process has it, one of its files is damaged,
            something the run depends on has changed, the loss is not finite any more, or the disk is full; the last
            checkpoint stays usable.
        KeyboardInterrupt: Ctrl-C or SIGTERM came; a checkpoint was written, and the text says how to go on.
    """
    began = time.monotonic()
    options, watcher, files = options or Options(), watcher or Silent(), RunFiles(Path(out))
    require_trainable(dataset)
    before = files.read_run() if resume or finish else None
    if before:
        dataset, order = as_before(dataset, before.get("data")), kept_order(before.get("asynchronous"))
    device = choose_device(options.device)
    check_selection(recipe, dataset)
    check_minutes(minutes, resume=resume or finish)
    # A run of an older version had one; it goes on with as many.
    num_shards = 1 if resume or finish else 1 << (max(world.size, options.processes) - 1).bit_length()
    recipe = replace(
        recipe,
        precision=choose_precision(recipe.precision, device),
        virtual_shards=recipe.virtual_shards or num_shards,
    )
    dataset = in_white_level(dataset, recipe)
    native.tune_allocator()
    budget = None
    if minutes is not None:
        files.check_free(force=force)  # before anybody waits for a measurement
        watcher.message(f"measuring how fast this machine trains, to fill {number_of(minutes, 'minute')}")
        recipe, budget = lay_out(
            recipe, module, dataset, minutes, device, options.workers, began, watcher.message, world
        )
        watcher.message(f"an update takes {budget.pace.update:.3g} s: {recipe.epochs:g} epochs fit")
    facts = _facts(recipe, module, dataset, options, device, budget)
    how = {"measure": not order, "force": force}
    convolutions = settled(files, before, recipe, module, dataset, device, world, watcher.message, **how)
    facts["versions"] |= convolutions.versions
    facts |= {"asynchronous": order and order_json(order), "convolutions": convolutions.to_json()}
    descent = None
    if order:
        crew = None
        if hire and isinstance(order, Service):
            crew = hire(wanted(recipe, dataset, before) | {"needed": order.needed}, order.num_workers)
        descent = ordered(order, recipe, dataset.fingerprint, files.pushes, crew, watcher.message)
    with _full_disk_said(files), in_place(module), in_mode(module, training=True):
        # Before anything is replaced: what cannot be trained does not cost the run that is there.
        trainer = Trainer(
            recipe, module, dataset, device=device, workers=options.workers, world=world, descent=descent
        )
        trainer.convolutions = convolutions
        try:
            with files.locked() as held:
                if not held:
                    watcher.message(f"{files.root} cannot be locked: start no second process on it")
                how = {"resume": resume, "finish": finish, "force": force}
                return _until_done(trainer, dataset, files, facts, options, watcher, **how)
        finally:
            trainer.close()
            watcher.close()


def in_white_level(dataset: Dataset, recipe: Recipe) -> Dataset:
    """The images as the recipe's preprocessing has them."""
    level = recipe.preprocess.white_level
    return replace(dataset, splits={name: with_white_level(s, level) for name, s in dataset.splits.items()})


def _facts(
    recipe: Recipe,
    module: nn.Module,
    dataset: Dataset,
    options: Options,
    device: torch.device,
    budget: Budget | None,
) -> dict[str, Any]:
    """What run.json says of a run that begins."""
    decoder = region.status()
    if recipe.augment.crop == "resized" and holds_jpeg(dataset.splits["train"]):
        decoder += IN_TABLES
    return {
        "format": FORMAT,
        "recipe": recipe.to_json(),
        "versions": environment(device, native.status(), decoder),
        "data": _describe(dataset, find_task(dataset.task, dataset.classes), options.spec),
        "cost": _bill(module, recipe, dataset, device),
        "command": list(options.command),
        "resumes": [],
        "budget": budget and budget.to_json(),
        "launch": launch(),
    }


@contextmanager
def _full_disk_said(files: RunFiles) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not disk_full(error):
            raise
        raise DepthwiseError(
            f"no space is left for {files.root}: free some, then go on with: {going_on(files.root)}"
        ) from error


def _until_done(
    trainer: Trainer,
    dataset: Dataset,
    files: RunFiles,
    facts: dict[str, Any],
    options: Options,
    watcher: Watcher,
    **how: bool,
) -> Result:
    """`_carry_out`, again from the last checkpoint each time that the servers of an asynchronous run are lost."""
    losses, lost_at = 0, None
    while True:
        try:
            return _carry_out(trainer, dataset, files, facts, options, watcher, **how)
        except LostServerError as error:
            step = load_checkpoint(files.checkpoint).state["step"]
            losses, lost_at = losses + 1 if step == lost_at else 1, step
            if losses > MOST_LOSSES:
                raise DepthwiseError(
                    f"{error.args[0]}, as were {losses - 1} before it since the checkpoint of step {step}: go on from "
                    f"there with: {going_on(files.root)}"
                ) from None
            watcher.message(
                f"{error.args[0]}: the run goes on from the checkpoint of step {step}, with others"
            )
            how = {"resume": True, "finish": False, "force": False}


def _carry_out(
    trainer: Trainer,
    dataset: Dataset,
    files: RunFiles,
    facts: dict[str, Any],
    options: Options,
    watcher: Watcher,
    *,
    resume: bool,
    finish: bool,
    force: bool,
) -> Result:
    """Begin the run in `files`, or go on with it, to its end, or with `finish` only make what is made at the end."""
    checkpoint, changed, before = None, [], None
    if resume or finish:
        files.sweep()
        before = files.read_run()
        if not force:
            crops = "jpeg" not in before["versions"] and trainer.recipe.augment.crop == "resized"
            train = dataset.splits["train"]
            crops_jpeg = crops and (has_jpeg(train) or holds_jpeg(train))
            refuse_changes(files, before, facts, finish=finish, crops_jpeg=crops_jpeg)
        facts |= {"command": before["command"], "resumes": before.get("resumes", [])}
        facts |= {"budget": before.get("budget")}
        if finish:  # its recipe and versions are those of the training
            facts = {**before, "data": facts["data"]}
        if files.checkpoint.exists():  # or else the run was killed before its first
            checkpoint = load_checkpoint(files.checkpoint)
            changed = changed_recipe(files, before["recipe"], checkpoint, trainer, force=force)
        if finish:
            _refuse_finish(files, checkpoint.state["step"] if checkpoint else 0, trainer.total_steps)
    else:
        files.create(force=force)
        write_json(files.run, facts)
    files.write_bad_images(dataset.bad)
    with (
        StopRequest() as stop,
        Session(
            trainer,
            dataset,
            files,
            stop,
            watcher,
            workers=options.workers,
            checkpoint_minutes=options.checkpoint_minutes,
            checkpoint_steps=options.checkpoint_steps,
            checkpoint=checkpoint,
            budget=Budget.from_json(facts["budget"]) if facts.get("budget") else None,
        ) as session,
    ):
        world = trainer.world
        if not world.alone:
            for text in _remarks(trainer):
                watcher.message(text)
            world.lead(
                "train", wanted(trainer.recipe, dataset, before) | {"convolutions": facts["convolutions"]}
            )
            begin_alike(trainer)
        if finish:
            return finish_run(session, facts)
        if resume:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            facts["resumes"] += [vars(Resumed(tuple(options.command), now, trainer.step, tuple(changed)))]
            write_json(files.run, facts)
        if changed:
            watcher.message(f"goes on with another recipe: {'; '.join(changed)}")
            session.save()
        session.run()
        return finish_run(session, facts)


def _remarks(trainer: Trainer) -> Iterator[str]:
    """What a person should know of a training on several processes."""
    if trainer.recipe.reduction != "tree":
        yield "gradients are added by the framework's all-reduce: the bits depend on the number of processes"
    part = trainer.batches.batch_size // trainer.recipe.virtual_shards
    norms = any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in trainer.module.modules())
    if norms and part < FEW_IN_A_SHARD:
        yield (
            f"batch norm sees {number_of(part, 'image')} at a time, a batch of {trainer.batches.batch_size} in "
            f"{trainer.recipe.virtual_shards} parts: a larger batch_size gives it more, and mostly takes a larger "
            f"optimizer.lr, which nothing here changes by itself"
        )


def _refuse_finish(files: RunFiles, step: int, total: int) -> None:
    """Raise DepthwiseError if there is nothing to make a bundle of, or if it is made already."""
    if step == 0:
        raise DepthwiseError(
            f"{files.root} was stopped before its first update, there is nothing to finish: go on with --resume"
        )
    if _has_ended_at(files, step):
        raise DepthwiseError(
            f"{files.root} has the bundle and the report of its {step} updates of {total} already: look at "
            f"{files.report}, or train on with --resume" + ("" if step < total else " and a larger --epochs")
        )


def _has_ended_at(files: RunFiles, step: int) -> bool:
    """Whether the run has its report, and a whole bundle of this update; a damaged one is made anew."""
    try:
        return files.finished and read_bundle(files.bundle).config.training.get("steps") == step
    except DepthwiseError:
        return False


def choose_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is an accelerator if there is one, else the CPU. Of several GPUs torchrun's
    LOCAL_RANK says which one is this process's.

    Raises UsageError for one that is not there.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        name = found.type if found else "cpu"
    if name == "cuda" and (local := os.environ.get("LOCAL_RANK")):
        name = f"cuda:{local}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"device {name!r} cannot be used here ({reason}): take cpu, or auto") from None
    return device


def choose_precision(precision: str, device: torch.device) -> str:
    """The precision itself; for "auto" bfloat16 on an accelerator and on a CPU that computes in it, else float32."""
    if precision != "auto":
        return precision
    # AVX-512 without its bfloat16 instructions converts back and forth, which is slower than float32.
    fast = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"


def _describe(dataset: Dataset, task: Task, spec: str) -> dict[str, Any]:
    counts = {name: task.counts(split) for name, split in dataset.splits.items()}
    return {
        "spec": spec or dataset.name,
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "task": task.name,
        "classes": list(dataset.classes),
        "channels": dataset.channels,
        "split_source": dataset.split_source,
        "counts": counts,
        "seed": dataset.seed,
        "nested": dataset.nested,
        "bad": len(dataset.bad),
        "decoding": dataset.decoding.to_json(),
        "columns": dataset.columns and dataset.columns.to_json(),
        "ignored": list(dataset.ignored_kinds),
        "repeated": list(dataset.repeated),
    }


def _bill(module: nn.Module, recipe: Recipe, dataset: Dataset, device: torch.device) -> dict[str, Any]:
    """What the network costs. Raises UsageError if this machine has not the memory to train it so."""
    shape = recipe.preprocess.for_channels(dataset.channels).shape
    costs = cost(without_memory(module), shape)
    batch = min(recipe.batch_size, len(dataset.splits["train"]))
    # A quarter: bfloat16 halves what is counted in float32, and the native kernels keep less than PyTorch's own.
    needed, most = costs.training_bytes * batch // 4, machine_memory()
    if device.type == "cpu" and needed > most:
        size = "x".join(map(str, shape[1:]))
        raise UsageError(
            f"a batch of {batch:,} images of {size} takes {recipe.model} at least {needed / 1e9:,.0f} GB to train on, "
            f"and this machine has {most / 1e9:,.0f}: set a smaller batch_size (and accumulate), size or width"
        )
    return {"parameters": costs.parameters, "macs": costs.macs, "input_shape": list(shape)}
