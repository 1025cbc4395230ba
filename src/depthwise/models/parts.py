"""Inception networks written as data.

`C` is one convolution with batch norm and ReLU, a tuple is a chain, a list is a set of branches whose outputs are
concatenated, and anything else makes a layer that keeps the channels.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from depthwise.layers import (
    Branches,
    ConvNorm,
    Norm,
    PointwiseConv2d,
    conv2d,
    relu,
    scale_width,
    tensorflow_norm,
)


@dataclass(frozen=True)
class C:
    """A convolution to `channels` maps, with batch norm and ReLU."""

    channels: int
    kernel_size: int | tuple[int, int]
    stride: int = 1
    padding: int | str = "same"


Part = C | tuple["Part", ...] | list["Part"] | Callable[[], nn.Module]


def build(part: Part, channels: int, width: float, norm: Norm = tensorflow_norm) -> tuple[nn.Module, int]:
    """The module that `part` describes for an input of `channels` maps, and how many maps it puts out."""
    match part:
        case C(out, kernel_size, stride, padding):
            out = scale_width(out, width)
            if kernel_size == 1:
                return ConvNorm(PointwiseConv2d(channels, out, stride), out, relu, norm), out
            conv = conv2d(channels, out, kernel_size, stride, padding)
            return ConvNorm(conv, out, relu, norm), out
        case tuple():
            chain = nn.Sequential()
            for step in part:
                module, channels = build(step, channels, width, norm)
                chain.append(module)
            return chain, channels
        case list():
            modules, outs = zip(*(build(branch, channels, width, norm) for branch in part), strict=True)
            return Branches(*modules), sum(outs)
        case _:
            return part(), channels
