"""The training loop: one update after another, each a function of the state before it and of its own number."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthwise.data.dataset import Dataset, Split
from depthwise.data.loader import Batch, Batches
from depthwise.data.order import mix_seed
from depthwise.doctor.signals import MOST_IMAGES, View, examine, structure
from depthwise.errors import DepthwiseError, DivergedError
from depthwise.tasks import Task, find_task
from depthwise.train.average import PolyakAverage
from depthwise.train.checkpoint import (
    Checkpoint,
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
)
from depthwise.train.optimizer import Clock
from depthwise.train.recipe import Recipe

EVALUATION_BATCH = 250

LEAST_LINES = 100
"""Lines of metrics that a run leaves however short it is, if it has as many updates."""


@dataclass(frozen=True)
class Window:
    """What the updates since the last line of metrics came to; `loss` is what they minimised, smoothing and class
    weights included, and `accuracy` the share of images answered right."""

    loss: float
    accuracy: float
    samples: int


class Trainer:
    """A network on its way through a recipe; knows nothing of files, clocks or terminals.

    `step` counts updates done, `log_every` those from one line of metrics to the next. Update s of epoch e draws its
    batches, augmentation and dropout from (seed, e, s) alone, so a Trainer restored from a checkpoint goes on bit for
    bit as the one that wrote it would have.
    """

    def __init__(
        self, recipe: Recipe, module: nn.Module, dataset: Dataset, *, device: torch.device, workers: int = 0
    ) -> None:
        self.recipe, self.device = recipe, device
        self.module = module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        train = dataset.splits["train"]
        self.task = find_task(dataset.task, dataset.classes)
        self.batches = Batches(
            train,
            recipe.preprocess.for_channels(dataset.channels),
            batch_size=min(recipe.batch_size, len(train)),
            seed=recipe.seed,
            augment=recipe.augment,
            prepare=self.task.prepare(recipe.augment),
            workers=workers,
        )
        self.steps_per_epoch = len(self.batches) // recipe.accumulate
        if not self.steps_per_epoch:
            raise DepthwiseError(
                f"accumulate={recipe.accumulate} is more than the {len(self.batches)} batches of an epoch: lower it"
            )
        self.samples_per_step = self.batches.batch_size * recipe.accumulate
        self.total_steps = recipe.total_steps(self.steps_per_epoch, self.samples_per_step)
        self.log_every = min(recipe.log_every, max(1, self.total_steps // LEAST_LINES))
        self.step = 0
        recipe.check_evaluations(self.total_steps / self.evaluation_steps)
        _prepare(self.module, recipe)
        self.optimizer = recipe.optimizer.build(self.module)
        self.average = PolyakAverage(self.module, recipe.averaging) if recipe.averaging else None
        self._forward = torch.compile(self.module) if recipe.compile else self.module
        self._objective = self.task.objective(
            train,
            device,
            loss=recipe.loss,
            label_smoothing=recipe.label_smoothing,
            class_weights=recipe.class_weights,
        )
        self.counts = self.task.counts(train)
        self._guess = _guess(self.task, train, self.counts, recipe.class_weights)
        self._window = torch.zeros(3, device=device)
        self._stream: Iterator[list[Batch]] | None = None

    @property
    def clock(self) -> Clock:
        """Where the run is."""
        return Clock(self.step, self.steps_per_epoch, self.samples_per_step, self.total_steps)

    @property
    def evaluation_steps(self) -> float:
        """Updates from one evaluation to the next."""
        return self.recipe.eval_every * self.clock.steps_in_one(self.recipe.eval_unit)

    @property
    def line_is_due(self) -> bool:
        """Whether a line of metrics follows this update; the curves begin with the first and end with the last."""
        return self.step in (1, self.total_steps) or self.step % self.log_every == 0

    @property
    def last_lr(self) -> float:
        """The learning rate of the last update."""
        return self.optimizer.param_groups[0]["lr"]

    def update(self) -> Batch | None:
        """Do one update of the weights; the images of its first pass, None if not one of them could be read."""
        self._stream = self._stream or self._passes()
        passes = next(self._stream)
        torch.manual_seed(mix_seed(self.recipe.seed, self.step, "dropout"))
        self._train_mode()
        self.optimizer.zero_grad()
        passes = [batch for batch in passes if len(batch.targets)]  # 0 where no file of it could be read
        normalisers = [self._objective.normaliser(batch.targets) for batch in passes]
        whole, samples = sum(normalisers), sum(len(batch.targets) for batch in passes)
        for batch, normaliser in zip(passes, normalisers, strict=True):
            self._pass(batch, normaliser / whole, samples)
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.recipe.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.optimizer.lr * self.recipe.schedule.factor(self.clock)
        self.optimizer.step()
        self.step += 1
        if self.average:
            self.average.update(self.step)
        return passes[0] if passes else None

    def look(self, batch: Batch) -> dict[str, float]:
        """What the network as it is makes of a few images of a `batch`; see `doctor/signals.py`."""
        view = View(
            loss=self._objective.mean,
            hits=self.task.hits,
            answers=self._answers,
            guess=self._guess,
            precision=self._precision,
            norms_learn=not self.recipe.freeze,
        )
        images, targets = (part[:MOST_IMAGES].to(self.device) for part in (batch.images, batch.targets))
        return structure(self.module) | examine(self.module, images, targets, view)

    @property
    def window(self) -> Window:
        """What the updates since the last `take_window` came to; on a GPU this waits for the last of them."""
        loss, hits, samples = self._window.tolist()
        return Window(loss / max(samples, 1), hits / max(samples, 1), int(samples))

    def restart_window(self) -> None:
        """Let the window begin anew, whatever it came to."""
        self._window.zero_()

    def take_window(self) -> Window:
        """The window, which then begins anew. Raises DivergedError if the loss is not finite any more."""
        window = self.window
        self.restart_window()
        if not math.isfinite(window.loss):
            raise DivergedError(
                f"the loss became {window.loss} before step {self.step}: train anew with a lower optimizer.lr, a "
                f"warm-up or clip_norm=1"
            )
        return window

    def checkpoint(self, state: dict[str, Any]) -> Checkpoint:
        """Everything that the rest of the run depends on, with the caller's own `state`."""
        tensors = module_tensors("model", self.module) | optimizer_tensors(self.optimizer, self.module)
        if self.average:
            tensors |= module_tensors("averaged", self.average.module)
        return Checkpoint({**state, "step": self.step}, {**tensors, "window": self._window})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back, or forward, to where `checkpoint` was taken."""
        restore_module("model", self.module, checkpoint.tensors)
        restore_optimizer(self.optimizer, self.module, checkpoint.tensors)
        if self.average:
            restore_module("averaged", self.average.module, checkpoint.tensors)
        self._window.copy_(checkpoint.tensors["window"])
        self.step = checkpoint.state["step"]
        self._stream = None

    def _passes(self) -> Iterator[list[Batch]]:
        accumulate = self.recipe.accumulate
        while True:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            stream = self.batches.epoch(epoch, done * accumulate)
            for _ in range(self.steps_per_epoch - done):
                yield [next(stream) for _ in range(accumulate)]

    def _pass(self, batch: Batch, share: float, samples_in_update: int) -> None:
        """Add the gradient of a batch's loss times `share`, its part in the update's."""
        images = batch.images.to(self.device, non_blocking=True)
        targets = batch.targets.to(self.device, non_blocking=True)
        with self._precision():
            output = self._forward(images)
        answer, loss = self._loss(output, targets)
        (loss * share).backward()
        with torch.no_grad():
            hits = self.task.hits(answer, targets)
            self._window += torch.stack(
                [loss * (share * samples_in_update), hits, torch.full_like(loss, len(targets))]
            )

    def _loss(self, output: Tensor | tuple[Tensor, ...], targets: Tensor) -> tuple[Tensor, Tensor]:
        """What the network answers, and its loss, with those of auxiliary towers."""
        if isinstance(output, Tensor):
            return output, self._objective.mean(output, targets)
        answer, *towers = output
        loss = self._objective.mean(answer, targets)
        aside = sum(self._objective.mean(tower, targets) for tower in towers)
        return answer, loss + self.module.aux_weight * aside

    def _answers(self, output: Tensor) -> int:
        """How many different ones images get, by what is likeliest of each."""
        return len(
            {tuple(self.task.choose(each, 1, None)) for each in self.task.answer(output.float()).cpu()}
        )

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16")

    def _train_mode(self) -> None:
        self.module.train()
        if self.recipe.freeze:
            for part in self.module.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()


def for_evaluation(recipe: Recipe, dataset: Dataset, task: Task, split: Split, workers: int) -> Batches:
    """The images of a `split` in order, as the evaluations of a run by `recipe` read them."""
    return Batches(
        split,
        recipe.preprocess.for_channels(dataset.channels),
        batch_size=max(recipe.batch_size, EVALUATION_BATCH if recipe.preprocess.size[0] <= 64 else 0),
        workers=workers,
        prepare=task.prepare(None),
    )


def _guess(task: Task, train: Split, counts: list[int], class_weights: str) -> Tensor | None:
    """float32 [K]: the output for every image of who knows the frequencies of `train` and no more; None of a task whose
    outputs are not its classes."""
    if (bias := task.initial_bias(train)) is None:
        bias = (torch.tensor(counts).float().clamp(min=0.5) / max(1, len(train))).log()
    if len(bias) != task.num_outputs:
        return None
    return torch.zeros_like(bias) if class_weights == "balanced" else bias


def _prepare(module: nn.Module, recipe: Recipe) -> None:
    if recipe.freeze:
        module.requires_grad_(False)
        module.classifier.requires_grad_(True)
    if recipe.norm_momentum is not None:
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.momentum = recipe.norm_momentum
