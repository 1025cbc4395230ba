"""A module as its owner left it: what a function switches for its own purpose is switched back."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """`module` in training or in evaluation mode as long as this lasts.

    Then, also after an error, each of its parts is in the mode in which it was, frozen batch norms and wakeful dropouts
    among them, and each parameter wants a gradient or none as before.
    """
    modes = [(part, part.training) for part in module.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        module.train(training)
        yield
    finally:
        try:
            # First as a whole: parts that do more than note their mode (merged adapters, say) undo what they did.
            module.train(modes[0][1])
        finally:
            for part, before in modes:
                part.training = before
            for parameter, before in wanted:
                if parameter.requires_grad != before:
                    parameter.requires_grad_(before)


def to_train(module: nn.Module, *, norms: bool = True) -> None:
    """Set `module` to training mode, its batch norms only if `norms`."""
    module.train()
    if not norms:
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()


@contextmanager
def in_place(module: nn.Module) -> Iterator[None]:
    """Afterwards the parameters and buffers of `module` lie on the device and in the layout in which they did."""
    places = [
        (tensor, tensor.device, tensor.stride()) for tensor in chain(module.parameters(), module.buffers())
    ]
    try:
        yield
    finally:
        for tensor, device, stride in places:
            if tensor.device != device or tensor.stride() != stride:
                moved = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=device)
                tensor.data = moved.copy_(tensor.detach())


@contextmanager
def threads_kept() -> Iterator[None]:
    """However many threads torch is given inside, afterwards it has as many as before."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
