"""Polyak averaging: a second copy of the network that follows the trained one slowly and is used at inference.

Chollet 2017, section 4.3 uses it for every model and leaves the decay open; TF-slim's Inception code has 0.9999.
"""

import copy

import torch
from torch import Tensor, nn


class PolyakAverage:
    """averaged <- decay * averaged + (1 - decay) * weights, after each update.

    The decay of update n is min(decay, (1 + n) / (10 + n)), TensorFlow's `num_updates` rule, so that a short run does
    not end on its random start. Batch norm's running mean and variance are averaged with the same decay as the weights,
    as TF-slim does: the averaged weights then see statistics of the same window of the past. Counters are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.pairs = _tensors(self.module, module, floating=True)
        """The averaged tensors, each with the one that it follows."""
        self._counters = _tensors(self.module, module, floating=False)

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Follow the weights after update number `num_updates`, counted from 1."""
        if self.pairs:
            averaged, current = zip(*self.pairs, strict=True)
            torch._foreach_lerp_(averaged, current, 1 - self.decay_of(num_updates))
        self.copy_counters()

    def decay_of(self, num_updates: int) -> float:
        """The decay of update number `num_updates`."""
        return min(self.decay, (1 + num_updates) / (10 + num_updates))

    def copy_counters(self) -> None:
        """Have the counters that the network has."""
        if self._counters:
            copied, counters = zip(*self._counters, strict=True)
            torch._foreach_copy_(copied, counters)


def _tensors(averaged: nn.Module, module: nn.Module, *, floating: bool) -> list[tuple[Tensor, Tensor]]:
    mine = {**dict(averaged.named_parameters()), **dict(averaged.named_buffers())}
    current = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return [
        (tensor, current[name]) for name, tensor in mine.items() if tensor.is_floating_point() == floating
    ]
