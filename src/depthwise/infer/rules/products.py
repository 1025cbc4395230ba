"""Convolutions, linear layers, and what goes into them: batch norms and maxout."""

from dataclasses import replace

import torch

from depthwise.infer.graph import Convolution, Sum
from depthwise.infer.lowering import Lowering, argument, rule, three
from depthwise.infer.trace import Node


@rule("conv2d")
def conv2d(lowering: Lowering, node: Node) -> None:
    source, outside = lowering.padded(node, 0.0)
    weight, bias = lowering.tensor(node.args[1]), lowering.tensor(argument(node, 2))
    assert weight is not None
    stride, padding = argument(node, 3, [1, 1]), argument(node, 4, [0, 0])
    dilation, groups = argument(node, 5, [1, 1]), argument(node, 6, 1)
    height, width = weight.shape[2:]
    match padding:
        case "same":
            own = ((height - 1) // 2, (width - 1) // 2, height // 2, width // 2)
        case "valid":
            own = (0, 0, 0, 0)
        case _:
            top, left = (*padding, *padding)[:2]
            own = (top, left, top, left)
    if len({*stride}) > 1 or {*dilation} != {1}:
        raise lowering.refusal(node, "a convolution with such strides or dilations")
    bias = torch.zeros(len(weight)) if bias is None else bias
    top, left, bottom, right = (a + b for a, b in zip(outside, own, strict=True))
    sides = (top, left, bottom, right)
    name = lowering.unique(node.place)
    lowering.add(node, Convolution(source, weight, bias, stride[0], sides, groups, name))


@rule("linear")
def linear(lowering: Lowering, node: Node) -> None:
    weight, bias = lowering.tensor(node.args[1]), lowering.tensor(argument(node, 2))
    assert weight is not None
    bias = torch.zeros(len(weight)) if bias is None else bias
    index = lowering.plain(node, node.args[0])
    if len(lowering.value(node.args[0]).shape) != 1:
        raise lowering.refusal(node, "a linear layer on a map")
    weight = weight.unflatten(1, lowering.shapes[index])
    lowering.add(node, Convolution(index, weight, bias, 1, (0, 0, 0, 0), 1, lowering.unique(node.place)))


@rule("batch_norm")
def batch_norm(lowering: Lowering, node: Node) -> None:
    if node.args[5]:
        raise lowering.refusal(node, "a batch norm by the batch's own statistics")
    index = lowering.channels(node, node.args[0])
    before = lowering.operations[index]
    gamma, beta, mean, variance = (lowering.tensor(argument) for argument in node.args[1:5])
    assert mean is not None
    assert variance is not None
    scale = (variance.double() + node.args[7]).rsqrt() * (1 if gamma is None else gamma.double())
    shift = (0 if beta is None else beta.double()) - mean.double() * scale
    if isinstance(before, Convolution) and lowering.lone(node.args[0]):
        weight, bias = before.weight * scale[:, None, None, None], before.bias * scale + shift
        lowering.operations[index] = replace(before, weight=weight.float(), bias=bias.float())
        lowering.same(node)
    else:
        weight, name = scale[:, None, None, None].float(), lowering.unique(node.place)
        lowering.add(node, Convolution(index, weight, shift.float(), 1, (0, 0, 0, 0), len(weight), name))


@rule("amax")
def amax(lowering: Lowering, node: Node) -> None:
    """Maxout: the largest of every so many neighbouring channels of a convolution, as so many convolutions."""
    what = "a maximum other than maxout behind a convolution"
    inner = node.args[0]
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
