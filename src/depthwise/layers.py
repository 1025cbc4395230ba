"""The few blocks every family shares: SAME padding, separable and pointwise convolutions, convolution + batch norm.

Weights are laid out as PyTorch lays them out, geometry follows TensorFlow where the two differ, so that the weights
published for TensorFlow give the same numbers here.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.errors import DepthwiseError

Conv = Callable[..., nn.Module]
"""What a block takes as its convolution: `conv(in_channels, out_channels, kernel_size)`, SAME-padded, no bias."""

Activation = Callable[[], nn.Module]

relu = partial(nn.ReLU, inplace=True)
"""For use behind a batch norm only: its backward needs its own input, never the output overwritten here."""


def same_pad(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one side of `size` pixels, as TensorFlow's SAME puts them: the odd one goes after.

    The output then has ceil(size / stride) pixels. PyTorch's `padding=kernel_size // 2` agrees at stride 1 and, at
    stride 2, on odd sizes; on even sizes it looks at a grid shifted by one pixel.
    """
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


class MaxPool2d(nn.Module):
    """Max pooling with SAME padding: [N, C, H, W] -> [N, C, ceil(H / stride), ceil(W / stride)]."""

    def __init__(self, kernel_size: int = 3, stride: int = 2) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        top, _ = same_pad(x.shape[2], self.kernel_size, self.stride)
        left, _ = same_pad(x.shape[3], self.kernel_size, self.stride)
        # ceil_mode supplies the pixel that SAME adds behind an even side, without a padded copy of the map.
        return F.max_pool2d(x, self.kernel_size, self.stride, padding=(top, left), ceil_mode=True)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


class PointwiseConv2d(nn.Module):
    """A 1x1 convolution without bias: [N, M, H, W] -> [N, K, ceil(H / stride), ceil(W / stride)].

    The weight is a convolution's, [K, M, 1, 1]. On a CPU a channels-last map already is the matrix [N*H*W, M], and a
    matrix product trains faster than the general convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 1, 1))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last):
            x = x[:, :, :: self.stride, :: self.stride]
            return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1)).permute(0, 3, 1, 2)
        return F.conv2d(x, self.weight, stride=self.stride)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"


class SeparableConv2d(nn.Module):
    """One filter a channel, then a 1x1 convolution, SAME padding: [N, M, H, W] -> [N, K, ceil(H/s), ceil(W/s)].

    No non-linearity stands between the two unless `between` puts one there (Chollet 2017, section 4.7, finds none best).
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
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, kernel_size, stride, groups=in_channels, bias=False
        )
        self.between = between()
        self.pointwise = PointwiseConv2d(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        (kernel_size, _), (stride, _) = self.depthwise.kernel_size, self.depthwise.stride
        x = F.pad(x, (*same_pad(x.shape[3], kernel_size, stride), *same_pad(x.shape[2], kernel_size, stride)))
        return self.pointwise(self.between(self.depthwise(x)))


class ConvNorm(nn.Module):
    """A convolution, its batch norm, and an activation if one is named.

    Batch norm has the epsilon and the momentum that the TensorFlow releases of Xception and Inception V3 were trained
    with: 1e-3, and 0.99 in Keras' convention, which is 0.01 in PyTorch's.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *args: int | tuple[int, int],
        conv: Conv = partial(nn.Conv2d, bias=False),
        activation: Activation = nn.Identity,
        **kwargs: int | tuple[int, int],
    ) -> None:
        super().__init__()
        self.conv = conv(in_channels, out_channels, *args, **kwargs)
        self.norm = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


def initialise(network: nn.Module) -> None:
    """He normal by fan-in for convolutions (also right for depthwise ones), N(0, 0.01) for linear layers, in place.

    By fan-in because PyTorch's fan-out does not divide by the groups: a depthwise filter over M channels would start
    sqrt(M) times too small.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | PointwiseConv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


def scale_width(channels: int, width: float) -> int:
    """`channels` times `width`, to the nearest multiple of 8 and never under 8; unchanged at width 1."""
    return channels if width == 1 else max(8, int(channels * width / 8 + 0.5) * 8)


def check_arguments(num_classes: int, in_channels: int, width: float, dropout: float) -> None:
    """Raise DepthwiseError for a value no network can be built from."""
    for name, value in {"num_classes": num_classes, "in_channels": in_channels}.items():
        if value < 1:
            raise DepthwiseError(f"{name}={value} is below 1: give the number there really are")
    if not width > 0:
        raise DepthwiseError(
            f"width={width} is not above 0: width multiplies the channels, 1 is the published network"
        )
    if not 0 <= dropout < 1:
        raise DepthwiseError(
            f"dropout={dropout} is not a probability from 0 up to, not including, 1: 0 switches it off"
        )


def check_widths(**widths: Sequence[int]) -> None:
    """Raise DepthwiseError for a channel count below 1 among the named tuples."""
    for name, values in widths.items():
        if any(value < 1 for value in values):
            raise DepthwiseError(
                f"{name}={tuple(values)} holds a width below 1: every width is a number of channels"
            )


def check_input(x: Tensor, in_channels: int, min_size: int) -> None:
    """Raise DepthwiseError unless `x` is [N, in_channels, H, W] with both sides at least `min_size`."""
    if x.ndim != 4 or x.shape[1] != in_channels:
        raise DepthwiseError(
            f"an input of shape {list(x.shape)} does not fit a network for [N, {in_channels}, H, W]: "
            f"convert the images, or build the network with the in_channels they have"
        )
    height, width = x.shape[2:]
    if height < min_size or width < min_size:
        raise DepthwiseError(
            f"a {height}x{width} image is below this network's minimum of {min_size}x{min_size}: enlarge the images, "
            f'or build the network for small ones with stem="small" and fewer downsampling blocks'
        )
