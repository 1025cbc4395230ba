"""Poolings and means: what is computed of a map's windows, channel by channel."""

from math import prod
from typing import Any

import torch

from depthwise.infer.graph import AdaptivePooling, Convolution, Mean, Pooling, Sides
from depthwise.infer.lowering import Lowering, argument, rule
from depthwise.infer.trace import Node


@rule("max_pool2d", "max_pool2d_with_indices")
def max_pool2d(lowering: Lowering, node: Node) -> None:
    source, outside = lowering.padded(node, -float("inf"))
    kernel, stride, own = _numbers(node)
    dilation = _pair(argument(node, 4, [1]))
    lowering.add(node, Pooling(source, kernel, stride, _both(outside, own), dilation=dilation))


@rule("avg_pool2d")
def avg_pool2d(lowering: Lowering, node: Node) -> None:
    source, outside = lowering.padded(node, 0.0)
    kernel, stride, own = _numbers(node)
    sides = _both(outside, own)
    counted = sides if argument(node, 5, True) else outside
    pool = Pooling(source, kernel, stride, sides, average=True, counted=counted, divisor=argument(node, 6))
    lowering.add(node, pool)


def _numbers(node: Node) -> tuple[tuple[int, int], tuple[int, int], Sides]:
    """Kernel, stride and padding of any pooling; a single number is for both sides."""
    kernel = _pair(node.args[1])
    top, left = _pair(argument(node, 3, [0]))
    return kernel, _pair(argument(node, 2) or kernel), (top, left, top, left)


def _pair(numbers: Any) -> tuple[int, int]:
    first, second = (*numbers, *numbers)[:2]
    return first, second


def _both(outside: Sides, own: Sides) -> Sides:
    top, left, bottom, right = (one + other for one, other in zip(outside, own, strict=True))
    return top, left, bottom, right


@rule("mean")
def mean(lowering: Lowering, node: Node) -> None:
    """A mean over any of a map's rows, columns and channels; that over channels is a 1x1 convolution."""
    source = lowering.map(node, node.args[0])
    axes = {axis % 4 for axis in argument(node, 1) or [0]}
    if 0 in axes or node.kwargs:
        raise lowering.refusal(node, "a mean over the batch, or of another type,")
    channels, height, width = lowering.shapes[source]
    if axes >= {2, 3}:
        lowering.add(node, Mean(source), (channels, 1, 1))
    elif axes & {2, 3}:
        kernel, shape = ((height, 1), (1, width)) if 2 in axes else ((1, width), (height, 1))
        pool = Pooling(source, kernel, (1, 1), (0, 0, 0, 0), average=True)
        lowering.add(node, pool, (channels, *shape))
    if 1 in axes:
        index = source if axes == {1} else len(lowering.operations) - 1
        weight, name = torch.full((1, channels, 1, 1), 1 / channels), lowering.unique(node.place)
        shape = lowering.shapes[index][1:]
        lowering.add(
            node, Convolution(index, weight, torch.zeros(1), (1, 1), (0, 0, 0, 0), 1, name), (1, *shape)
        )


@rule("sum")
def total(lowering: Lowering, node: Node) -> None:
    """A sum, as the mean times the number of values."""
    mean(lowering, node)
    value = lowering.value(node)
    shape = lowering.shapes[value.index]
    count = prod(lowering.shapes[lowering.value(node.args[0]).index]) / prod(shape)
    weight, name = torch.full((shape[0], 1, 1, 1), count), lowering.unique(node.place)
    times = Convolution(value.index, weight, torch.zeros(shape[0]), (1, 1), (0, 0, 0, 0), shape[0], name)
    lowering.add(node, times, shape)


@rule("adaptive_avg_pool2d")
def adaptive_avg_pool2d(lowering: Lowering, node: Node) -> None:
    source = lowering.map(node, node.args[0])
    lowering.add(node, Mean(source) if [*node.shape[2:]] == [1, 1] else AdaptivePooling(source, average=True))


@rule("adaptive_max_pool2d")
def adaptive_max_pool2d(lowering: Lowering, node: Node) -> None:
    lowering.add(node, AdaptivePooling(lowering.map(node, node.args[0]), average=False))


def largest(lowering: Lowering, node: Node) -> None:
    """The largest value of each row, column or map."""
    source = lowering.map(node, node.args[0])
    channels, height, width = lowering.shapes[source]
    axes = {axis % 4 for axis in argument(node, 1, [])}
    if not axes or not axes <= {2, 3}:
        raise lowering.refusal(
            node, "a maximum other than maxout after a convolution, or over a map's sides,"
        )
    kernel = height if 2 in axes else 1, width if 3 in axes else 1
    shape = channels, 1 if 2 in axes else height, 1 if 3 in axes else width
    lowering.add(node, Pooling(source, kernel, (1, 1), (0, 0, 0, 0)), shape)
