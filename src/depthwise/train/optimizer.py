"""The optimisers and learning-rate schedules that recipes name, as plain values that build what they describe."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from depthwise.bounds import Bounds, check
from depthwise.errors import UsageError

Rate = Annotated[float, Bounds(0, 1e6)]
Decay = Annotated[float, Bounds(0, 1e3)]
Share = Annotated[float, Bounds(0, 1, below=True)]
Fraction = Annotated[float, Bounds(0, 1)]
Duration = Annotated[float, Bounds(0, 1e12)]


@dataclass(frozen=True)
class SGD:
    """Momentum SGD; `weight_decay` is L2 regularisation, added to the gradient."""

    lr: Rate = 0.1
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: Decay = 0.0

    def __post_init__(self) -> None:
        check(self, "optimizer")
        if self.nesterov and not self.momentum:
            raise UsageError(
                "optimizer.nesterov=True looks ahead along the momentum: give one above 0, as 0.9"
            )

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameter_groups(module, self.weight_decay),
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov 2019)."""

    lr: Rate = 1e-3
    beta1: Share = 0.9
    beta2: Share = 0.999
    eps: Annotated[float, Bounds(0, 1e3, above=True)] = 1e-8
    weight_decay: Decay = 0.01

    def __post_init__(self) -> None:
        check(self, "optimizer")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameter_groups(module, self.weight_decay),
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
        )


@dataclass(frozen=True)
class RMSprop:
    """RMSprop as TensorFlow has it, in which the papers' settings are given; see `TensorFlowRMSprop`."""

    lr: Rate = 1e-3
    momentum: Share = 0.9
    decay: Share = 0.9
    eps: Annotated[float, Bounds(0, 1e3, above=True)] = 1.0
    weight_decay: Decay = 0.0

    def __post_init__(self) -> None:
        check(self, "optimizer")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(module, self.weight_decay)
        return TensorFlowRMSprop(groups, self.lr, self.momentum, self.decay, self.eps)


Optimizer = SGD | AdamW | RMSprop


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """The trainable parameters in two groups: weights of convolutions and linear layers decay, all others do not.

    TF-slim, in which the papers' networks were trained, regularises exactly those; so do most recipes since.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class TensorFlowRMSprop(torch.optim.Optimizer):
    """RMSprop with epsilon inside the root and an accumulator that starts at one.

    mean_square <- decay * mean_square + (1 - decay) * g^2, from 1
    velocity    <- momentum * velocity + lr * g / sqrt(mean_square + eps)
    w           <- w - velocity

    `torch.optim.RMSprop` adds eps outside the root, starts at zero and multiplies by the learning rate last; with the
    eps of 1.0 that Inception V3 was trained with the two walk different ways.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float = 1e-3,
        momentum: float = 0.9,
        decay: float = 0.9,
        eps: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "decay": decay, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["mean_square"] = torch.ones_like(parameter)
            state["velocity"] = torch.zeros_like(parameter)
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        mean_square, velocity = state["mean_square"], state["velocity"]
        mean_square.mul_(group["decay"]).addcmul_(gradient, gradient, value=1 - group["decay"])
        velocity.mul_(group["momentum"])
        velocity.addcdiv_(gradient, (mean_square + group["eps"]).sqrt_(), value=group["lr"])
        parameter.sub_(velocity)


Unit = Literal["epochs", "steps", "samples"]


@dataclass(frozen=True)
class Clock:
    """How far a run is, in every unit that a schedule may count in, and how far it will go."""

    step: int
    steps_per_epoch: int
    samples_per_step: int
    total_steps: int

    def now(self, unit: Unit) -> float:
        """The position in `unit`s."""
        return self.step / self.steps_in_one(unit)

    def total(self, unit: Unit) -> float:
        """The whole run's length in `unit`s."""
        return self.total_steps / self.steps_in_one(unit)

    def steps_in_one(self, unit: Unit) -> float:
        """How many steps one `unit` takes."""
        return {"epochs": self.steps_per_epoch, "steps": 1, "samples": 1 / self.samples_per_step}[unit]


@dataclass(frozen=True)
class Constant:
    """The learning rate stays as it is, after a linear rise over `warmup` `unit`s."""

    warmup: Duration = 0.0
    unit: Unit = "epochs"

    def __post_init__(self) -> None:
        check(self, "schedule")

    def factor(self, clock: Clock) -> float:
        return _rise(self.warmup, self.unit, clock)


@dataclass(frozen=True)
class StepDecay:
    """The learning rate times `rate` after each full `every` `unit`s, as the paper's 0.94 every 2 epochs."""

    rate: Fraction = 0.94
    every: Annotated[float, Bounds(1e-6, 1e12)] = 2.0
    unit: Unit = "epochs"
    warmup: Duration = 0.0

    def __post_init__(self) -> None:
        check(self, "schedule")

    def factor(self, clock: Clock) -> float:
        return _rise(self.warmup, self.unit, clock) * self.rate ** math.floor(
            clock.now(self.unit) / self.every
        )


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 down to `final` at the end of the run, after a linear rise over `warmup` `unit`s."""

    final: Fraction = 0.0
    warmup: Duration = 0.0
    unit: Unit = "epochs"

    def __post_init__(self) -> None:
        check(self, "schedule")

    def factor(self, clock: Clock) -> float:
        down = (1 + math.cos(math.pi * _fraction_after(self.warmup, self.unit, clock))) / 2
        return _rise(self.warmup, self.unit, clock) * (self.final + (1 - self.final) * down)


@dataclass(frozen=True)
class Linear:
    """A straight line from 1 down to `final` at the end of the run, after a linear rise over `warmup` `unit`s."""

    final: Fraction = 0.0
    warmup: Duration = 0.0
    unit: Unit = "epochs"

    def __post_init__(self) -> None:
        check(self, "schedule")

    def factor(self, clock: Clock) -> float:
        down = 1 - _fraction_after(self.warmup, self.unit, clock)
        return _rise(self.warmup, self.unit, clock) * (self.final + (1 - self.final) * down)


Schedule = Constant | StepDecay | Cosine | Linear


def _rise(warmup: float, unit: Unit, clock: Clock) -> float:
    # The first step already moves: a rate of exactly zero would waste it.
    one_step = 1 / clock.steps_in_one(unit)
    return min(1.0, (clock.now(unit) + one_step) / (warmup + one_step)) if warmup > 0 else 1.0


def _fraction_after(warmup: float, unit: Unit, clock: Clock) -> float:
    # A run that ends within its warm-up rises to the end: nothing is left of it to fall in.
    after, length = clock.now(unit) - warmup, clock.total(unit) - warmup
    return min(1.0, after / length) if after > 0 and length > 0 else 0.0
