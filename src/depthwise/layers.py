"""The few blocks every family shares: SAME padding, pointwise and separable convolutions, batch norm, checks.

Weights are laid out as in PyTorch; the geometry is TensorFlow's where the two differ, so that weights
published for TensorFlow give the same numbers here.

What looks at a tensor before it computes is a function under `torch.fx.wrap`: a symbolic trace keeps the call, and the
decision is made when the graph runs. How blocks run with few passes over memory in training is `native`'s affair.
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import lcm
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise import native
from depthwise.errors import DepthwiseError
from depthwise.native import pointwise_conv2d

torch.fx.wrap("pointwise_conv2d")

Norm = Callable[[int], nn.Module]
"""The number of channels -> a batch norm for them."""

Conv = Callable[[int, int, int], nn.Module]
"""What a block is given: (in_channels, out_channels, kernel_size) -> stride 1, SAME padding, no bias."""

Activation = Callable[[], nn.Module]

# It overwrites its input: use it only after a batch norm, whose backward reads its own input and not its output.
relu = partial(nn.ReLU, inplace=True)


def same_pad(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """What TensorFlow calls SAME: the padding before and after a side of `size` pixels, an odd one after.

    The output has ceil(size / stride) pixels. PyTorch's `padding=kernel_size // 2` agrees with it for odd
    kernels at stride 1, and at stride 2 on odd sizes; on even sizes its windows lie one pixel further to the
    front.
    """
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


@torch.fx.wrap
def padded(x: Tensor, kernel_size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """`x` with the zeros of SAME padding."""
    return F.pad(x, _same_sides(x, kernel_size, stride))


def _same_sides(
    x: Tensor, kernel_size: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[int, int, int, int]:
    height, width = (same_pad(*side) for side in zip(x.shape[2:], kernel_size, stride, strict=True))
    return *width, *height


class SameConv2d(nn.Conv2d):
    """A convolution with SAME padding at any stride: [N, M, H, W] -> [N, K, ceil(H / stride), ceil(W / stride)]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(padded(x, self.kernel_size, self.stride))

    def sides(self, x: Tensor) -> tuple[int, int, int, int]:
        """The padding of `x`: left, right, top, bottom."""
        return _same_sides(x, self.kernel_size, self.stride)


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    stride: int = 1,
    padding: int | str = 0,
    groups: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """nn.Conv2d, which takes padding="same" at any stride and "symmetric" for half the kernel; no bias unless asked."""
    if padding == "symmetric":
        padding = int(kernel_size) // 2  # type: ignore[arg-type]
    if padding == "same" and stride > 1:
        return SameConv2d(in_channels, out_channels, kernel_size, stride, groups=groups, bias=bias)
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias)


def tensorflow_norm(channels: int, eps: float = 1e-3) -> nn.BatchNorm2d:
    """Batch norm with the constants of the TensorFlow releases: momentum 0.99, which PyTorch writes 0.01."""
    return nn.BatchNorm2d(channels, eps=eps, momentum=0.01)


@torch.fx.wrap
def max_pool(x: Tensor, kernel_size: int, stride: int, padding: str, norm: nn.BatchNorm2d | None) -> Tensor:
    """What MaxPool2d computes of norm(x)."""
    edge = kernel_size // 2
    height, width = (
        same_pad(side, kernel_size, stride) if padding == "same" else (edge, edge) for side in x.shape[2:]
    )
    return native.max_pool2d(x, kernel_size, stride, (*width, *height), norm)


class MaxPool2d(nn.Module):
    """Max pooling: [N, C, H, W] -> [N, C, ceil(H / stride), ceil(W / stride)].

    The padding is TensorFlow's SAME or "symmetric", half the kernel on either side as in PyTorch's releases.
    """

    def __init__(self, kernel_size: int = 3, stride: int = 2, padding: str = "same") -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return self.after_norm(x, None)

    def after_norm(self, x: Tensor, norm: nn.BatchNorm2d | None) -> Tensor:
        """The same of norm(x), in training in one pass."""
        return max_pool(x, self.kernel_size, self.stride, self.padding, norm)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class PointwiseConv2d(nn.Module):
    """A 1x1 convolution without bias: [N, M, H, W] -> [N, K, ceil(H / stride), ceil(W / stride)].

    The weight is a convolution's, [K, M, 1, 1].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return pointwise_conv2d(x, self.weight, self.stride)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"


@native.chain("depthwise", "between", "pointwise")
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
        self.depthwise = conv2d(in_channels, in_channels, kernel_size, stride, "same", groups=in_channels)
        self.between = between()
        self.pointwise = PointwiseConv2d(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.between(native.depthwise_conv2d(x, self.depthwise)))


@native.chain("conv", "norm", "activation")
class ConvNorm(nn.Module):
    """activation(norm(conv(x))) for a `conv` that puts out `channels` maps."""

    def __init__(
        self,
        conv: nn.Module,
        channels: int,
        activation: Activation = nn.Identity,
        norm: Norm = tensorflow_norm,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm: Any = norm(channels)  # of whatever kind: `native` looks
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        return native.batch_norm_act(self.conv(x), self.norm, self.activation)


class Branches(nn.Module):
    """The branches' outputs side by side: [N, C, H, W] -> [N, C1 + C2 + ..., H', W']."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return native.concatenate(x, self.branches)


class Residual(nn.Module):
    """activation(scale * body(x) + skip(x)); the skip is x itself unless given. `body` must not overwrite x."""

    def __init__(
        self,
        body: nn.Module,
        skip: nn.Module | None = None,
        activation: Activation = nn.Identity,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.body = body
        self.skip = nn.Identity() if skip is None else skip
        self.activation = activation()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return native.add_residual(x, self.body, self.skip, self.activation, self.scale)

    def extra_repr(self) -> str:
        return "" if self.scale == 1 else f"scale={self.scale}"


class SqueezeExcite(nn.Module):
    """x times a gate for each channel, from the means of all (Hu 2018, arXiv 1709.01507, section 3): shape kept."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        squeezed = max(1, channels // reduction)
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return native.gated(x, self.gate, (self.squeeze, self.excite))

    def gate(self, means: Tensor) -> Tensor:
        """[N, C, 1, 1] to the same: what each map is multiplied by, from the means of all."""
        return self.excite(F.relu(self.squeeze(means))).sigmoid()


class GlobalAverage(nn.Module):
    """The mean of each map: [N, C, H, W] -> [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return native.global_mean(x)


class Tapped(nn.Sequential):
    """Parts one after another, the outputs of some of which are read elsewhere too: `taps` names these by their places.

    To get these maps, pass a dictionary for them, stage(x, maps={}); `each` runs a part in another way.
    """

    def __init__(self, *parts: Any, taps: Mapping[int, str] | None = None) -> None:
        super().__init__(*parts)
        self.taps = dict(taps or {})

    def forward(
        self,
        x: Tensor,
        maps: dict[str, Tensor] | None = None,
        each: Callable[[nn.Module, Tensor], Tensor] | None = None,
    ) -> Tensor:
        for place, part in enumerate(self):
            x = (each or native.run)(part, x)
            if maps is not None and place in self.taps:
                maps[self.taps[place]] = x
        return x


def blocks(stage: nn.Module) -> list[nn.Module]:
    """`stage` cut after each part whose output is a plain map, so that what runs in one pass stays together."""
    if type(stage) is not nn.Sequential or native.watched(stage):
        return [stage]
    found: list[nn.Module] = []
    begun = nn.Sequential()
    for part in stage:
        begun.append(part)
        if isinstance(part, Residual | Branches):
            found.append(begun)
            begun = nn.Sequential()
    return [*found, begun] if len(begun) else found


def initialise(network: nn.Module) -> None:
    """He normal by fan-in for every convolution, N(0, 0.01) for every linear layer; in place.

    PyTorch's fan-out leaves the groups out of account, which starts a depthwise filter over M channels
    sqrt(M) times too small. After 250 steps of a narrow Xception on Fashion-MNIST the training loss was 0.29
    by fan-in, 0.35 by fan-out and 0.37 with Keras' Glorot uniform (two seeds each).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | PointwiseConv2d):
            nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


WidthFactor = float | tuple[float, int]
"""What a network's channels are multiplied by; in a pair, with what they are then multiples of, instead of 8."""


def factor_and_step(width: WidthFactor) -> tuple[float, int]:
    """What channels are multiplied by, and what they are multiples of then."""
    return width if isinstance(width, tuple) else (width, 8)


def scale_width(channels: int, width: WidthFactor, at_least: float = 0.0, multiple: int = 1) -> int:
    """`channels` times `width`, to the nearest multiple of 8, or of the pair's step, from that up.

    At width 1 they are `channels` themselves. at_least: a factor below it counts as it. multiple: they can be divided
    by it as well.
    """
    factor, step = factor_and_step(width)
    factor, step = max(factor, at_least), lcm(step, multiple)
    return channels if factor == 1 else max(step, int(channels * factor / step + 0.5) * step)


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
