"""What a worker pulls of a network, and what its push makes of batch norm's running statistics."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

State = Mapping[str, Tensor]
"""Tensors of a network by their names."""


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """The module's own tensors that a gradient depends on or changes: parameters that learn, and all buffers."""
    learning = {name: value for name, value in module.named_parameters() if value.requires_grad}
    return {**learning, **dict(module.named_buffers())}


def copied(module: nn.Module) -> dict[str, Tensor]:
    """The module's state as it is now."""
    return {name: value.detach().clone() for name, value in state_of(module).items()}


@torch.no_grad()
def put(module: nn.Module, state: State) -> None:
    """Put `state` into the module."""
    for name, value in state_of(module).items():
        value.copy_(state[name])


@torch.no_grad()
def take_statistics(module: nn.Module, pulled: State, pushed: State) -> None:
    """Let the module's buffers take what a worker made of `pulled` ones, `pushed`.

    Running means and variances move towards the worker's batches by the norm's momentum m, as if the module had seen
    them: with k batches pushed - (1-m)^k pulled is what they bring, and it is added to (1-m)^k times the present ones.
    Counters move as far as the worker's. Of any other buffer the last push is right. If nothing has come between, the
    buffers are the worker's to the last bit.
    """
    left = dict(module.named_buffers())
    for prefix, part in module.named_modules():
        if not isinstance(part, _BatchNorm) or part.num_batches_tracked is None:
            continue
        before = f"{prefix}." if prefix else ""
        start = int(pulled[f"{before}num_batches_tracked"])
        batches = int(pushed[f"{before}num_batches_tracked"]) - start
        keep = start / max(1, start + batches) if part.momentum is None else (1 - part.momentum) ** batches
        for name in ("running_mean", "running_var"):
            present = left.pop(before + name)
            if batches:
                was, now = pulled[before + name], pushed[before + name]
                present.copy_(torch.add(now, present - was, alpha=keep))
    for name, present in left.items():
        if present.is_floating_point():
            present.copy_(pushed[name])
        else:
            present.add_(pushed[name] - pulled[name])
