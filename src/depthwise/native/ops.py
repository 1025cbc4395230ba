"""The operators for PyTorch's autograd, each with an optional batch norm before it.

All take and return channels-last maps [N, C, H, W] in float32 or bfloat16. Between forward and backward they keep the
input x and four numbers per channel. The normalised x is computed again, because reading it from memory would cost more
than the arithmetic.
"""

from ctypes import byref
from typing import Any

import torch
from torch import Tensor, nn

from depthwise.native import structs
from depthwise.native.backward import first_order, keep, kept
from depthwise.native.library import library


def _new(like: Tensor, *shape: int) -> Tensor:
    """An uninitialised channels-last map of the dtype of `like`, and of its shape unless another is given."""
    return torch.empty(shape or like.shape, dtype=like.dtype, memory_format=torch.channels_last)


def _as(gradient: Tensor, like: Tensor) -> Tensor:
    return gradient.to(like.dtype).contiguous(memory_format=torch.channels_last)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _flags(x: Tensor) -> tuple[bool, int]:
    return x.dtype is torch.bfloat16, torch.get_num_threads()


def _moments(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Mean, 1 / standard deviation, scale and shift of `x`, [4, C]; updates the running statistics of `norm`.

    In evaluation they follow from the running statistics.
    """
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if not norm.training:
        mean, inverse = norm.running_mean, (norm.running_var + norm.eps).rsqrt()
        scale = norm.weight * inverse
        return torch.stack([mean, inverse, scale, norm.bias - mean * scale])
    norm.num_batches_tracked.add_(1)
    momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
    channels = x.shape[1]
    moments = torch.empty(4, channels)
    arguments = structs.Statistics(
        x.data_ptr(),
        norm.weight.data_ptr(),
        norm.bias.data_ptr(),
        norm.running_mean.data_ptr(),
        norm.running_var.data_ptr(),
        moments.data_ptr(),
        x.numel() // channels,
        channels,
        momentum,
        norm.eps,
        *_flags(x),
    )
    library.loaded.depthwise_statistics(byref(arguments))  # type: ignore[union-attr]
    return moments


def _norm_gradient(
    dy: Tensor,
    x: Tensor,
    moments: Tensor,
    sums: Tensor,
    *,
    relu: int = 0,
    y: Tensor | None = None,
    dresidual: Tensor | None = None,
    into: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients at x and at the norm's weight and bias, from the gradient at the norm's result.

    That at x may be put `into` the memory of `dy`.
    """
    dx = _new(x) if into is None else into
    dweight, dbias = torch.empty(2, x.shape[1])
    arguments = structs.NormGradient(
        dy.data_ptr(),
        x.data_ptr(),
        _pointer(y),
        dx.data_ptr(),
        _pointer(dresidual),
        moments.data_ptr(),
        sums.data_ptr(),
        dweight.data_ptr(),
        dbias.data_ptr(),
        x.numel() // x.shape[1],
        x.shape[1],
        relu,
        *_flags(x),
    )
    library.loaded.depthwise_norm_gradient(byref(arguments))  # type: ignore[union-attr]
    return dx, dweight, dbias


class Norm(torch.autograd.Function):
    """relu(norm(x) + residual), both optional; `weight` and `bias` are the norm's, `relu` is 0, 1 or, for ReLU6, 6."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        norm: nn.BatchNorm2d,
        relu: int,
    ) -> Tensor:
        moments, y = _moments(x, norm), _new(x)
        rows, channels = x.numel() // x.shape[1], x.shape[1]
        arguments = structs.Normalise(
            x.data_ptr(),
            _pointer(residual),
            y.data_ptr(),
            moments.data_ptr(),
            rows,
            channels,
            relu,
            *_flags(x),
        )
        library.loaded.depthwise_normalise(byref(arguments))  # type: ignore[union-attr]
        ctx.relu, ctx.residual = relu, residual is not None
        # Without a residual the ReLU's mask is computed from x again, which is cheaper than reading a third map.
        keep(ctx, x, moments, y if relu and ctx.residual else None)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, moments, y = kept(ctx)
        dy = _as(dy, x)
        rows, channels = x.numel() // x.shape[1], x.shape[1]
        sums = torch.empty(2, channels, dtype=torch.float64)
        arguments = structs.Reduce(
            dy.data_ptr(),
            x.data_ptr(),
            _pointer(y),
            moments.data_ptr(),
            sums.data_ptr(),
            rows,
            channels,
            ctx.relu,
            *_flags(x),
        )
        library.loaded.depthwise_reduce(byref(arguments))  # type: ignore[union-attr]
        dresidual = _new(x) if y is not None else None
        gradients = _norm_gradient(dy, x, moments, sums, relu=ctx.relu, y=y, dresidual=dresidual)
        if ctx.residual and dresidual is None:
            dresidual = dy
        return *gradients, dresidual, None, None


class Depthwise(torch.autograd.Function):
    """convolution(relu(norm(x))), a depthwise one without bias; `relu` and the norm are optional."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        filters: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        norm: nn.BatchNorm2d | None,
        relu: int,
        stride: int,
        padding: tuple[int, int, int, int],
    ) -> Tensor:
        (batch, channels, height, width), kernel = x.shape, filters.shape[2]
        left, right, top, bottom = padding
        out_height = (height + top + bottom - kernel) // stride + 1
        out_width = (width + left + right - kernel) // stride + 1
        moments = None if norm is None else _moments(x, norm)
        y = _new(x, batch, channels, out_height, out_width)
        ctx.window = structs.Window(
            batch, channels, height, width, out_height, out_width, kernel, stride, top, left
        )
        ctx.relu = relu
        keep(ctx, x, filters, moments)
        Depthwise.run("forward", ctx, x, filters, moments, y=y)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, filters, moments = kept(ctx)
        dy, dx, dfilters = _as(dy, x), _new(x), torch.empty_like(filters)
        sums = None if moments is None else torch.empty(2, x.shape[1], dtype=torch.float64)
        Depthwise.run("backward", ctx, x, filters, moments, dy=dy, dx=dx, dfilters=dfilters, sums=sums)
        dweight = dbias = None
        if sums is not None:
            dx, dweight, dbias = _norm_gradient(dx, x, moments, sums, into=dx)
        return dx, dfilters, dweight, dbias, None, None, None, None

    @staticmethod
    def run(
        direction: str,
        ctx: Any,
        x: Tensor,
        filters: Tensor,
        moments: Tensor | None,
        *,
        y: Tensor | None = None,
        dy: Tensor | None = None,
        dx: Tensor | None = None,
        dfilters: Tensor | None = None,
        sums: Tensor | None = None,
    ) -> None:
        arguments = structs.Depthwise(
            x.data_ptr(),
            _pointer(dy),
            _pointer(y),
            _pointer(dx),
            _pointer(moments),
            filters.data_ptr(),
            None,
            _pointer(dfilters),
            _pointer(sums),
            ctx.window,
            ctx.relu,
            *_flags(x),
        )
        getattr(library.loaded, f"depthwise_depthwise_{direction}")(byref(arguments))


class Pointwise(torch.autograd.Function):
    """A 1x1 convolution without bias, of stride 1; `weight` [K, M, 1, 1] is float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        y = _new(x, batch, weight.shape[0], height, width)
        keep(ctx, x, weight)
        Pointwise.run("forward", x, weight, y=y)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = kept(ctx)
        dy, dx, dweight = _as(dy, x), None, None
        if ctx.needs_input_grad[0]:
            dx = _new(x)
            Pointwise.run("backward", x, weight, dy=dy, dx=dx)
        if ctx.needs_input_grad[1]:
            dweight = torch.empty_like(weight)
            Pointwise.run("weight", x, weight, dy=dy, dweight=dweight)
        return dx, dweight

    @staticmethod
    def run(
        product: str,
        x: Tensor,
        weight: Tensor,
        *,
        y: Tensor | None = None,
        dy: Tensor | None = None,
        dx: Tensor | None = None,
        dweight: Tensor | None = None,
    ) -> None:
        out_channels, channels = weight.shape[:2]
        arguments = structs.Pointwise(
            x.data_ptr(),
            _pointer(dy),
            _pointer(y),
            _pointer(dx),
            weight.data_ptr(),
            _pointer(dweight),
            x.numel() // channels,
            channels,
            out_channels,
            *_flags(x),
        )
        getattr(library.loaded, f"depthwise_pointwise_{product}")(byref(arguments))


class MaxPool(torch.autograd.Function):
    """max_pool(norm(x)); the norm is optional."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        norm: nn.BatchNorm2d | None,
        kernel: int,
        stride: int,
        padding: tuple[int, int, int, int],
    ) -> Tensor:
        batch, channels, height, width = x.shape
        left, right, top, bottom = padding
        out_height = (height + top + bottom - kernel) // stride + 1
        out_width = (width + left + right - kernel) // stride + 1
        shape = (batch, channels, out_height, out_width)
        moments = None if norm is None else _moments(x, norm)
        y, index = _new(x, *shape), torch.empty(shape, dtype=torch.uint8)
        chosen = None if norm is None else _new(x, *shape)
        ctx.window = structs.Window(
            batch, channels, height, width, out_height, out_width, kernel, stride, top, left
        )
        arguments = structs.Pool(
            x.data_ptr(),
            None,
            y.data_ptr(),
            None,
            _pointer(chosen),
            index.data_ptr(),
            _pointer(moments),
            None,
            ctx.window,
            *_flags(x),
        )
        library.loaded.depthwise_pool_forward(byref(arguments))  # type: ignore[union-attr]
        # Only the norm's gradient needs x; its shape is in the window.
        keep(ctx, None if norm is None else x, index, chosen, moments)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, index, chosen, moments = kept(ctx)
        window, dy = ctx.window, dy.contiguous(memory_format=torch.channels_last)
        dx = _new(dy, window.batch, window.channels, window.height, window.width)
        sums = dweight = dbias = None
        if x is not None:
            sums = torch.empty(2, window.channels, dtype=torch.float64)
            rows = dy.numel() // window.channels
            reduce = structs.Reduce(
                dy.data_ptr(),
                chosen.data_ptr(),
                None,
                moments.data_ptr(),
                sums.data_ptr(),
                rows,
                window.channels,
                False,
                *_flags(dy),
            )
            library.loaded.depthwise_reduce(byref(reduce))  # type: ignore[union-attr]
            dweight, dbias = (sums[1] * moments[1]).float(), sums[0].float()
        arguments = structs.Pool(
            _pointer(x),
            dy.data_ptr(),
            None,
            dx.data_ptr(),
            None,
            index.data_ptr(),
            _pointer(moments),
            _pointer(sums),
            window,
            *_flags(dy),
        )
        library.loaded.depthwise_pool_backward(byref(arguments))  # type: ignore[union-attr]
        return dx, dweight, dbias, None, None, None, None
