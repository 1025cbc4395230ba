"""Convolutions and linear layers, and the batch norms and maxout that are folded into them."""

from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from depthwise.infer.graph import Convolution, Sum
from depthwise.infer.lowering import Lowering, argument, rule, three
from depthwise.infer.rules.windows import largest
from depthwise.infer.trace import Node

MOST_SPREAD = 20
"""How many times the work a dilated convolution may take as one with zeros; a 3x3 kernel dilated by 6 takes less."""


@rule("conv2d")
def conv2d(lowering: Lowering, node: Node) -> None:
    source, outside = lowering.padded(node, 0.0)
    weight, bias = lowering.tensor(node.args[1]), lowering.tensor(argument(node, 2))
    assert weight is not None
    stride, padding = argument(node, 3, [1, 1]), argument(node, 4, [0, 0])
    dilation, groups = argument(node, 5, [1]), argument(node, 6, 1)
    dilated = (dilation[0], dilation[-1])
    weight = spread(lowering, node, weight, dilated)
    height, width = weight.shape[2:]
    match padding:
        case "same":
            own = ((height - 1) // 2, (width - 1) // 2, height // 2, width // 2)
        case "valid":
            own = (0, 0, 0, 0)
        case _:
            top, left = (*padding, *padding)[:2]
            own = (top, left, top, left)
    down, across = (*stride, *stride)[:2]
    bias = torch.zeros(len(weight)) if bias is None else bias
    top, left, bottom, right = (a + b for a, b in zip(outside, own, strict=True))
    sides = (top, left, bottom, right)
    name = lowering.unique(node.place)
    lowering.add(node, Convolution(source, weight, bias, (down, across), sides, groups, name, dilated))


def spread(lowering: Lowering, node: Node, weight: Tensor, dilation: tuple[int, int]) -> Tensor:
    """The kernel of a dilated convolution as a larger one with zeros in it."""
    down, across = dilation
    height, width = ((side - 1) * by + 1 for side, by in zip(weight.shape[2:], (down, across), strict=True))
    times = height * width / weight[0, 0].numel()
    if times > MOST_SPREAD:
        raise lowering.refusal(
            node,
            f"a convolution dilated by {down} and {across}, which takes {times:.0f} times the work with zeros,",
        )
    wide = weight.new_zeros(*weight.shape[:2], height, width)
    wide[:, :, ::down, ::across] = weight
    return wide


@rule("linear")
def linear(lowering: Lowering, node: Node) -> None:
    product(lowering, node, node.args[0], lowering.tensor(node.args[1]), lowering.tensor(argument(node, 2)))


@rule("matmul", "mm")
def matmul(lowering: Lowering, node: Node) -> None:
    transposed = lowering.tensor(node.args[1])
    assert transposed is not None
    product(lowering, node, node.args[0], transposed.T, None)


@rule("addmm")
def addmm(lowering: Lowering, node: Node) -> None:
    bias, transposed = lowering.tensor(node.args[0]), lowering.tensor(node.args[2])
    assert transposed is not None
    if node.kwargs:
        raise lowering.refusal(node, "a product with factors")
    product(lowering, node, node.args[1], transposed.T, bias)


def product(
    lowering: Lowering, node: Node, operand: Node, weight: Tensor | None, bias: Tensor | None
) -> None:
    """Enter a weight [K, M] times all M values of each image."""
    assert weight is not None
    bias = torch.zeros(len(weight)) if bias is None else bias.expand(len(weight))
    index = lowering.plain(node, operand)
    if prod(lowering.value(operand).shape[:-1]) != 1:
        raise lowering.refusal(node, "a linear layer on a map")
    made = Convolution(
        index,
        weight.unflatten(1, lowering.shapes[index]),
        bias,
        (1, 1),
        (0, 0, 0, 0),
        1,
        lowering.unique(node.place),
    )
    lowering.add(node, made, (len(weight), 1, 1))


@rule("batch_norm")
def batch_norm(lowering: Lowering, node: Node) -> None:
    if node.args[5]:
        raise lowering.refusal(node, "a batch norm by the batch's own statistics")
    lowering.channels(node, node.args[0])
    gamma, beta, mean, variance = (lowering.tensor(argument) for argument in node.args[1:5])
    assert mean is not None
    assert variance is not None
    scale = (variance.double() + node.args[7]).rsqrt() * (1 if gamma is None else gamma.double())
    shift = (0 if beta is None else beta.double()) - mean.double() * scale
    lowering.affine(node, node.args[0], scale, torch.as_tensor(shift))


@rule("amax")
def amax(lowering: Lowering, node: Node) -> None:
    """Maxout, the largest of each n adjacent channels of a convolution, as n convolutions."""
    what = "a maximum other than maxout after a convolution"
    inner = node.args[0]
    if lowering.value(inner).shape == lowering.shapes[lowering.value(inner).index]:
        return largest(lowering, node)
    index, view = lowering.plain(node, inner), lowering.value(inner).shape
    before = lowering.operations[index]
    if (
        len(view) != 4
        or view[2:] != lowering.shapes[index][1:]
        or node.args[1] != [2]
        or len(node.shape) != 4
    ):
        raise lowering.refusal(node, what)
    if not (isinstance(before, Convolution) and before.groups == 1 and lowering.lone(inner)):
        raise lowering.refusal(node, what)
    pieces = view[1]
    parts = [
        replace(before, weight=before.weight[piece::pieces], bias=before.bias[piece::pieces])
        for piece in range(pieces)
    ]
    lowering.operations[index], lowering.shapes[index] = parts[0], three(node.shape[1:])
    for part in parts[1:]:
        lowering.add(node, replace(part, name=lowering.unique(before.name.partition("#")[0])))
        lowering.add(node, Sum(index, len(lowering.operations) - 1, largest=True))
        index = len(lowering.operations) - 1
