"""What a worker pulls of a network, and what its push makes of an update and of batch norm's running statistics."""

from collections.abc import Mapping, Sequence

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


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    """The gradient of each parameter that has one."""
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def shares_of(weights: Sequence[float]) -> list[float]:
    """Each weight by their sum: what gradients of means, each divided by its weight, count in the mean of all."""
    whole = sum(weights)
    return [weight / whole if whole else 0.0 for weight in weights]


def totals_of(windows: Sequence[Tensor], shares: Sequence[float]) -> list[Tensor]:
    """Those of an update's batches, float32 [3], with which its loss is the mean over all of them, as it is minimised.

    windows: by themselves, losses summed over images, hits, images. shares: as `shares_of` gives them.
    """
    images = [float(window[2]) for window in windows]
    whole = sum(images)
    scales = [share * whole / own if own else 0.0 for share, own in zip(shares, images, strict=True)]
    return [w * w.new_tensor([scale, 1, 1]) for w, scale in zip(windows, scales, strict=True)]


@torch.no_grad()
def add_share(total: dict[str, Tensor], gradients: State, share: float) -> None:
    """Add `share` times the gradients to `total`, in which a parameter is that had one.

    Each product is rounded before it is added, never in one operation with the sum: so the bits do not depend on how a
    tensor lies in memory and is divided among threads, and shards and a replay of their log have the same.
    """
    for name, gradient in gradients.items():
        part = gradient * share
        total[name] = total[name].add_(part) if name in total else part


def momenta(module: nn.Module) -> dict[str, float | None]:
    """The momentum of each batch norm that has running statistics, by what their names begin with; None: it takes the
    mean of all batches."""
    return {
        f"{name}." if name else "": part.momentum
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm) and part.num_batches_tracked is not None
    }


@torch.no_grad()
def take_statistics(
    buffers: State, momentum: Mapping[str, float | None], pulled: State, pushed: State
) -> None:
    """Let `buffers` take what a worker made of `pulled` ones, `pushed`; `momentum` as `momenta` gives it.

    Running means and variances move towards the worker's batches by the norm's momentum m, as if they had been computed
    there: with k batches pushed - (1-m)^k pulled is what they bring, and it is added to (1-m)^k times the present ones.
    Counters move as far as the worker's. Of any other buffer the last push is right. If nothing has come between, the
    buffers are the worker's to the last bit.
    """
    left = dict(buffers)
    for norm, m in momentum.items():
        start = int(pulled[f"{norm}num_batches_tracked"])
        batches = int(pushed[f"{norm}num_batches_tracked"]) - start
        keep = start / max(1, start + batches) if m is None else (1 - m) ** batches
        for name in (f"{norm}running_mean", f"{norm}running_var"):
            present = left.pop(name)
            if batches:
                present.copy_(torch.add(pushed[name], present - pulled[name], alpha=keep))
    for name, present in left.items():
        if present.is_floating_point():
            present.copy_(pushed[name])
        else:
            present.add_(pushed[name] - pulled[name])
