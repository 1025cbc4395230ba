"""The few blocks every family shares: SAME padding, pointwise and separable convolutions, batch norm, checks.

Weights are laid out as in PyTorch; the geometry is TensorFlow's where the two differ, so that weights
published for TensorFlow give the same numbers here.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise import native
from depthwise.errors import DepthwiseError, unknown_name

Conv = Callable[[int, int, int], nn.Module]
"""What a block is given: (in_channels, out_channels, kernel_size) -> stride 1, SAME padding, no bias."""

Activation = Callable[[], nn.Module]

STEMS = ("imagenet", "small")

conv2d = partial(nn.Conv2d, bias=False)

# Overwrites its input: only behind a batch norm, whose backward reads its own input and never its output.
relu = partial(nn.ReLU, inplace=True)


def same_pad(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """What TensorFlow calls SAME: the padding before and after a side of `size` pixels, an odd one after.

    The output has ceil(size / stride) pixels. PyTorch's `padding=kernel_size // 2` agrees with it for odd
    kernels at stride 1, and at stride 2 on odd sizes; on even sizes its windows lie one pixel further to the
    front.
    """
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


class MaxPool2d(nn.Module):
    """Max pooling with SAME padding: [N, C, H, W] -> [N, C, ceil(H / stride), ceil(W / stride)]."""

    def __init__(self, kernel_size: int = 3, stride: int = 2) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)

    def pool(self, x: Tensor, norm: nn.BatchNorm2d | None = None) -> Tensor:
        """The same of norm(x), which in training takes one pass less than the two after one another."""
        height, width = (same_pad(side, self.kernel_size, self.stride) for side in x.shape[2:])
        return native.max_pool2d(x, self.kernel_size, self.stride, (*width, *height), norm)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


class PointwiseConv2d(nn.Module):
    """A 1x1 convolution without bias: [N, M, H, W] -> [N, K, ceil(H / stride), ceil(W / stride)].

    The weight is a convolution's, [K, M, 1, 1]. In bfloat16 training on a CPU it is applied as a linear layer
    on the channels-last map, [N*H*W, M] @ [M, K]: that makes a whole Xception step 1.03 to 1.05 times as fast
    with AVX-512 (AMD Zen 5) and 1.1 to 1.3 times with AMX. Everywhere else it is an ordinary convolution: in
    float32 the linear layer takes up to twice the time, and without a backward pass it gains nothing.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        on_cpu = x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
        if on_cpu and self.stride > 1:
            # The strided convolution's backward writes beyond its memory in PyTorch 2.14 when maps are narrow.
            # A pooling window of one pixel takes the same pixels as x[:, :, ::stride, ::stride], whose backward
            # leaves a map of another layout behind, slow to add to.
            x = native.max_pool2d(x, 1, self.stride, (0, 0, 0, 0))
        if on_cpu and x.requires_grad and x.dtype == torch.bfloat16:
            return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1)).permute(0, 3, 1, 2)
        return F.conv2d(x, self.weight, stride=1 if on_cpu else self.stride)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"


class SeparableConv2d(nn.Module):
    """One filter a channel, then a 1x1: [N, M, H, W] -> [N, K, ceil(H / stride), ceil(W / stride)].

    SAME padding, no bias, depth multiplier 1. `between` makes the activation between the two; none is the
    published choice and the best one (Chollet 2017, section 4.7).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        between: Activation = nn.Identity,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        padding = "same" if stride == 1 else "valid"
        self.depthwise = conv2d(in_channels, in_channels, kernel_size, stride, padding, groups=in_channels)
        self.between = between()
        self.pointwise = PointwiseConv2d(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            height, width = (same_pad(side, self.kernel_size, self.stride) for side in x.shape[2:])
            x = F.pad(x, (*width, *height))
        return self.pointwise(self.between(native.depthwise_conv2d(x, self.depthwise)))


class ConvNorm(nn.Module):
    """activation(norm(conv(x)) + residual) for a `conv` without bias that puts out `channels` maps.

    The residual, of the output's shape, is optional.

    Batch norm has the constants of the TensorFlow releases: epsilon 1e-3, and momentum 0.99, which PyTorch
    writes 0.01.
    """

    def __init__(self, conv: nn.Module, channels: int, activation: Activation = nn.Identity) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
        self.activation = activation()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return native.batch_norm_act(self.conv(x), self.norm, self.activation, residual)


def run(module: nn.Module, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """module(x) + residual, where training on a CPU hands batch norms and ReLUs to the operator behind them.

    Done in one pass over memory, norm, ReLU and depthwise convolution take half the time they take apart.
    """
    if not native.applies(x):
        y: Tensor = module(x)
        return y if residual is None else y + residual
    norm: nn.BatchNorm2d | None = None
    activation: nn.ReLU | None = None

    def settle(x: Tensor, residual: Tensor | None = None) -> Tensor:
        if norm is not None:
            return native.batch_norm_act(x, norm, activation, residual)
        return x if activation is None else activation(x)

    for step in _steps(module):
        match step:
            case nn.Identity():
                pass
            case nn.ReLU() if activation is None:
                activation = step
            case nn.BatchNorm2d():
                x, norm, activation = settle(x), step, None
            case nn.Conv2d(groups=groups) if groups > 1:
                x = native.depthwise_conv2d(x, step, activation, norm)
                norm = activation = None
            case MaxPool2d() if activation is None:
                x, norm = step.pool(x, norm), None
            case _:
                x = step(settle(x))
                norm = activation = None
    if activation is None and norm is not None:
        return settle(x, residual)
    return settle(x) if residual is None else settle(x) + residual


def _steps(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that `module` runs one after another, where that is all it does."""
    in_order = type(module) in (nn.Sequential, ConvNorm)
    in_order |= type(module) is SeparableConv2d and module.stride == 1
    if in_order and not native.watched(module):
        for child in module.children():
            yield from _steps(child)
    else:
        yield module


def initialise(network: nn.Module) -> None:
    """He normal by fan-in for every convolution, N(0, 0.01) for every linear layer; in place.

    PyTorch's fan-out leaves the groups out of account, which starts a depthwise filter over M channels
    sqrt(M) times too small. After 250 steps of a narrow Xception on Fashion-MNIST the training loss was 0.29
    by fan-in, 0.35 by fan-out and 0.37 with Keras' Glorot uniform (two seeds each).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | PointwiseConv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


def scale_width(channels: int, width: float) -> int:
    """`channels` times `width`, to the nearest multiple of 8 from 8 up; `channels` itself at width 1."""
    return channels if width == 1 else max(8, int(channels * width / 8 + 0.5) * 8)


def check_arguments(num_classes: int, in_channels: int, width: float, dropout: float, stem: str) -> None:
    """Raise DepthwiseError for a value out of range, UsageError for a stem that does not exist."""
    if num_classes < 1 or in_channels < 1:
        raise DepthwiseError(
            f"num_classes={num_classes} and in_channels={in_channels} must be at least 1: count the data's"
        )
    if not width > 0:
        raise DepthwiseError(
            f"width={width} must be above 0: it multiplies all channels, and 1 is as published"
        )
    if not 0 <= dropout < 1:
        raise DepthwiseError(f"dropout={dropout} must be at least 0 and below 1: 0 switches it off")
    if stem not in STEMS:
        raise unknown_name("stem", stem, STEMS)


def check_widths(**widths: Sequence[int]) -> None:
    """Raise DepthwiseError unless each of the named sequences holds channel counts of at least 1."""
    for name, values in widths.items():
        if any(value < 1 for value in values):
            raise DepthwiseError(f"{name}={tuple(values)} must hold numbers of channels, each at least 1")


def check_input(x: Tensor, in_channels: int, min_size: int) -> None:
    """Raise DepthwiseError unless `x` is [N, in_channels, H, W] with both sides at least `min_size`."""
    if x.ndim != 4 or x.shape[1] != in_channels:
        raise DepthwiseError(
            f"an input of shape {list(x.shape)} does not fit this network's [N, {in_channels}, H, W]: "
            f"convert the images, or build the network with in_channels as they have"
        )
    height, width = x.shape[2:]
    if height < min_size or width < min_size:
        raise DepthwiseError(
            f"an image of {height}x{width} is below this network's minimum of {min_size}x{min_size}: "
            f'enlarge it, or build the network with stem="small", which takes images from 16x16'
        )
