"""Averages in training: of windows, of whole maps, and maps times a gate that comes of means, in one pass each way."""

from collections.abc import Callable, Sequence
from ctypes import byref
from typing import Any

import torch
from torch import Tensor, nn

from depthwise.native import structs
from depthwise.native.backward import first_order, keep, kept
from depthwise.native.fused import applies, side_of, watched
from depthwise.native.library import library


def average_pool2d(x: Tensor, pool: nn.AvgPool2d) -> Tensor:
    """pool(x), [N, C, H, W] to [N, C, H', W']; native in training if the map keeps its size."""
    kernel, stride, padding = (side_of(value) for value in (pool.kernel_size, pool.stride, pool.padding))
    if (
        type(pool) is nn.AvgPool2d
        and kernel > 0
        and kernel % 2 == 1
        and (stride, padding) == (1, kernel // 2)
        and pool.divisor_override is None
        and not watched(pool)
        and applies(x)
    ):
        return _AveragePool.apply(x, kernel, pool.count_include_pad)
    return pool(x)


class _AveragePool(torch.autograd.Function):
    """The mean of each window, with the zeros of the padding or without."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: int, count_padding: bool) -> Tensor:
        ctx.kernel = kernel
        ctx.shares = [_shares(side, kernel, count_padding) for side in x.shape[2:]]
        ones = [torch.ones(side) for side in x.shape[2:]]
        return _box(x, kernel, ones, ctx.shares)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        dy = dy.contiguous(memory_format=torch.channels_last)
        ones = [torch.ones(side) for side in dy.shape[2:]]
        return _box(dy, ctx.kernel, ctx.shares, ones), None, None


def _shares(side: int, kernel: int, count_padding: bool) -> Tensor:
    """What each value of a window along a side counts for."""
    if count_padding:
        return torch.full((side,), 1 / kernel)
    places = torch.arange(side)
    counted = (places + kernel // 2 + 1).clamp(max=side) - (places - kernel // 2).clamp(min=0)
    return 1 / counted


def _box(x: Tensor, kernel: int, before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    y = torch.empty_like(x)
    factors = (factor.data_ptr() for factor in (*before, *after))
    arguments = structs.Box(
        x.data_ptr(),
        y.data_ptr(),
        *factors,
        *x.shape,
        kernel,
        x.dtype is torch.bfloat16,
        torch.get_num_threads(),
    )
    library.loaded.depthwise_box(byref(arguments))  # type: ignore[union-attr]
    return y


def global_mean(x: Tensor) -> Tensor:
    """The mean of each map, [N, C, H, W] to [N, C]; native in training."""
    return _GlobalMean.apply(x) if applies(x) else x.mean((2, 3))


class _GlobalMean(torch.autograd.Function):
    """PyTorch's own divides every pixel's gradient, this one each map's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return (_sums(x) / (x.shape[2] * x.shape[3])).flatten(1).to(x.dtype)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        of_a_pixel = dy / (ctx.shape[2] * ctx.shape[3])
        return of_a_pixel[:, :, None, None].expand(ctx.shape).contiguous(memory_format=torch.channels_last)


def gated(x: Tensor, gate: Callable[[Tensor], Tensor], parts: Sequence[nn.Module]) -> Tensor:
    """x * gate(means of x over its pixels), [N, C, H, W] to the same; means and gate [N, C, 1, 1].

    parts: what the gate is made of. Native in training, where the gate is computed once more in the backward pass.
    """
    parameters = [parameter for part in parts for parameter in part.parameters()]
    if (
        applies(x)
        and not any(watched(part) for part in parts)
        and all(parameter.is_cpu for parameter in parameters)
    ):
        return _Gated.apply(x, gate, *(parameter for parameter in parameters if parameter.requires_grad))
    return x * gate(x.mean((2, 3), keepdim=True))


class _Gated(torch.autograd.Function):
    """The gate itself is PyTorch's, and so are its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Callable[[Tensor], Tensor], *parameters: Tensor) -> Tensor:
        means = _sums(x) / (x.shape[2] * x.shape[3])
        ctx.gate = gate
        ctx.autocast = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")
        ctx.parameters = parameters
        keep(ctx, x, means, *parameters)
        return _scaled(x, gate(means).expand_as(means).float())

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, means, *_ = kept(ctx)  # which says so if a parameter has changed since
        dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
        dtype, enabled = ctx.autocast
        with torch.enable_grad(), torch.autocast("cpu", dtype, enabled=enabled):
            means = means.detach().requires_grad_()
            gates = ctx.gate(means).expand_as(means)
        dgates = _sums(x, dy).to(gates.dtype)
        dmeans, *dparameters = torch.autograd.grad(gates, [means, *ctx.parameters], dgates)
        summand = dmeans / (x.shape[2] * x.shape[3])
        dx = _scaled(dy, gates.detach().float(), summand) if ctx.needs_input_grad[0] else None
        return dx, None, *dparameters


def _sums(x: Tensor, dy: Tensor | None = None) -> Tensor:
    """float32 [N, C, 1, 1]: the sums of x, or of x * dy, over the pixels."""
    sums = torch.empty(*x.shape[:2], 1, 1)
    library.loaded.depthwise_channel_sums(byref(_gate(x, dy=dy, sums=sums)))  # type: ignore[union-attr]
    return sums


def _scaled(x: Tensor, gates: Tensor, summand: Tensor | None = None) -> Tensor:
    y = torch.empty_like(x)
    gates, summand = gates.contiguous(), None if summand is None else summand.contiguous()
    arguments = _gate(x, y=y, gate=gates, summand=summand)
    library.loaded.depthwise_channel_scale(byref(arguments))  # type: ignore[union-attr]
    return y


def _gate(x: Tensor, **pointers: Tensor | None) -> structs.Gate:
    batch, channels, height, width = x.shape
    return structs.Gate(
        x=x.data_ptr(),
        **{name: None if tensor is None else tensor.data_ptr() for name, tensor in pointers.items()},
        batch=batch,
        channels=channels,
        pixels=height * width,
        bf16=x.dtype is torch.bfloat16,
        num_threads=torch.get_num_threads(),
    )
