"""What backward passes of the kernels have in common: what is kept for them, and that they are done once."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Gradients = Tensor | tuple[Tensor | None, ...]

REMEDY = "call depthwise.native.use('off') before the forward pass, for PyTorch's operators"


def first_order(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """For the `backward` of a torch.autograd.Function that runs a kernel: to differentiate what it gives is an error.

    PyTorch's `once_differentiable` lets a second derivative be zero where the gradient given is a constant.
    """

    @wraps(backward)
    def once(ctx: Any, *given: Tensor) -> Gradients:
        try:
            with torch.no_grad():
                made = backward(ctx, *given)
        except RuntimeError as error:  # of `contiguous`, before anything is read
            if "inside of vmap" not in str(error):
                raise
            message = f"depthwise: the native kernels take no batch of gradients at once: {REMEDY}"
            raise RuntimeError(message) from error
        if not torch.is_grad_enabled():
            return made
        made = (made,) if isinstance(made, Tensor) else made
        # Each as if it depended on something, or the error would never be reached.
        leaves = [None if each is None else each.detach().requires_grad_() for each in made]
        message = f"depthwise: the native kernels' gradients cannot be differentiated again: {REMEDY}"
        delayed: Any = torch._C._functions.DelayedError(message.encode(), len(made))
        raising: tuple[Tensor | None, ...] = delayed(*leaves)
        return raising

    return once


def keep(ctx: Any, *tensors: Tensor | None) -> None:
    """Save tensors for the backward pass."""
    ctx.save_for_backward(*tensors)
    ctx.layouts = [tensor if tensor is None else (tensor.dtype, tensor.stride()) for tensor in tensors]


def kept(ctx: Any) -> list[Any]:
    """The tensors saved, in the dtypes and layouts that they had: hooks that pack tensors may give others back."""
    return [
        tensor if tensor is None or layout == (tensor.dtype, tensor.stride()) else _laid_out(tensor, *layout)
        for tensor, layout in zip(ctx.saved_tensors, ctx.layouts, strict=True)
    ]


def _laid_out(tensor: Tensor, dtype: torch.dtype, stride: tuple[int, ...]) -> Tensor:
    return torch.empty_strided(tensor.shape, stride, dtype=dtype).copy_(tensor)
