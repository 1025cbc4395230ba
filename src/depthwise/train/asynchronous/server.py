"""A parameter server and its workers, whatever carries tensors between them: calls, processes, or Ray's actors.

Parameters lie in shards, alike in bytes, which may be on several machines. One front puts pushes in order and hands
each to all shards before the next, so there is one version for all: a worker pulls weights of one version, staleness is
a number, and a line of the log says all that a replay needs. With a counter for each shard, as TensorFlow's servers
had, a pull may get some tensors with a push and some without, and a line would need as many numbers as there are
shards. Nobody waits for that order: a shard that does what one caller asks in the order of asking, as an actor does, is
always right.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from depthwise.errors import UsageError
from depthwise.train.asynchronous.ledger import Lease, Ledger, account_of
from depthwise.train.asynchronous.pushes import Push, PushLog
from depthwise.train.asynchronous.state import State, copied, momenta, put, take_statistics
from depthwise.train.average import PolyakAverage
from depthwise.train.checkpoint import (
    Checkpoint,
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
)
from depthwise.train.loop import Trainer, Window
from depthwise.train.recipe import Recipe
from depthwise.words import number_of


@dataclass(frozen=True, eq=False)
class Pulled:
    """What a worker gets: a batch's place among those of the run, and weights and buffers after `version` updates."""

    batch: int
    version: int
    state: State


@dataclass(frozen=True, eq=False)
class Gradient:
    """What a worker pushes for a batch, taken at `version`: by name, the clipped gradient of each parameter that has
    one, and buffers as they were pulled and as the batch left them. window: what its images came to."""

    batch: int
    version: int
    gradients: State
    pulled: State
    buffers: State
    window: Window


class Transport(Protocol):
    """What a worker knows of the server."""

    def pull(self, worker: int) -> Pulled | None: ...

    def push(self, worker: int, gradient: Gradient) -> int | None: ...


class Worker:
    """Computes gradients for a server by a trainer of its own, which has the run's recipe and images, and the weights
    of a frozen backbone, which are not pulled."""

    def __init__(self, number: int, trainer: Trainer, server: Transport) -> None:
        self.number, self.trainer, self.server = number, trainer, server

    def work(self) -> bool:
        """Pull, compute and push; False if no batch is left that nobody has."""
        pulled = self.server.pull(self.number)
        if pulled is None:
            return False
        self.server.push(self.number, self.compute(pulled))
        return True

    def compute(self, pulled: Pulled) -> Gradient:
        """The gradient of the batch at the weights that were pulled."""
        trainer = self.trainer
        put(trainer.module, pulled.state)
        trainer.restart_window()
        trainer.gradient([next(trainer.passes([pulled.batch]))])
        parameters, buffers = dict(trainer.module.named_parameters()), dict(trainer.module.named_buffers())
        return Gradient(
            batch=pulled.batch,
            version=pulled.version,
            gradients={name: p.grad.clone() for name, p in parameters.items() if p.grad is not None},
            pulled={name: pulled.state[name] for name in buffers},
            buffers={name: buffer.clone() for name, buffer in buffers.items()},
            window=trainer.window,
        )


def partition(module: nn.Module, num_shards: int) -> list[list[str]]:
    """The names of each shard's tensors: each parameter that learns, the largest first, goes to the shard with the
    fewest bytes; all else, which is little, to the first. Raises UsageError for more shards than parameters.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    learning = [name for name, tensor in tensors.items() if tensor.requires_grad]
    if num_shards > len(learning):
        raise UsageError(f"{num_shards} shards for {number_of(len(learning), 'parameter')}: take fewer")
    rest = [name for name, tensor in tensors.items() if not tensor.requires_grad]
    held = [sum(tensors[name].nbytes for name in rest)] + [0] * (num_shards - 1)
    learns: list[list[str]] = [[] for _ in range(num_shards)]
    for name in sorted(learning, key=lambda name: -tensors[name].nbytes):
        # None stays without a parameter, whatever the rest comes to.
        place = min(range(num_shards), key=lambda k: (bool(learns[k]), held[k]))
        learns[place].append(name)
        held[place] += tensors[name].nbytes
    return [rest + learns[0], *learns[1:]]


class Shard:
    """The tensors `names` of a network, with their part of the recipe's optimiser and Polyak average.

    In one process the shards of a module are parts of it; elsewhere the module is a copy, in which the rest is idle.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], recipe: Recipe) -> None:
        self._part = _part(module, names)
        self._momenta = {norm: m for norm, m in momenta(module).items() if f"{norm}running_mean" in names}
        self._optimizer = recipe.optimizer.build(self._part)
        self._average = PolyakAverage(self._part, recipe.averaging) if recipe.averaging else None

    def apply(self, gradient: Gradient, lr: float, num_updates: int) -> None:
        """Take a step along the gradient at the learning rate `lr`; it is update number `num_updates`, from 1."""
        for name, parameter in self._part.named_parameters():
            parameter.grad = gradient.gradients.get(_spoken(name))
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        buffers = {_spoken(name): buffer for name, buffer in self._part.named_buffers()}
        take_statistics(buffers, self._momenta, gradient.pulled, gradient.buffers)
        self._optimizer.step()
        if self._average:
            self._average.update(num_updates)

    def read(self) -> dict[str, Tensor]:
        """What a worker pulls of it."""
        return {_spoken(name): value for name, value in copied(self._part).items()}

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has of it; those of all shards together are those of a Trainer."""
        found = module_tensors("model", self._part) | optimizer_tensors(self._optimizer, self._part)
        if self._average:
            found |= module_tensors("averaged", self._average.module)
        return {_spoken(key): value.detach().clone() for key, value in found.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back its own of what the shards of a run, in whatever number, gave."""
        own = {name for name, _ in self._part.state_dict().items()}
        kept = {}
        for key, value in tensors.items():
            kind, _, rest = key.partition(".")
            name, slash, slot = rest.partition("/")
            if (hidden := name.replace(".", _DOT)) in own:
                kept[f"{kind}.{hidden}{slash}{slot}"] = value
        restore_module("model", self._part, kept)
        restore_optimizer(self._optimizer, self._part, kept)
        if self._average:
            restore_module("averaged", self._average.module, kept)


class ShardLike(Protocol):
    """A Shard, here or elsewhere, that does what it is asked in the order in which it is asked."""

    def apply(self, gradient: Gradient, lr: float, num_updates: int) -> None: ...

    def read(self) -> dict[str, Tensor]: ...

    def tensors(self) -> dict[str, Tensor]: ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None: ...


class Server:
    """The front: decides by a ledger which pushes count, writes them to a log, and lets the shards apply them.

    rate: the learning rate after so many updates. divide: it is divided by the staleness, from 2 on (Zhang 2016).
    seconds: since the run began, for the log.
    """

    def __init__(
        self,
        shards: Sequence[ShardLike],
        ledger: Ledger,
        log: PushLog,
        rate: Callable[[int], float],
        *,
        divide: bool = False,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        if ledger.needed > 1:
            raise UsageError(
                "a server applies each push by itself, and no mean: give it a ledger of one gradient"
            )
        self.shards, self.ledger, self.log = shards, ledger, log
        self._rate, self._divide, self._seconds = rate, divide, seconds

    def pull(self, worker: int) -> Pulled | None:
        """A batch for the worker, and the weights as they are; None if there is none that nobody has."""
        lease = self.ledger.lease(worker)
        if lease is None:
            return None
        state = {name: value for shard in self.shards for name, value in shard.read().items()}
        return Pulled(lease.batch, lease.pulled, state)

    def push(self, worker: int, gradient: Gradient) -> int | None:
        """The version that the worker's gradient makes; None: it was dropped, and its batch is another's or will be."""
        written = self.ledger.push(worker, Lease(gradient.batch, gradient.version))
        push = Push(worker, gradient.batch, gradient.version, written, round(self._seconds(), 6))
        if written:
            rate = 1 / max(1, push.staleness) if self._divide else 1.0
            for shard in self.shards:
                shard.apply(gradient, self._rate(written - 1) * rate, written)
        self.log.add([push])
        return written

    def lost(self, worker: int) -> None:
        """The worker is dead: its batch is leased again."""
        self.ledger.give_back(worker)

    def checkpoint(self) -> Checkpoint:
        """All that a server in another process goes on from; workers must pull anew there."""
        account = vars(self.ledger.account())
        state = {"ledger": account, "lines": self.log.num_lines, "sha256": self.log.digest}
        return Checkpoint(state, {k: v for shard in self.shards for k, v in shard.tensors().items()})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, of any number of shards; what came after it is forgotten, in the log too."""
        state: Mapping[str, Any] = checkpoint.state
        self.ledger.restore(account_of(state["ledger"]))
        self.log.restore(state["lines"], state["sha256"])
        for shard in self.shards:
            shard.restore(checkpoint.tensors)


_DOT = ":"
"""Instead of dots, which a module's own tensors must not have in their names."""


def _spoken(name: str) -> str:
    return name.replace(_DOT, ".")


def _part(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """A module that holds the tensors `names` of `module`, the same ones."""
    part = nn.Module()
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    for name in names:
        if name in parameters:
            part.register_parameter(name.replace(".", _DOT), parameters[name])
        else:
            part.register_buffer(name.replace(".", _DOT), buffers[name])
    return part
