"""What the layers call: an operator with the batch norm, ReLU or sum next to it, in one native pass where possible.

Elsewhere the modules are called one after another, which also defines what is computed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.native import ops
from depthwise.native.library import library
from depthwise.native.update import is_plain

Padding = tuple[int, int, int, int]
"""Left, right, top, bottom, as F.pad counts."""

_DTYPES = (torch.float32, torch.bfloat16)

_evaluates: ContextVar[bool] = ContextVar("evaluates", default=False)


@contextmanager
def evaluating() -> Iterator[None]:
    """The kernels also run networks in evaluation, without gradients; elsewhere PyTorch's operators do."""
    token = _evaluates.set(True)
    try:
        yield
    finally:
        _evaluates.reset(token)


def applies(x: Tensor) -> bool:
    """Whether the kernels may read the memory of `x`: a plain CPU tensor that is not traced or transformed.

    Not while hooks for all modules are registered, which must see each run by itself.
    """
    return (
        library.handle is not None
        and type(x) in (Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and x.dtype in _DTYPES
        and x.ndim == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and (torch.is_grad_enabled() or _evaluates.get())
        and torch._C._get_tracing_state() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch.autograd.forward_ad._current_level < 0
        and not torch.nn.modules.module._has_any_global_hook()
    )


def _lies_plain(tensor: Tensor | None, shape: tuple[int, ...]) -> bool:
    """Whether the kernels may read and write a parameter or a buffer: float32 of this `shape` on the CPU, without gaps.

    What is anything else is left to PyTorch, which computes with it or says what is wrong.
    """
    return is_plain(tensor) and tensor.shape == shape and tensor.is_contiguous()


def watched(module: nn.Module) -> bool:
    """Whether `module` must be called by itself: it has hooks, or a `forward` of its own in place of its class's."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    )


def _norm_applies(x: Tensor, norm: nn.Module) -> bool:
    return (
        type(norm) is nn.BatchNorm2d
        and (norm.training or not torch.is_grad_enabled())
        and norm.track_running_stats
        and norm.num_batches_tracked is not None
        and x.numel() > x.shape[1]
        and all(
            _lies_plain(tensor, x.shape[1:2])
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        and not watched(norm)
    )


_RELUS: dict[type[nn.Module], int] = {nn.Identity: 0, nn.ReLU: 1, nn.ReLU6: 6}
"""Activations by the kernels' names."""


def _rectifies(activation: nn.Module | None) -> int | None:
    """The kernels' name of an activation, 0 for none, None for one without a native form."""
    if activation is None:
        return 0
    return None if watched(activation) else _RELUS.get(type(activation))


def batch_norm_act(
    x: Tensor, norm: nn.BatchNorm2d, activation: nn.Module | None = None, residual: Tensor | None = None
) -> Tensor:
    """activation(norm(x) + residual), [N, C, H, W] to the same; activation and residual are optional.

    Native in training with nn.ReLU, nn.Identity or, without a residual, nn.ReLU6 after the norm, whose running
    statistics then change as in its own forward. The native path has no double backward, and an error says so.
    """
    relu = _rectifies(activation)
    if (
        relu is not None
        and applies(x)
        and _norm_applies(x, norm)
        and (
            residual is None
            or (relu <= 1 and applies(residual) and residual.dtype is x.dtype and residual.shape == x.shape)
        )
    ):
        return ops.Norm.apply(x, norm.weight, norm.bias, residual, norm, relu)
    y = norm(x)
    if residual is not None:
        y = y + residual
    return y if activation is None else activation(y)


def max_pool2d(
    x: Tensor, kernel_size: int, stride: int, padding: Padding, norm: nn.BatchNorm2d | None = None
) -> Tensor:
    """The largest norm(x) of each window, [N, C, H, W] to [N, C, H', W']; the norm is optional.

    `padding` never wins, and is less than the kernel on every side.
    """
    if applies(x) and kernel_size <= 15 and (norm is None or _norm_applies(x, norm)):
        weight, bias = (None, None) if norm is None else (norm.weight, norm.bias)
        return ops.MaxPool.apply(x, weight, bias, norm, kernel_size, stride, padding)
    if norm is not None:
        x = norm(x)
    left, right, top, bottom = padding
    sides = ((x.shape[3], left, right), (x.shape[2], top, bottom))
    for ceil in (False, True):
        # PyTorch pads both sides alike, and ceil_mode adds to the end: if that gives the same windows, nothing is
        # copied.
        if all(
            _pooled(s, a, a, kernel_size, stride, ceil) == _pooled(s, a, b, kernel_size, stride)
            for s, a, b in sides
        ):
            return F.max_pool2d(x, kernel_size, stride, (top, left), ceil_mode=ceil)
    return F.max_pool2d(F.pad(x, padding, value=-torch.inf), kernel_size, stride)


def side_of(size: int | tuple[int, ...]) -> int:
    """The side of a square, -1 of any other rectangle."""
    if isinstance(size, int):
        return size
    return size[0] if size[0] == size[1] else -1


def max_pool(x: Tensor, pool: nn.MaxPool2d) -> Tensor:
    """pool(x), [N, C, H, W] to [N, C, H', W']; native in training if its windows are square and without holes."""
    kernel, stride, edge = (side_of(size) for size in (pool.kernel_size, pool.stride, pool.padding))
    if (
        type(pool) is not nn.MaxPool2d
        or min(kernel, stride, edge) < 0
        or pool.dilation != 1
        or pool.return_indices
        or watched(pool)
        or not applies(x)
    ):
        return pool(x)
    after = (
        max(
            edge,
            (_pooled(side, edge, edge, kernel, stride, pool.ceil_mode) - 1) * stride + kernel - side - edge,
        )
        for side in (x.shape[3], x.shape[2])
    )
    right, bottom = after
    return max_pool2d(x, kernel, stride, (edge, right, edge, bottom))


def _pooled(size: int, before: int, after: int, kernel_size: int, stride: int, ceil: bool = False) -> int:
    """The number of windows on a side in PyTorch: `ceil` counts one more if it starts within the map."""
    rest = size + before + after - kernel_size
    count = rest // stride + 1
    return count + (ceil and rest % stride > 0 and count * stride < size + before)


def pointwise_conv2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A 1x1 convolution without bias, [N, M, H, W] to [N, K, ceil(H / stride), ceil(W / stride)]; weight [K, M, 1, 1].

    Native in training. What PyTorch's library is quicker at is left to it, by a rule and not by the clock, so that
    equal runs have equal bits.
    """
    on_cpu = x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
    if on_cpu and stride > 1 and (torch.is_grad_enabled() or applies(x)):
        # The strided convolution's backward writes beyond its memory in PyTorch 2.14 when maps are narrow.
        # A pooling window of one pixel takes the same pixels as x[:, :, ::stride, ::stride]. The backward of that
        # slice returns a map of another layout, which is slow to add to.
        x, stride = max_pool2d(x, 1, stride, (0, 0, 0, 0)), 1
    if on_cpu and _multiplies(x, weight):
        return ops.Pointwise.apply(x, weight)
    if on_cpu and x.requires_grad and x.dtype == torch.bfloat16:
        # A linear layer takes the map as it is; in float32 it takes up to twice the time of the convolution.
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, stride=stride)


def _multiplies(x: Tensor, weight: Tensor) -> bool:
    """Whether the products of a pointwise convolution are native."""
    if not applies(x) or not _lies_plain(weight, (weight.shape[0], x.shape[1], 1, 1)):
        return False
    if x.dtype is not _computed_in():
        return False
    if x.dtype is torch.float32:
        return library.path != "avx2"
    # AMX multiplies whole tiles of bfloat16; the kernels multiply pairs.
    return library.path != "amx" and x.shape[1] % 2 == weight.shape[0] % 2 == 0


def _computed_in() -> torch.dtype:
    """The dtype of maps in which a layer with float32 weights computes here."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def depthwise_conv2d(
    x: Tensor,
    conv: nn.Conv2d,
    activation: nn.Module | None = None,
    norm: nn.BatchNorm2d | None = None,
) -> Tensor:
    """conv(activation(norm(x))) for a depthwise `conv`, [N, C, H, W] to [N, C, H', W']; the others are optional.

    A `conv` that pads by the size of the map says so by its method `sides`.
    """
    relu, padding = _rectifies(activation), _padding(conv, x)
    if (
        relu is not None
        and padding is not None
        and not (relu and norm is None and activation.inplace)  # type: ignore[union-attr]
        and applies(x)
        and x.dtype is _computed_in()
        and _lies_plain(conv.weight, (x.shape[1], 1, *conv.kernel_size))
        and min(x.shape[2] + sum(padding[2:]), x.shape[3] + sum(padding[:2])) >= conv.kernel_size[0]
        and (norm is None or _norm_applies(x, norm))
    ):
        weight, bias = (None, None) if norm is None else (norm.weight, norm.bias)
        return ops.Depthwise.apply(x, conv.weight, weight, bias, norm, relu, conv.stride[0], padding)
    if norm is not None:
        x = norm(x)
    return conv(x if activation is None else activation(x))


def _padding(conv: nn.Module, x: Tensor) -> Padding | None:
    """The padding of `x`, if `conv` is a convolution that the depthwise kernels can run, else None."""
    sides = getattr(type(conv), "sides", None)
    if (
        not isinstance(conv, nn.Conv2d)
        or (type(conv) is not nn.Conv2d and sides is None)
        or conv.groups != conv.in_channels
        or conv.out_channels != conv.in_channels
        or conv.kernel_size not in ((3, 3), (5, 5), (7, 7))
        or conv.stride[0] != conv.stride[1]
        or conv.dilation != (1, 1)
        or conv.bias is not None
        or conv.padding_mode != "zeros"
        or watched(conv)
    ):
        return None
    if sides is not None:
        found: Padding = sides(conv, x)
        return found
    match conv.padding:
        case "same":
            return (conv.kernel_size[0] // 2,) * 4
        case "valid":
            return 0, 0, 0, 0
        case (int(a), int(b)) if a == b < conv.kernel_size[0]:
            return (a,) * 4
    return None
