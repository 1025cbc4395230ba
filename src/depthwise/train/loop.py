"""The training loop: one update after another, each a function of the state before it and of its own number."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthwise.data.dataset import Dataset, Split
from depthwise.data.loader import Batch, Batches
from depthwise.data.order import mix_seed
from depthwise.doctor.signals import MOST_IMAGES, View, examine, structure
from depthwise.errors import DepthwiseError, DivergedError, UsageError
from depthwise.gpu.choice import FRAMEWORK
from depthwise.modes import to_train
from depthwise.tasks import Task, find_task
from depthwise.train.average import PolyakAverage
from depthwise.train.checkpoint import (
    Checkpoint,
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
)
from depthwise.train.descent import Descent, Passes, Synchronous
from depthwise.train.optimizer import Clock
from depthwise.train.recipe import Recipe
from depthwise.train.sums import ShardSums
from depthwise.train.update import Update
from depthwise.train.world import ALONE, World, shares
from depthwise.words import number_of

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
        self,
        recipe: Recipe,
        module: nn.Module,
        dataset: Dataset,
        *,
        device: torch.device,
        workers: int = 0,
        world: World = ALONE,
        descent: Descent | None = None,
    ) -> None:
        self.descent: Descent = descent or Synchronous()
        self.recipe, self.device, self.convolutions = recipe, device, FRAMEWORK
        self.module = module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        train = dataset.splits["train"]
        self.task = find_task(dataset.task, dataset.classes)
        self.world, num_shards = world, recipe.virtual_shards or 1
        batch_size = min(recipe.batch_size, len(train))
        if batch_size < num_shards:
            raise UsageError(
                f"virtual_shards={num_shards} cut a batch of {number_of(batch_size, 'image')}: take a larger batch_size"
            )
        share = shares(num_shards, world.size)[world.rank]
        self.shards = range(share.first, share.first + share.count)
        self.batches = Batches(
            train,
            recipe.preprocess.for_channels(dataset.channels),
            batch_size=batch_size,
            seed=recipe.seed,
            augment=recipe.augment,
            prepare=self.task.prepare(recipe.augment),
            workers=workers,
            num_shards=num_shards,
            shards=self.shards,
        )
        passes = self.descent.needed * recipe.accumulate
        self.steps_per_epoch = len(self.batches) // passes
        if not self.steps_per_epoch:
            needs = f"accumulate={recipe.accumulate} is"
            if self.descent.needed > 1:
                needs = f"{self.descent.needed} workers with accumulate={recipe.accumulate} need"
            raise DepthwiseError(f"{needs} more than the {len(self.batches)} batches of an epoch: lower it")
        self.samples_per_step = self.batches.batch_size * passes
        self.total_steps = recipe.total_steps(self.steps_per_epoch, self.samples_per_step)
        self.log_every = min(recipe.log_every, max(1, self.total_steps // LEAST_LINES))
        self.step = 0
        recipe.check_evaluations(self.total_steps / self.evaluation_steps)
        _prepare(self.module, recipe)
        to_train(self.module, norms=not recipe.freeze)
        self.optimizer = recipe.optimizer.build(self.module)
        self.average = PolyakAverage(self.module, recipe.averaging) if recipe.averaging else None
        self._update = Update(self.module, self.optimizer, self.average)
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
        self._sums = (
            ShardSums(self.module, num_shards, world, all_reduce=recipe.reduction == "all-reduce")
            if num_shards > 1
            else None
        )

    @property
    def clock(self) -> Clock:
        """Where the run is."""
        return Clock(self.step, self.steps_per_epoch, self.samples_per_step, self.total_steps)

    @property
    def weights(self) -> dict[str, nn.Module]:
        """The network as trained, and its average if the recipe has one: what is evaluated on the way."""
        return {"raw": self.module} | ({"averaged": self.average.module} if self.average else {})

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

    def update(self) -> None:
        """Do one update of the weights."""
        if self.world.rank == 0:
            self.world.lead("update")
        self.descent.update(self)

    @property
    def first(self) -> Batch | None:
        """The images of the last update's first pass; None if not one of them could be read."""
        return self.descent.first(self)

    def settle(self) -> None:
        """Have, in the network and beside it, the state after the last update, wherever that was done."""
        self.descent.settle(self)

    def passes(self, batches: Sequence[int]) -> Iterator[tuple[int, Passes]]:
        """The images of each of `batches`, numbers of gradients from 0 on in the run, with that number.

        Only the last stream that was begun may be read.
        """
        accumulate, needed, held = self.recipe.accumulate, self.descent.needed, len(self.shards)

        def places() -> Iterator[tuple[int, int]]:
            for batch in batches:
                epoch, place = divmod(batch, self.steps_per_epoch * needed)
                yield from ((epoch, place * accumulate + number) for number in range(accumulate))

        stream = self.batches.at(places())
        for batch in batches:
            yield batch, [[next(stream) for _ in range(held)] for _ in range(accumulate)]

    def apply(self, rate: float = 1.0, *, max_norm: float = 0.0) -> None:
        """Take a step along the gradients, clipped to `max_norm` unless 0, at `rate` times the learning rate."""
        self.next_lr(rate)
        self._update.apply(self.step + 1, max_norm)
        self.step += 1

    def clip(self) -> None:
        """Clip the gradients that the parameters have, as the recipe says."""
        self._update.clip(self.recipe.clip_norm)

    def next_lr(self, rate: float = 1.0) -> float:
        """The learning rate of the next update, which is the last one from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.optimizer.lr * self.recipe.schedule.factor(self.clock) * rate
        return self.last_lr

    def undo(self) -> None:
        """After an update that was broken off: the network as it was before, which no gradient has moved yet."""
        if self._sums:
            self._sums.undo()

    def close(self) -> None:
        """End what works for the training, and let the module be without it."""
        self.batches.close()
        self.descent.close()
        if self._sums:
            self._sums.close()

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

    @property
    def totals(self) -> Tensor:
        """float32 [3], what the window is made of: losses, summed over images, hits, and images."""
        return self._window

    def count(self, totals: Tensor) -> None:
        """Let the window have another trainer's `totals`, too."""
        self._window += totals.to(self.device)

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
        self.settle()
        tensors = module_tensors("model", self.module) | optimizer_tensors(self.optimizer, self.module)
        if self.average:
            tensors |= module_tensors("averaged", self.average.module)
        further = self.descent.checkpoint()
        return Checkpoint(
            {**state, **further.state, "step": self.step},
            {**tensors, **further.tensors, "window": self._window},
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back, or forward, to where `checkpoint` was taken."""
        self.put(checkpoint.tensors)
        self._window.copy_(checkpoint.tensors["window"])
        self.step = checkpoint.state["step"]
        self.descent.restore(self, checkpoint)

    def put(self, tensors: dict[str, Tensor]) -> None:
        """Have the weights, averages and slots of a checkpoint's `tensors`."""
        restore_module("model", self.module, tensors)
        restore_optimizer(self.optimizer, self.module, tensors)
        if self.average:
            restore_module("averaged", self.average.module, tensors)

    def gradient(self, drawn: Sequence[tuple[int, Passes]]) -> Batch | None:
        """Let the parameters have the gradient, at the weights as they are, of the mean loss over what `passes` gave;
        of its images here, the first pass's.

        Batch norm's running statistics move, and the window counts it. Dropout follows from the seed and the number.
        """
        numbers = [(batch, shard) for batch, _ in drawn for shard in self.shards]
        # Without those of which no file could be read.
        shards = [
            [batch for batch in shard if len(batch.targets)]
            for _, passes in drawn
            for shard in zip(*passes, strict=True)
        ]
        normalisers = [[self._objective.normaliser(batch.targets) for batch in shard] for shard in shards]
        own = [
            (sum(n), sum(len(batch.targets) for batch in s)) for n, s in zip(normalisers, shards, strict=True)
        ]
        sums = self.world.numbers([number for pair in own for number in pair])
        whole, samples = sum(sums[::2]), sum(sums[1::2])
        if not self.module.training:
            to_train(self.module, norms=not self.recipe.freeze)
        self.optimizer.zero_grad()
        if self._sums:
            self._sums.begin_update()
        for (place, number), batches, theirs in zip(numbers, shards, normalisers, strict=True):
            parts = [(batch, normaliser / whole) for batch, normaliser in zip(batches, theirs, strict=True)]
            self._shard(place, number, parts, samples)
        if self._sums:
            self._window.copy_(self._sums.finish())
        return next((batch for shard in shards for batch in shard), None)

    def weight(self, passes: Passes) -> float:
        """What the mean loss over what `passes` gave is divided by."""
        read = (batch for shards in passes for batch in shards if len(batch.targets))
        return float(sum(self._objective.normaliser(batch.targets) for batch in read))

    def _shard(self, place: int, number: int, parts: list[tuple[Batch, float]], samples: float) -> None:
        """Add the gradient of a shard: of each of its batches' losses, times its part in the update's."""
        seed = mix_seed(self.recipe.seed, place, "dropout", *([number] if number else []))
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":  # torch.manual_seed asks for every kind of device, which takes its time
            torch.get_device_module(self.device).manual_seed(seed)
        window = self._window
        if self._sums:
            self._sums.begin(number)
            window = torch.zeros_like(window) if number else window.clone()
        for place, (batch, share) in enumerate(parts, start=1):
            if self._sums and place == len(parts):
                self._sums.last_pass()
            self._pass(batch, share, samples, window)
        if self._sums:
            self._sums.end(window)

    def _pass(self, batch: Batch, share: float, samples: float, window: Tensor) -> None:
        """Add the gradient of a batch's loss times `share`; `samples` are the images of the update."""
        images, targets = (part.to(self.device, non_blocking=True) for part in (batch.images, batch.targets))
        with self.convolutions.in_use():
            with self._precision():
                output = self._forward(images)
            answer, loss = self._loss(output, targets)
            (loss * share).backward()
        with torch.no_grad():
            hits = self.task.hits(answer, targets)
            window += torch.stack([loss * (share * samples), hits, torch.full_like(loss, len(targets))])

    def _loss(self, output: Tensor | tuple[Tensor, ...], targets: Tensor) -> tuple[Tensor, Tensor]:
        """What the network answers, and its loss, with those of auxiliary towers."""
        if isinstance(output, Tensor):
            return output, self._objective.mean(output, targets)
        loss, *aside = (self._objective.mean(one, targets) for one in output)
        return output[0], loss + self.module.aux_weight * sum(aside)

    def _answers(self, output: Tensor) -> int:
        """How many different ones images get, by what is likeliest of each."""
        answers = self.task.answer(output.float()).cpu()
        return len({tuple(self.task.choose(each, 1, None)) for each in answers})

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16")


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
    if recipe.recompute:
        recompute = getattr(module, "set_grad_checkpointing", None)
        if recompute is None:
            raise UsageError(
                f"recompute=true needs a network that has set_grad_checkpointing, and {type(module).__name__} has not: "
                f"take one of the catalogue, or leave it out"
            )
        recompute()
    if recipe.norm_momentum is not None:
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.momentum = recipe.norm_momentum
