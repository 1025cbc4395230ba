"""The operators: each native where that applies, else PyTorch's own with the same meaning."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from depthwise.native.library import library

_DTYPES = (torch.float32, torch.bfloat16)


def _applies(x: Tensor) -> bool:
    """Whether raw memory of `x` may be read: a plain CPU tensor that nobody traces or transforms."""
    return (
        library.handle is not None
        and type(x) in (Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and x.dtype in _DTYPES
        and x.ndim == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch.autograd.forward_ad._current_level < 0
    )


def _like(gradient: Tensor, x: Tensor) -> Tensor:
    """`gradient` in the layout and type of `x`, both [N, C, H, W]."""
    return gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, *rest: Any
    ) -> Tensor:
        running_mean, running_var, momentum, eps, relu = rest
        channels = x.shape[1]
        y = torch.empty_like(x, memory_format=torch.channels_last)
        mean, inv_std = torch.empty((2, channels)).unbind()
        library.handle.depthwise_batch_norm_forward(  # type: ignore[union-attr]
            x.data_ptr(),
            None if residual is None else residual.data_ptr(),
            y.data_ptr(),
            weight.data_ptr(),
            bias.data_ptr(),
            running_mean.data_ptr(),
            running_var.data_ptr(),
            mean.data_ptr(),
            inv_std.data_ptr(),
            x.numel() // channels,
            channels,
            momentum,
            eps,
            x.dtype is torch.bfloat16,
            relu,
            torch.get_num_threads(),
        )
        ctx.relu, ctx.residual = relu, residual is not None
        # Without a residual the mask is recomputed from x, which is cheaper than reading a third map.
        ctx.save_for_backward(x, weight, bias, mean, inv_std, y if relu and ctx.residual else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inv_std, y = ctx.saved_tensors
        channels = x.shape[1]
        dy = _like(dy, x)
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        dresidual = torch.empty_like(dx) if y is not None else dy if ctx.residual else None
        dweight, dbias = torch.empty((2, channels)).unbind()
        library.loaded.depthwise_batch_norm_backward(  # type: ignore[union-attr]
            dy.data_ptr(),
            x.data_ptr(),
            None if y is None else y.data_ptr(),
            dx.data_ptr(),
            None if y is None else dresidual.data_ptr(),  # type: ignore[union-attr]
            weight.data_ptr(),
            bias.data_ptr(),
            mean.data_ptr(),
            inv_std.data_ptr(),
            dweight.data_ptr(),
            dbias.data_ptr(),
            x.numel() // channels,
            channels,
            x.dtype is torch.bfloat16,
            ctx.relu,
            torch.get_num_threads(),
        )
        return dx, dweight, dbias, dresidual, None, None, None, None, None


def _unhooked(*modules: nn.Module) -> bool:
    """Whether nobody watches these modules run, so that their work may be done in one piece."""
    return not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules)


def _batch_norm_applies(x: Tensor, norm: nn.Module, activation: nn.Module, residual: Tensor | None) -> bool:
    return (
        type(norm) is nn.BatchNorm2d
        and type(activation) in (nn.Identity, nn.ReLU)
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.weight.dtype is torch.float32
        and x.shape[1] == norm.num_features
        and x.numel() > x.shape[1]
        and _applies(x)
        and _unhooked(norm, activation)
        and (
            residual is None
            or (_applies(residual) and residual.dtype is x.dtype and residual.shape == x.shape)
        )
    )


def batch_norm_act(
    x: Tensor, norm: nn.BatchNorm2d, activation: nn.Module, residual: Tensor | None = None
) -> Tensor:
    """activation(norm(x) + residual), [N, C, H, W] to the same; the residual is optional.

    Native in training with nn.ReLU or nn.Identity behind the norm; its running statistics then move as its
    own forward would move them. The native path has no double backward and says so when asked for it.
    """
    if not _batch_norm_applies(x, norm, activation, residual):
        y = norm(x)
        return activation(y if residual is None else y + residual)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
    return _BatchNorm.apply(
        x,
        norm.weight,
        norm.bias,
        residual,
        norm.running_mean,
        norm.running_var,
        momentum,
        norm.eps,
        type(activation) is nn.ReLU,
    )
