"""A parameter server in shards, alike in bytes, which may be on several machines.

One front (`served.py`) puts pushes in order and hands each to all shards before the next, so there is one version for
all: a worker pulls weights of one version, staleness is a number, and a line of the log says all that a replay needs.
With a counter for each shard, as TensorFlow's servers had, a pull may get some tensors with a push and some without,
and a line would need as many numbers as there are shards. Nobody waits for that order: a shard that does what the front
asks in the order of asking, as an actor does, is always right, and says so if it is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from depthwise.analysis.scaling import shared_out
from depthwise.errors import DepthwiseError
from depthwise.train.asynchronous.state import (
    State,
    add_share,
    copied,
    momenta,
    shares_of,
    take_statistics,
)
from depthwise.train.average import PolyakAverage
from depthwise.train.checkpoint import (
    module_tensors,
    optimizer_tensors,
    restore_module,
    restore_optimizer,
)
from depthwise.train.recipe import Recipe
from depthwise.train.update import Update


@dataclass(frozen=True, eq=False)
class Piece:
    """A shard's part of what a worker brings: the number of the batch, what its mean loss was divided by, and by name
    the clipped gradient of each parameter that has one, and the buffers as they were pulled and as the batch left
    them."""

    batch: int
    weight: float
    gradients: State
    pulled: State
    buffers: State


@dataclass(frozen=True, eq=False)
class Holding:
    """What a shard is made of, by the names in the network: parameters that learn, others, buffers, and the momentum of
    each batch norm whose statistics are among these (see `momenta`)."""

    learning: State
    frozen: State
    buffers: State
    momenta: Mapping[str, float | None]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its tensors."""
        return (*self.learning, *self.frozen, *self.buffers)


def holdings(module: nn.Module, num_shards: int) -> list[Holding]:
    """What each of so many shards holds of `module`: parameters that learn are shared out by their bytes, and one has
    all else, which is little. Raises UsageError for more shards than such parameters.
    """
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    learning = {name: parameters[name] for name, p in module.named_parameters() if p.requires_grad}
    frozen = {name: value for name, value in parameters.items() if name not in learning}
    buffers, norms = dict(module.named_buffers()), momenta(module)
    rest = sum(tensor.nbytes for tensor in (*frozen.values(), *buffers.values()))
    names = [*learning]
    found = []
    for places in shared_out([learning[name].nbytes for name in names], rest, num_shards):
        own = {names[place]: learning[names[place]] for place in places if place < len(names)}
        all_else = len(names) in places
        found.append(Holding(own, *((frozen, buffers, norms) if all_else else ({}, {}, {}))))
    return found


class Shard:
    """Copies of the tensors of a `holding`, with their part of the recipe's optimiser and Polyak average.

    It is asked for one version after another, where a version is the number of its updates. Raises DepthwiseError if it
    is asked out of order.
    """

    def __init__(self, holding: Holding, recipe: Recipe) -> None:
        # The layout of a Trainer's network, in which sums of vectors round alike.
        self._part: nn.Module = _part(holding).to(memory_format=torch.channels_last)
        self._momenta = holding.momenta
        self._optimizer = recipe.optimizer.build(self._part)
        self._average = PolyakAverage(self._part, recipe.averaging) if recipe.averaging else None
        self._update = Update(self._part, self._optimizer, self._average)
        self._pieces: list[Piece] = []
        self._version = 0

    def apply(self, piece: Piece, lr: float | None, version: int) -> None:
        """Have a piece of the update that makes `version`: the last of them if there is a learning rate `lr`, at which
        the step is then taken.

        Pieces count in the order of their batches, whenever they came. What is pulled does not change before the step.
        """
        self._check(version - 1)
        self._pieces.append(piece)
        if lr is not None:
            pieces, self._pieces = sorted(self._pieces, key=lambda one: one.batch), []
            self._step(pieces, lr, version)

    def _step(self, pieces: Sequence[Piece], lr: float, version: int) -> None:
        total: dict[str, Tensor] = {}
        for piece, share in zip(pieces, shares_of([one.weight for one in pieces]), strict=True):
            add_share(total, piece.gradients, share)
        for name, parameter in self._part.named_parameters():
            gradient = total.get(_spoken(name))
            parameter.grad = None if gradient is None else torch.empty_like(parameter).copy_(gradient)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        buffers = {_spoken(name): buffer for name, buffer in self._part.named_buffers()}
        for piece in pieces:
            take_statistics(buffers, self._momenta, piece.pulled, piece.buffers)
        self._update.apply(version)
        self._version = version

    def read(self, version: int) -> dict[str, Tensor]:
        """What a worker pulls of it."""
        self._check(version)
        return {_spoken(name): value for name, value in copied(self._part).items()}

    def tensors(self, version: int) -> dict[str, Tensor]:
        """What a checkpoint has of it; those of all shards together are those of a Trainer."""
        self._check(version)
        found = module_tensors("model", self._part) | optimizer_tensors(self._optimizer, self._part)
        if self._average:
            found |= module_tensors("averaged", self._average.module)
        return {_spoken(key): value.detach().clone() for key, value in found.items()}

    def restore(self, tensors: Mapping[str, Tensor], version: int) -> None:
        """Be as at `version`, by what a Trainer's checkpoint, or its part that `own_part` gives, has of it."""
        own = {_spoken(name): name for name in self._part.state_dict()}
        kept = {_hidden(key, own): value for key, value in own_part(tensors, tuple(own)).items()}
        restore_module("model", self._part, kept)
        restore_optimizer(self._optimizer, self._part, kept)
        if self._average:
            restore_module("averaged", self._average.module, kept)
        self._pieces, self._version = [], version

    def _check(self, version: int) -> None:
        if version != self._version:
            raise DepthwiseError(f"a server was asked for version {version} and has {self._version}")


def own_part(tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Of a Trainer's checkpoint what is of the network's tensors `names`: they, their averages, their slots."""
    wanted = {*names}
    return {key: value for key, value in tensors.items() if _tensor_of(key)[1] in wanted}


def _tensor_of(key: str) -> tuple[str, str, str]:
    """Its kind, the name in the network and "/" with the optimiser's slot of a checkpoint's `key`."""
    kind, _, rest = key.partition(".")
    name, slash, slot = rest.partition("/")
    return kind, name, slash + slot


def _hidden(key: str, own: Mapping[str, str]) -> str:
    kind, name, slot = _tensor_of(key)
    return f"{kind}.{own[name]}{slot}"


_DOT = ":"
"""Instead of dots, which a module's own tensors must not have in their names."""


def _spoken(name: str) -> str:
    return name.replace(_DOT, ".")


def _part(holding: Holding) -> nn.Module:
    """A module of copies of the holding's tensors."""
    part = nn.Module()
    for learns, tensors in ((True, holding.learning), (False, holding.frozen)):
        for name, value in tensors.items():
            part.register_parameter(
                name.replace(".", _DOT), nn.Parameter(value.clone(), requires_grad=learns)
            )
    for name, value in holding.buffers.items():
        part.register_buffer(name.replace(".", _DOT), value.clone())
    return part
