"""A Trainer with its run directory: lines of metrics, evaluations, checkpoints, and the way back after a stop."""

import copy
import hashlib
import json
import time
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import nn

from depthwise.data.dataset import Dataset, Split, val_split
from depthwise.doctor.case import Case
from depthwise.doctor.causes import Finding, diagnose
from depthwise.doctor.signals import Weights, moments
from depthwise.errors import DepthwiseError
from depthwise.evaluate.meters import finite
from depthwise.tasks import Task
from depthwise.train.budget import Budget
from depthwise.train.checkpoint import (
    Checkpoint,
    load_checkpoint,
    module_tensors,
    restore_module,
    save_checkpoint,
)
from depthwise.train.files import RunFiles, write_text
from depthwise.train.loop import Trainer, Window
from depthwise.train.record import known_lines, read_lines
from depthwise.train.selection import Best, Scores, candidates, ended_early, is_enough
from depthwise.train.signals import StopRequest
from depthwise.train.together import measure
from depthwise.train.world import ALONE, LostProcessError
from depthwise.words import going_on

SHOW_SECONDS = 2.0
"""How long a watcher waits for news where the lines of metrics are further apart."""


class Watcher(Protocol):
    """Who looks on while a run goes: a terminal's progress bar, a notebook, nobody."""

    def looking(self, done: int, total: int) -> None: ...

    def start(self, total_steps: int, start_step: int = 0, accuracy: str = "accuracy") -> None: ...

    def step(self, step: int, loss: float, accuracy: float, images_per_second: float) -> None: ...

    def evaluated(self, line: dict[str, Any]) -> None: ...

    def message(self, text: str) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Progress:
    """What a checkpoint keeps beside the Trainer's state: how far the files are, and the time so far.

    window_seconds: of it, since the last line of metrics and without evaluations. best, stale: see `Scores`.
    metrics_sha256: of the lines, "" from an older version.
    """

    num_lines: int = 0
    evaluated_step: int = -1
    seconds: float = 0.0
    window_seconds: float = 0.0
    best: dict[str, Any] | None = None
    stale: int = 0
    metrics_sha256: str = ""

    @property
    def scores(self) -> Scores:
        """What the evaluations came to."""
        return Scores(Best.from_json(self.best) if self.best else None, self.stale)


class Session:
    """One process's share of a run: from the start, or from the last checkpoint, to the end or to a stop."""

    def __init__(
        self,
        trainer: Trainer,
        dataset: Dataset,
        files: RunFiles,
        stop: StopRequest,
        watcher: Watcher,
        *,
        workers: int,
        checkpoint_minutes: float,
        checkpoint_steps: int,
        checkpoint: Checkpoint | None,
        budget: Budget | None = None,
    ) -> None:
        self.trainer, self.dataset, self.files = trainer, dataset, files
        self.stop, self.watcher = stop, watcher
        self.workers, self.budget = workers, budget
        self.checkpoint_minutes, self.checkpoint_steps = checkpoint_minutes, checkpoint_steps
        self.progress = Progress()
        self._moments = moments(trainer.total_steps, trainer.log_every, trainer.samples_per_step)
        self._digest = hashlib.sha256()
        self._writer: Any = None
        self._said: set[str] = set()
        if checkpoint:
            self._restore(checkpoint)
            self._said = {finding.cause for finding in self._findings()}
        self._started = self._saved = self._shown = time.monotonic()
        self._window_started = self._started - self.progress.window_seconds

    def __enter__(self) -> "Session":
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.watcher.message(
                "no events for TensorBoard are written, which is not installed: pip install 'depthwise[tensorboard]'"
            )
            return self
        # purge_step hides what an interrupted process wrote after its last checkpoint.
        self._writer = SummaryWriter(str(self.files.root), purge_step=self.trainer.step or None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()

    @property
    def seconds(self) -> float:
        """Time in all the run's processes, evaluations and checkpoints included."""
        return self.progress.seconds + time.monotonic() - self._started

    def final_weights(self) -> dict[str, nn.Module]:
        """What is measured in the end, with the recipe's choice, which the bundle gets, last."""
        if self.trainer.recipe.keep == "best" and self.progress.best:
            best = copy.deepcopy(self.trainer.module)
            restore_module("model", best, load_checkpoint(self.files.best).tensors)
            return {"best": best}
        kept = candidates(self.trainer.recipe)[0]
        return {
            **{kind: self.trainer.weights[kind] for kind in self.trainer.weights if kind != kept},
            kept: self.trainer.weights[kept],
        }

    @property
    def kept(self) -> dict[str, Any]:
        """Which weights the bundle gets: their kind, the step they are of, and of the best their validation."""
        recipe, best = self.trainer.recipe, self.progress.best
        if recipe.keep == "best" and best:
            return {**best, "selected_on": "val"}
        return {"step": self.trainer.step, "weights": candidates(recipe)[0]}

    @property
    def ended(self) -> bool:
        """Whether no update is left to do: the last is done, or the evaluations say that more would not help."""
        done = self.trainer.step >= self.trainer.total_steps
        return done or is_enough(self.trainer.recipe, self.progress.scores)

    def run(self) -> None:
        """Do what is left of the updates, and the evaluations and checkpoints that fall due on the way.

        Raises, after a checkpoint, KeyboardInterrupt when a stop was requested and LostProcessError.
        """
        try:
            self._run()
        except LostProcessError as error:
            self.trainer.undo()
            self.save()
            kept = f"nothing of the {self.trainer.step} updates is lost"
            raise LostProcessError(
                f"{error.args[0]}; {kept}, go on with: {going_on(self.files.root)}"
            ) from None

    def _run(self) -> None:
        trainer = self.trainer
        due = self._evaluation_steps()
        self.watcher.start(trainer.total_steps, trainer.step, trainer.task.hits_name)
        if trainer.step == 0:
            self.save()
        self.files.starting.unlink(missing_ok=True)
        while True:
            if trainer.step in due and self.progress.evaluated_step != trainer.step:
                self._evaluate()
            if self.ended:
                break
            self.answer_stop()
            signals = self._update()
            if trainer.line_is_due:
                self._log_window()
                if signals:
                    self.write_line("health", signals)
                    self.say_findings()
            elif time.monotonic() - self._shown >= SHOW_SECONDS:
                self._show(trainer.window)
            if self._save_is_due():
                self.save()
        if trainer.window.samples:  # of a run that ended early
            self._log_window()
        self.save()
        if text := ended_early(
            trainer.recipe, trainer.task.headline, self.progress.scores, trainer.step, trainer.total_steps
        ):
            self.watcher.message(text)

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        window_seconds = time.monotonic() - self._window_started
        now = replace(
            self.progress,
            seconds=self.seconds,
            window_seconds=window_seconds,
            metrics_sha256=self._digest.hexdigest(),
        )
        state = {"progress": vars(now), "recipe": self.trainer.recipe.to_json()}
        save_checkpoint(self.files.checkpoint, self.trainer.checkpoint(state))
        self._saved = time.monotonic()
        if self.files.next_best.exists():
            self.files.next_best.replace(self.files.best)

    def answer_stop(self, *_: Any) -> None:
        """If a stop was requested: save, and raise KeyboardInterrupt. Also an evaluation's callback: a checkpoint
        inside it is one from before it."""
        if self.stop.requested or self.trainer.world.stop_asked:
            self.save()
            self.trainer.world.lead("stop")
            raise KeyboardInterrupt(
                f"stopped at step {self.trainer.step} of {self.trainer.total_steps}, nothing is lost; go on with: "
                f"{going_on(self.files.root)}"
            )

    def measure(self, split: Split, module: nn.Module, precision: str, task: Task | None = None) -> Any:
        """What `module` is worth on `split`: an evaluation of the task's own kind."""
        return measure(
            self.trainer,
            self.dataset,
            split,
            module,
            (task or self.trainer.task).meters(),
            precision=precision,
            workers=self.workers,
            progress=self.answer_stop,
        )

    def let_go(self, values: dict[str, Any]) -> None:
        """Tell the other processes what the run came to; this one does the rest alone."""
        self.trainer.world.lead("end", values)
        self.trainer.world = ALONE

    def write_line(self, kind: str, values: dict[str, Any]) -> dict[str, Any]:
        """Append a line to metrics.jsonl and its numbers to TensorBoard's events."""
        clock = self.trainer.clock
        position = {
            "step": clock.step,
            "epoch": round(clock.now("epochs"), 6),
            "samples": int(clock.now("samples")),
            **self.trainer.descent.position,
        }
        line = {"kind": kind, **position, "seconds": round(self.seconds, 3), **values}
        text = json.dumps(line) + "\n"
        with self.files.metrics.open("a", encoding="utf-8") as file:
            file.write(text)
        self._digest.update(text.encode())
        self.progress = replace(self.progress, num_lines=self.progress.num_lines + 1)
        prefix = "/".join(line[key] for key in ("kind", "split", "weights") if key in line)
        for name, value in values.items():
            if self._writer and isinstance(value, float):
                self._writer.add_scalar(f"{prefix}/{name}", value, clock.step)
        return line

    def say_findings(self) -> None:
        """Tell the watcher what seems to be wrong with the run, each cause once."""
        for finding in self._findings():
            if finding.cause not in self._said:
                self.watcher.message(finding.sentence)
            self._said.add(finding.cause)

    def _findings(self) -> list[Finding]:
        trainer = self.trainer
        return diagnose(
            Case(
                root=self.files.root,
                recipe=trainer.recipe.to_json(),
                counts=trainer.counts,
                task=trainer.task.name,
                headline=trainer.task.headline,
                lines=read_lines(self.files.metrics),
            )
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        try:
            self.progress = Progress(**checkpoint.state["progress"])
            self.trainer.restore(checkpoint)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DepthwiseError(
                f"{self.files.checkpoint} does not fit the network and the recipe in {self.files.run} ({reason:.200}): "
                f"put back the files that belong together, or start anew with --force"
            ) from None
        # Lines that an interrupted process wrote after its last checkpoint will be written again.
        metrics = self.files.metrics
        text = known_lines(metrics, self.progress.num_lines, self.progress.metrics_sha256)
        self._digest.update(text.encode())
        write_text(metrics, text)
        if self.trainer.recipe.keep == "best" and self.progress.best:
            self._restore_best(self.progress.best)

    def _restore_best(self, best: dict[str, Any]) -> None:
        """Leave in files.best what the checkpoint calls the best; a kill may have come just before or after it."""
        for path in (self.files.next_best, self.files.best):
            if path.exists() and load_checkpoint(path).state == best:
                path.replace(self.files.best)
                self.files.next_best.unlink(missing_ok=True)
                return
        raise DepthwiseError(
            f"{self.files.best} does not hold the weights of step {best['step']}, the best so far: put the file back, "
            f"or go on without it with --set keep=last --force"
        )

    def _evaluation_steps(self) -> set[int]:
        trainer = self.trainer
        every = trainer.evaluation_steps
        count = int(trainer.total_steps / every)
        return {max(1, round(i * every)) for i in range(1, count + 1)} | {trainer.total_steps}

    def _save_is_due(self) -> bool:
        if self.checkpoint_steps and self.trainer.step % self.checkpoint_steps == 0:
            return True
        return time.monotonic() - self._saved >= self.checkpoint_minutes * 60 > 0

    def _evaluate(self) -> None:
        began = time.monotonic()
        self.trainer.settle()
        name, split = val_split(self.dataset)
        # Both are measured before either is written: an interrupted evaluation leaves no line, and is done again.
        measured = {
            weights: self.measure(split, module, self.trainer.recipe.precision)
            for weights, module in self.trainer.weights.items()
        }
        scores = self.progress.scores.after(
            self.trainer.step,
            {kind: self.trainer.task.headline.of(evaluation) for kind, evaluation in measured.items()},
            self.trainer.recipe,
        )
        best = scores.best.to_json(self.trainer.task.headline.key) if scores.best else None
        if best and best != self.progress.best and self.trainer.recipe.keep == "best":
            tensors = module_tensors("model", self.trainer.weights[best["weights"]])
            save_checkpoint(self.files.next_best, Checkpoint(best, tensors))
        for weights, evaluation in measured.items():
            values = {"split": name, "weights": weights, **evaluation.numbers}
            self.watcher.evaluated(self.write_line("eval", values))
        self.progress = replace(
            self.progress, evaluated_step=self.trainer.step, best=best, stale=scores.stale
        )
        self._window_started += time.monotonic() - began

    def _update(self) -> dict[str, float | None]:
        """Do an update; at a moment for it, what was seen of the network."""
        if self.trainer.step + 1 not in self._moments:
            self.trainer.update()
            return {}
        self.trainer.settle()
        weights = Weights(self.trainer.module)
        self.trainer.update()
        began = time.monotonic()
        self.trainer.settle()
        seen = weights.movement() | (self.trainer.look(batch) if (batch := self.trainer.first) else {})
        self._window_started += time.monotonic() - began
        return {
            "total_steps": self.trainer.total_steps,
            **{name: finite(value) for name, value in seen.items()},
        }

    def _log_window(self) -> None:
        lr = self.trainer.last_lr
        try:
            window = self.trainer.take_window()
        except DepthwiseError:
            self.write_line("health", {"total_steps": self.trainer.total_steps, "lost": self.trainer.step})
            self.say_findings()
            raise
        rate = self._show(window)
        self._window_started = time.monotonic()
        values = {
            "loss": window.loss,
            "accuracy": window.accuracy,
            "lr": lr,
            "images_per_second": round(rate, 2),
            **self.trainer.descent.take_window(),
        }
        self.write_line("train", values)
        recipe = self.trainer.recipe
        if self.budget and (text := self.budget.slowness(recipe, self.trainer.clock, self.seconds)):
            self.watcher.message(text)
            self.budget = None  # said once

    def _show(self, window: Window) -> float:
        """Tell the watcher; the images per second since the window began."""
        self._shown = time.monotonic()
        rate = window.samples / max(self._shown - self._window_started, 1e-9)
        self.watcher.step(self.trainer.step, window.loss, window.accuracy, rate)
        return rate
