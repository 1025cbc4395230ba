"""The depthwise convolution of `gpu/kernels.py` as a function of tensors, and for PyTorch's autograd."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from depthwise.errors import UsageError

KERNELS = (3, 5)
STRIDES = (1, 2)
DTYPES = (torch.float32, torch.bfloat16)

Padding = tuple[int, int, int, int]
"""Left, right, top, bottom, as F.pad counts."""

_TILE = 1024
_PROGRAMS = 1024
"""That the weights' gradient is shared by, about: several for each of a GPU's 40 to 140 multiprocessors."""


def available() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def version() -> str:
    """Triton's, which builds of PyTorch call by several names."""
    import triton

    return str(triton.__version__)


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int, padding: Padding) -> Tensor:
    """Each channel by its own filter: x [N, C, H, W], weight [C, 1, k, k] -> [N, C, H', W'], channels last.

    x is float32 or bfloat16, k 3 or 5, the stride 1 or 2; sums are float32, and the weights are taken as they are,
    not rounded to bfloat16. There is no double backward, and an error says so.
    """
    channels, kernel = x.shape[1], weight.shape[-1]
    left, right, top, bottom = padding
    if weight.shape != (channels, 1, kernel, kernel) or kernel not in KERNELS or stride not in STRIDES:
        raise UsageError(
            f"weights {list(weight.shape)} at stride {stride} do not fit a map {list(x.shape)}: give [C, 1, k, k] with "
            f"a k of 3 or 5, and stride 1 or 2"
        )
    if x.dtype not in DTYPES:
        raise UsageError(f"a map of {x.dtype} has no kernel: give float32 or bfloat16")
    if x.shape[2] + top + bottom < kernel or x.shape[3] + left + right < kernel or x.numel() == 0:
        raise UsageError(
            f"a map {list(x.shape)}, padded by {list(padding)}, is smaller than the kernel of {kernel}x{kernel}: pad it"
        )
    result: Tensor = _Depthwise.apply(x, weight, stride, padding)
    return result


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: Padding) -> Tensor:
        x, taps = x.contiguous(memory_format=torch.channels_last), weight.flatten(1).t().contiguous()
        ctx.stride, ctx.padding, ctx.weight = stride, padding, (weight.shape, weight.dtype)
        ctx.save_for_backward(x, taps)
        return _forward(x, taps, weight.shape[-1], stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, taps = ctx.saved_tensors
        (shape, dtype), kernel = ctx.weight, ctx.weight[0][-1]
        dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = _input_gradient(dy, x, taps, kernel, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            parts = _weight_gradient(dy, x, kernel, ctx.stride, ctx.padding)
            # A sum over one dimension has one order for a shape, on GPUs, too.
            dweight = parts.sum(0).t().reshape(shape).to(dtype)
        return dx, dweight, None, None


def _forward(x: Tensor, taps: Tensor, kernel: int, stride: int, padding: Padding) -> Tensor:
    from depthwise.gpu import kernels

    batch, channels, height, width = x.shape
    left, right, top, bottom = padding
    out_height = (height + top + bottom - kernel) // stride + 1
    out_width = (width + left + right - kernel) // stride + 1
    y = torch.empty(
        (batch, channels, out_height, out_width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    pixels, block, blocks = _tile(channels)
    num_pixels = batch * out_height * out_width
    sizes = (num_pixels, channels, height, width, out_height, out_width, top, left)
    grid = (-(-num_pixels // pixels), blocks)
    with torch.cuda.device_of(x):
        kernels.forward[grid](x, taps, y, *sizes, kernel, stride, pixels, block)
    return y


def _input_gradient(
    dy: Tensor, x: Tensor, taps: Tensor, kernel: int, stride: int, padding: Padding
) -> Tensor:
    from depthwise.gpu import kernels

    dx = torch.empty_like(x)
    pixels, block, blocks = _tile(x.shape[1])
    num_pixels = x.numel() // x.shape[1]
    sizes = (num_pixels, *x.shape[1:], *dy.shape[2:], padding[2], padding[0])
    grid = (-(-num_pixels // pixels), blocks)
    with torch.cuda.device_of(x):
        kernels.input_gradient[grid](dy, taps, dx, *sizes, kernel, stride, pixels, block)
    return dx


def _weight_gradient(dy: Tensor, x: Tensor, kernel: int, stride: int, padding: Padding) -> Tensor:
    """float32 [splits, k * k, C], to be added over the splits."""
    from depthwise.gpu import kernels

    channels = x.shape[1]
    pixels, block, blocks = _tile(channels)
    num_pixels = dy.numel() // channels
    splits, tiles = _split(-(-num_pixels // pixels), kernel * blocks)
    parts = torch.empty(splits, kernel * kernel, channels, device=x.device)
    sizes = (num_pixels, *x.shape[1:], *dy.shape[2:], padding[2], padding[0], tiles)
    grid = (kernel, blocks, splits)
    with torch.cuda.device_of(x):
        kernels.weight_gradient[grid](x, dy, parts, *sizes, kernel, stride, pixels, block)
    return parts


def _tile(channels: int) -> tuple[int, int, int]:
    """Pixels and channels of a tile, powers of two, and how many tiles the channels take."""
    block = min(64, 1 << (channels - 1).bit_length())
    return _TILE // block, block, -(-channels // block)


def _split(num_tiles: int, others: int) -> tuple[int, int]:
    """Into how many parts the tiles go, and how many each has; `others` programs share a part."""
    wanted = max(1, min(num_tiles, _PROGRAMS // others))
    tiles = -(-num_tiles // wanted)
    return -(-num_tiles // tiles), tiles
