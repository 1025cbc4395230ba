"""An update of the weights: gradients are clipped, the optimiser takes its step, the average follows.

On a CPU all this is one reading of memory where the kernels apply, to the bits that PyTorch's operators have (but for
square roots, see native/update.h). Elsewhere, and where somebody watches the optimiser by hooks, each part is done by
itself.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from depthwise.native.update import Rates, Row, Table, in_use
from depthwise.train.average import PolyakAverage
from depthwise.train.optimizer import TensorFlowRMSprop

Group = Mapping[str, Any]
"""One of an optimiser's `param_groups`."""


class Update:
    """Does the updates of a module by an optimiser of its parameters, and of its average if there is one."""

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, average: PolyakAverage | None = None
    ) -> None:
        self._optimizer, self._average = optimizer, average
        self._parameters = [*module.parameters()]
        self._table: Table | None = None
        self._known: list[object] = []

    def apply(self, number: int, max_norm: float = 0.0) -> None:
        """Do update `number`, counted from 1, by the gradients that the parameters have.

        Gradients of a larger norm than `max_norm` are clipped to it, 0: none are.
        """
        if self._at_once(number, max_norm):
            return
        self.clip(max_norm)
        self._optimizer.step()
        if self._average:
            self._average.update(number)

    def clip(self, max_norm: float) -> None:
        """Clip the gradients to `max_norm`, 0: do not."""
        if max_norm:
            nn.utils.clip_grad_norm_(self._parameters, max_norm)

    @torch.no_grad()
    def _at_once(self, number: int, max_norm: float) -> bool:
        """The same in one pass; False, with nothing done, where it cannot be."""
        rule, groups = _RULES.get(type(self._optimizer)), self._optimizer.param_groups
        if rule is None or not in_use() or _is_watched(self._optimizer) or not all(map(rule.applies, groups)):
            return False
        gradients = [parameter.grad for group in groups for parameter in group["params"]]
        table = self._table_for(rule, gradients)
        if table is None or not table.take(gradients):
            return False
        clip = 1.0
        if max_norm:
            given = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
            if len(given) != sum(gradient is not None for gradient in gradients):
                return False  # one is clipped with the others and is not the optimiser's
            clip = _clip_factor(given, max_norm)
        follow = 1 - self._average.decay_of(number) if self._average else 0.0
        table.run([rule.rates(group) for group in groups], clip=clip, follow=follow)
        for row in table.rows:
            if row.begins:
                new = {name: getattr(row, slot.field) for name, slot in rule.slots.items()}
                self._optimizer.state[row.weight].update(new)
        if self._average:
            self._average.copy_counters()
        return True

    def _table_for(self, rule: "_Rule", gradients: Sequence[Tensor | None]) -> Table | None:
        """What moves by such gradients; made anew only if a tensor was replaced, None if the kernel cannot move it."""
        learning = [*self._learning(rule, gradients)]
        known: list[object] = [
            part for _, parameter, slots, begins in learning for part in (parameter, *slots, begins)
        ]
        same = len(known) == len(self._known) and all(map(operator.is_, known, self._known))
        if not same or (self._table and not self._table.holds()):
            rows = self._rows(rule, learning)
            self._table = Table(rule.name, rows) if rows and all(row.suits() for row in rows) else None
            self._known = known
        return self._table

    def _learning(
        self, rule: "_Rule", gradients: Sequence[Tensor | None]
    ) -> Iterator[tuple[int, Tensor, list[Tensor | None], bool]]:
        """The number of its group, each parameter of the optimiser, its slots, and whether they are still to begin."""
        place, state = iter(gradients), self._optimizer.state
        for number, group in enumerate(self._optimizer.param_groups):
            names = rule.names(group)
            for parameter in group["params"]:
                kept = state.get(parameter) or {}
                slots = [kept.get(name) for name in names]
                lacking = next(place) is not None and bool(names) and all(slot is None for slot in slots)
                yield number, parameter, slots, lacking

    def _rows(
        self, rule: "_Rule", learning: Sequence[tuple[int, Tensor, list[Tensor | None], bool]]
    ) -> list[Row] | None:
        """What moves; None if some of a parameter's slots are there and some are not, which its optimiser may know."""
        averages = {id(now): averaged for averaged, now in self._average.pairs} if self._average else {}
        rows = []
        for number, parameter, slots, begins in learning:
            fields = [slot.field for slot in rule.slots.values()]
            if begins:
                slots = [slot.make(parameter) for slot in rule.slots.values()]
            elif len({slot is None for slot in slots}) > 1:
                return None
            found = dict(zip(fields, slots, strict=bool(slots)))
            average = averages.pop(id(parameter), None)
            rows.append(Row(parameter, True, number, average=average, begins=begins, **found))
        pairs = self._average.pairs if self._average else []
        return rows + [Row(now, average=averaged) for averaged, now in pairs if id(now) in averages]


@dataclass(frozen=True)
class _Slot:
    """The field in which the kernel takes a slot, and what makes one for a parameter."""

    field: str
    make: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Rule:
    """How the kernel does an optimiser's step.

    slots: by their names in the optimiser's state, in its order. rates: a group's. numbers, flags: those of a group's
    settings that have to be plain numbers, and those that have to be unset.
    """

    name: str
    slots: Mapping[str, _Slot]
    rates: Callable[[Group], Rates]
    numbers: tuple[str, ...]
    flags: tuple[str, ...] = ()

    def applies(self, group: Group) -> bool:
        """Whether the kernel knows all that the group asks for."""
        numbers = [*map(group.__getitem__, self.numbers), *group.get("betas", ())]
        return all(isinstance(number, float | int) for number in numbers) and not any(
            map(group.get, self.flags)
        )

    def names(self, group: Group) -> tuple[str, ...]:
        """The slots that are used: SGD has none without momentum."""
        return () if self.name == "sgd" and not group["momentum"] else tuple(self.slots)


_BY_ITSELF = ("maximize", "foreach", "differentiable", "fused", "capturable", "amsgrad", "dampening")

_RULES: Mapping[type, _Rule] = {
    torch.optim.SGD: _Rule(
        "sgd",
        {"momentum_buffer": _Slot("first", torch.empty_like)},
        lambda g: Rates(g["lr"], g["weight_decay"], g["momentum"], 0, 0, bool(g["nesterov"])),
        ("lr", "weight_decay", "momentum"),
        _BY_ITSELF,
    ),
    torch.optim.AdamW: _Rule(
        "adamw",
        {
            "step": _Slot("updates", lambda _: torch.zeros((), dtype=torch.float32)),
            "exp_avg": _Slot("first", torch.zeros_like),
            "exp_avg_sq": _Slot("second", torch.zeros_like),
        },
        lambda g: Rates(g["lr"], 1 - g["lr"] * g["weight_decay"], *g["betas"], g["eps"]),
        ("lr", "weight_decay", "eps"),
        _BY_ITSELF,
    ),
    TensorFlowRMSprop: _Rule(
        "rmsprop",
        {"mean_square": _Slot("first", torch.ones_like), "velocity": _Slot("second", torch.zeros_like)},
        lambda g: Rates(g["lr"], g["weight_decay"], g["momentum"], g["decay"], g["eps"]),
        ("lr", "weight_decay", "momentum", "decay", "eps"),
    ),
}


def _is_watched(optimizer: torch.optim.Optimizer) -> bool:
    """Whether somebody has to be told of a step: by hooks, or by another `step` in the place of the class's."""
    return bool(
        "step" in vars(optimizer)
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
    )


def _clip_factor(gradients: Sequence[Tensor], max_norm: float) -> float:
    """What `torch.nn.utils.clip_grad_norm_` multiplies the gradients by."""
    norm = nn.utils.get_total_norm(gradients)
    return float(torch.clamp(max_norm / (norm + 1e-6), max=1.0))
