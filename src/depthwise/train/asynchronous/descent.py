"""A run whose gradients are taken at older weights: which ones, a list of pushes says."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from depthwise.data.loader import Batch
from depthwise.errors import DepthwiseError
from depthwise.train.asynchronous.pushes import Push, PushLog
from depthwise.train.asynchronous.state import (
    State,
    add_share,
    copied,
    gradients_of,
    momenta,
    put,
    shares_of,
    take_statistics,
    totals_of,
)
from depthwise.train.checkpoint import Checkpoint
from depthwise.train.descent import Passes
from depthwise.train.loop import Trainer


class Asynchronous:
    """Does what a list of pushes says, in one process: a simulation's, or the log of a run.

    The trainer's network is the server's. For a gradient that was taken at older weights these are put into it for a
    while. Batch norm's running statistics are the server's: each push brings what its batches made of those that were
    pulled, and the server's move towards these batches by the network's momentum, as if they had been its own. So did
    TensorFlow, whose workers updated the moving averages where the parameters were.

    A gradient is clipped and the loss weighted by the worker; schedule, optimiser and Polyak average count the server's
    updates. Momentum is not corrected: asynchrony itself adds some, 1 - 1/n in expectation with n workers of
    exponential times (Mitliagkas 2016, arXiv 1605.09774), so the recipe's should be lower, for many workers 0.

    pushes: those of a run of so many updates. needed: gradients in an update. divide: the learning rate is divided by
    the staleness, from 2 on. apart: each gradient of an update is taken by itself, as real workers do, instead of all
    in one.
    """

    fixed = True

    def __init__(
        self,
        pushes: Callable[[int], Sequence[Push]],
        *,
        needed: int = 1,
        divide: bool = False,
        apart: bool = False,
        log: PushLog | None = None,
    ) -> None:
        self.needed, self.divide, self.log = needed, divide, log
        self._gradient = _apart if apart else _at_once
        self._make = pushes
        self._pushes: Sequence[Push] = ()
        self._uses: Counter[int] = Counter()
        self._done = 0
        self._stream: Iterator[tuple[int, Passes]] | None = None
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._window = [0, 0]
        self._first: Batch | None = None

    def update(self, trainer: Trainer) -> None:
        """Do the next update of the trainer's weights."""
        if self._stream is None:
            self._stream = self._begin(trainer)
        arrived = self._next(trainer)
        counted = [push for push in arrived if push.written]
        pulled, version = counted[0].pulled, trainer.step
        self._uses[pulled] -= len(counted)
        present = copied(trainer.module) if self._uses[version] or pulled < version else {}
        if self._uses[version]:
            self._kept[version] = present
        drawn = sorted((next(self._stream) for _ in counted), key=lambda pair: pair[0])
        if pulled == version:
            self._first = self._gradient(trainer, drawn)
        else:
            with _older(trainer.module, self._kept[pulled], present):
                self._first = self._gradient(trainer, drawn)
            if not self._uses[pulled]:
                del self._kept[pulled]
        staleness = counted[0].staleness
        trainer.apply(1 / max(1, staleness) if self.divide else 1.0)
        self._window = [self._window[0] + staleness, self._window[1] + 1]
        if self.log:
            self.log.add(arrived)

    def first(self, trainer: Trainer) -> Batch | None:
        """The images of the last update's first pass."""
        return self._first

    def settle(self, trainer: Trainer) -> None:
        """The trainer has all."""

    def close(self) -> None:
        """Nothing is elsewhere."""

    @property
    def position(self) -> dict[str, Any]:
        """What a line of metrics says of where the run is."""
        return {"time": self._pushes[self._done - 1].time} if self._pushes and self._done else {}

    def take_window(self) -> dict[str, Any]:
        """What a line says of the updates since the last: their mean staleness."""
        total, updates = self._window
        self._window = [0, 0]
        return {"staleness": total / max(1, updates)}

    def checkpoint(self) -> Checkpoint:
        """What the rest of the pushes depend on: older weights that are still to be used."""
        tensors = {
            f"pulled.{version}.{name}": tensor
            for version, state in self._kept.items()
            for name, tensor in state.items()
        }
        lines = {"lines": self.log.num_lines, "sha256": self.log.digest} if self.log else {}
        return Checkpoint({"pushes": {"done": self._done, "window": self._window, **lines}}, tensors)

    def restore(self, trainer: Trainer, checkpoint: Checkpoint) -> None:
        """Go on from what `checkpoint` took; raises KeyError and the like if it is not of this run."""
        known = checkpoint.state["pushes"]
        self._done, self._window = known["done"], list(known["window"])
        if self.log:
            self.log.restore(known["lines"], known["sha256"])
        self._stream, self._kept = None, {}
        like = copied(trainer.module)
        for key, tensor in checkpoint.tensors.items():
            if key.startswith("pulled."):
                _, version, name = key.split(".", 2)
                state = self._kept.setdefault(int(version), {})
                state[name] = torch.empty_like(like[name]).copy_(tensor)
        self._load(trainer)

    def _load(self, trainer: Trainer) -> None:
        self._pushes = self._pushes or self._make(trainer.total_steps)
        left = self._pushes[self._done :]
        self._uses = Counter(push.pulled for push in left if push.written)
        if any(version < trainer.step and version not in self._kept for version in self._uses):
            raise DepthwiseError(
                "the pushes that are left are of weights that the checkpoint has not got: go on with the run as it was "
                "begun, or start anew with --force"
            )

    def _begin(self, trainer: Trainer) -> Iterator[tuple[int, Passes]]:
        """The images of every push that counts, in their order, which is known ahead to those who read them."""
        self._load(trainer)
        return trainer.passes([push.batch for push in self._pushes[self._done :] if push.written])

    def _next(self, trainer: Trainer) -> list[Push]:
        """The pushes of the next update, with those before it that were dropped."""
        arrived, wanted = list[Push](), self.needed
        while wanted:
            if self._done == len(self._pushes):
                raise DepthwiseError(
                    f"the log ends after {trainer.step} of {trainer.total_steps} updates: let the run that wrote it go "
                    f"on to its end first, with --resume"
                )
            arrived.append(self._pushes[self._done])
            self._done += 1
            wanted -= arrived[-1].written is not None
        return arrived


def _at_once(trainer: Trainer, drawn: Sequence[tuple[int, Passes]]) -> Batch | None:
    """The clipped gradient of an update, as one; of its images, the first pass's."""
    first = trainer.gradient(drawn)
    trainer.clip()
    return first


def _apart(trainer: Trainer, drawn: Sequence[tuple[int, Passes]]) -> Batch | None:
    """The gradient of an update, where each of its batches' is taken and clipped by itself at the weights and buffers
    as they are; of the first one's images, the first pass's.

    It is what shards make of an update's pieces, by the same sums in the same order: see `server.py`.
    """
    module = trainer.module
    pulled, total, firsts, windows = copied(module), dict[str, Tensor](), [], []
    before = trainer.totals.clone()
    shares = shares_of([trainer.weight(passes) for _, passes in drawn])
    for one, share in zip(drawn, shares, strict=True):
        trainer.restart_window()
        with _older(module, pulled, copied(module)):
            firsts.append(trainer.gradient([one]))
            trainer.clip()
        windows.append(trainer.totals.clone())
        add_share(total, gradients_of(module), share)
    trainer.totals.copy_(before)
    for window in totals_of(windows, shares):
        trainer.count(window)
    for name, parameter in module.named_parameters():
        parameter.grad = total.get(name)
    return firsts[0]


@contextmanager
def _older(module: nn.Module, pulled: State, present: State) -> Iterator[None]:
    """The module has the state `pulled` inside, and afterwards `present`, whose buffers take what was made of those."""
    buffers, pushed = dict(module.named_buffers()), pulled
    put(module, pulled)
    try:
        yield
        pushed = {name: buffer.clone() for name, buffer in buffers.items()}
    finally:
        put(module, present)
    take_statistics(buffers, momenta(module), pulled, pushed)
