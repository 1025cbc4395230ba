"""Inception networks written as data.

`C` is one convolution with batch norm and ReLU, a tuple is a chain, a list is a set of branches whose outputs are
concatenated, `R` is a residual, and anything else makes a layer that keeps the channels.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.layers import (
    Activation,
    Branches,
    ConvNorm,
    MaxPool2d,
    Norm,
    PointwiseConv2d,
    Residual,
    Tapped,
    WidthFactor,
    conv2d,
    relu,
    scale_width,
    tensorflow_norm,
)
from depthwise.models.network import Network, Stage


@dataclass(frozen=True)
class C:
    """A convolution to `channels` maps, with batch norm and ReLU."""

    channels: int
    kernel_size: int | tuple[int, int]
    stride: int = 1
    padding: int | str = "same"


@dataclass(frozen=True)
class R:
    """relu(x + scale * conv(body(x))), where `conv` is a 1x1 to the channels of x with a bias and no batch norm."""

    body: "Part"
    scale: float
    activation: Activation = relu


@dataclass(frozen=True)
class D:
    """A depthwise convolution to `multiplier` maps a channel; nothing behind it, so that a `C` makes it separable."""

    multiplier: int
    kernel_size: int
    stride: int = 1
    padding: int | str = "same"


Part = C | R | D | tuple["Part", ...] | list["Part"] | Callable[[], nn.Module]


def average_pool(count_padding: bool) -> Part:
    """The 3x3 average pooling of a branch; TensorFlow and Keras leave the zeros at the border out of the mean."""
    return partial(nn.AvgPool2d, 3, stride=1, padding=1, count_include_pad=count_padding)


def strided_pool(padding: str, kernel_size: int = 3) -> Part:
    """Max pooling of stride 2: TensorFlow's SAME, or "symmetric" as Caffe has it, whose last window may stand out."""
    if padding == "symmetric":
        return partial(nn.MaxPool2d, kernel_size, stride=2, ceil_mode=True)
    return partial(MaxPool2d, kernel_size, stride=2)


def build(
    part: Part, channels: int, width: WidthFactor, norm: Norm = tensorflow_norm, bias: bool = False
) -> tuple[nn.Module, int]:
    """The module that `part` describes for an input of `channels` maps, and how many maps it puts out.

    `bias` gives every `C` one, beside batch norm's own: without effect, but some releases have it.
    """
    make = partial(build, width=width, norm=norm, bias=bias)
    match part:
        case C(out, kernel_size, stride, padding):
            out = scale_width(out, width)
            if kernel_size == 1 and not bias:
                return ConvNorm(PointwiseConv2d(channels, out, stride), out, relu, norm), out
            conv = conv2d(channels, out, kernel_size, stride, padding, bias=bias)
            return ConvNorm(conv, out, relu, norm), out
        case D(multiplier, kernel_size, stride, padding):
            out = channels * multiplier
            return conv2d(channels, out, kernel_size, stride, padding, groups=channels), out
        case R(body, scale, activation):
            module, out = make(body, channels)
            chain = nn.Sequential(module, conv2d(out, channels, 1, bias=True))
            return Residual(chain, activation=activation, scale=scale), channels
        case tuple():
            chain = nn.Sequential()
            for step in part:
                module, channels = make(step, channels)
                chain.append(module)
            return chain, channels
        case list():
            modules, outs = zip(*(make(branch, channels) for branch in part), strict=True)
            return Branches(*modules), sum(outs)
        case _:
            return part(), channels


Plan = Mapping[str, tuple[int, tuple[Part, ...]]]
"""The stages of a network by name: how many times smaller than the image they end, and their parts in order."""

Tower = Callable[..., nn.Module]
"""(channels, num_classes, width, norm) -> an auxiliary classifier for a stage's maps."""


def inception(
    plan: Plan,
    num_classes: int,
    in_channels: int,
    *,
    width: WidthFactor,
    norm_eps: float,
    bias: bool = False,
    aux: Mapping[str, Tower] | None = None,
    taps: Mapping[str, Mapping[int, str]] | None = None,
    **arguments: Any,
) -> Network:
    """The network of `plan`, with the towers of `aux` at the stages they are named for; the rest is `Network`'s.

    taps: names for parts within stages, {stage: {place: name}}, for towers there.
    """
    norm = partial(tensorflow_norm, eps=norm_eps)
    aux = (aux if num_classes else None) or {}
    stages, towers, channels = [], {}, in_channels
    for stage, (stride, steps) in plan.items():
        inside = {place: name for place, name in (taps or {}).get(stage, {}).items() if name in aux}
        names = inside | {len(steps) - 1: stage}
        parts = []
        for place, step in enumerate(steps):
            part, channels = build(step, channels, width, norm, bias)
            parts.append(part)
            name = names.get(place, "")
            if name in aux:
                towers[name] = aux[name](channels, num_classes, width, norm)
        module = Tapped(*parts, taps=inside) if inside else nn.Sequential(*parts)
        stages.append(Stage(stage, module, channels, stride))
    return Network(stages, num_classes=num_classes, in_channels=in_channels, aux=towers, **arguments)


class Aux(nn.Module):
    """An auxiliary classifier, at training time a regulariser: [N, C, H, W] -> logits [N, K].

    Average pooling to `grid` x `grid`, two convolutions, the second over the whole grid, and a linear layer. Unless
    said otherwise it is Inception V3's (Szegedy 2016, section 4). `ceil`: the last window may reach over the edge.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        width: WidthFactor,
        norm: Norm,
        hidden: int = 768,
        grid: int = 5,
        ceil: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.ceil = grid, ceil
        self.features, channels = build((C(128, 1), C(hidden, grid, padding=0)), channels, width, norm)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(averaged(x, self.grid, self.ceil)).mean((2, 3)))


@torch.fx.wrap
def averaged(x: Tensor, grid: int, ceil: bool) -> Tensor:
    """Windows of 5x5, 3 pixels apart, 5x5 of them in 17x17; a map too small for the grid is divided evenly."""
    if min(x.shape[2:]) >= 3 * grid + (0 if ceil else 2):
        return F.avg_pool2d(x, 5, stride=3, ceil_mode=ceil)
    return F.adaptive_avg_pool2d(x, grid)


def truncated_normal(network: nn.Module, std: float | None = None) -> None:
    """Weights from a normal distribution cut off at two deviations, biases 0; in place.

    With `std` that is the deviation of all. Without, a convolution's is sqrt(2 / fan_in) after the cut, which is
    TF-slim's variance scaling, and a linear layer's 0.01.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | PointwiseConv2d | nn.Linear):
            linear = isinstance(module, nn.Linear)
            # The cut takes the factor 1.3 from the variance.
            s = std or (0.01 if linear else math.sqrt(1.3 * 2 / module.weight[0].numel()))
            nn.init.trunc_normal_(module.weight, std=s, a=-2 * s, b=2 * s)
            _zero_bias(module)


def glorot_uniform(network: nn.Module) -> None:
    """Glorot uniform for the weights of every convolution and linear layer, biases 0; in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | PointwiseConv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            _zero_bias(module)


def _zero_bias(module: nn.Module) -> None:
    bias = getattr(module, "bias", None)
    if bias is not None:
        nn.init.zeros_(bias)
