"""Gradients that cannot be differentiated again, and say so."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Gradients = Tensor | tuple[Tensor | None, ...]

MESSAGE = (
    "depthwise: the native kernels' gradients cannot be differentiated again: call depthwise.native.use('off') before "
    "the forward pass, for PyTorch's operators"
)


def first_order(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """For the `backward` of a torch.autograd.Function that runs a kernel: to differentiate what it gives is an error.

    PyTorch's `once_differentiable` lets a second derivative be zero where the gradient given is a constant.
    """

    @wraps(backward)
    def once(ctx: Any, *given: Tensor) -> Gradients:
        with torch.no_grad():
            made = backward(ctx, *given)
        if not torch.is_grad_enabled():
            return made
        made = (made,) if isinstance(made, Tensor) else made
        # Each as if it depended on something, or the error would never be reached.
        leaves = [None if each is None else each.detach().requires_grad_() for each in made]
        delayed: Any = torch._C._functions.DelayedError(MESSAGE.encode(), len(made))
        raising: tuple[Tensor | None, ...] = delayed(*leaves)
        return raising

    return once
