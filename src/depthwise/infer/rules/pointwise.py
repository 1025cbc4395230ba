"""Activations: functions of single values."""

from math import inf

import torch

from depthwise.infer.graph import Activation, Convolution, Sum
from depthwise.infer.lowering import Lowering, argument, rule
from depthwise.infer.trace import Node


@rule("relu", "relu6", "sigmoid", "silu", "hardsigmoid", "hardswish", "tanh", "mish")
def simple(lowering: Lowering, node: Node) -> None:
    """Activations without numbers, which have the names of PyTorch's operators."""
    activation(lowering, node, node.target)


def activation(lowering: Lowering, node: Node, kind: str, *numbers: float) -> None:
    """Enter the activation `kind` of a map in any view."""
    index = lowering.plain(node, node.args[0])
    lowering.add(node, Activation(index, kind, tuple(map(float, numbers))), lowering.shapes[index])


@rule("clamp")
def clamp(lowering: Lowering, node: Node) -> None:
    """A clamp between two numbers, of which either may be missing."""
    low, high = argument(node, 1), argument(node, 2)
    activation(lowering, node, "hardtanh", -inf if low is None else low, inf if high is None else high)


@rule("elu")
def elu(lowering: Lowering, node: Node) -> None:
    activation(lowering, node, "elu", *(argument(node, position, 1.0) for position in (1, 2, 3)))


@rule("selu")
def selu(lowering: Lowering, node: Node) -> None:
    """The constants of Klambauer et al. 2017, "Self-normalizing neural networks"."""
    activation(lowering, node, "elu", 1.6732632423543772848, 1.0507009873554804934, 1.0)


@rule("celu")
def celu(lowering: Lowering, node: Node) -> None:
    alpha = argument(node, 1, 1.0)
    activation(lowering, node, "elu", alpha, 1.0, 1 / alpha)


@rule("leaky_relu")
def leaky_relu(lowering: Lowering, node: Node) -> None:
    activation(lowering, node, "leaky_relu", argument(node, 1, 0.01))


@rule("gelu")
def gelu(lowering: Lowering, node: Node) -> None:
    activation(lowering, node, "gelu", node.kwargs.get("approximate") == "tanh")


@rule("softplus")
def softplus(lowering: Lowering, node: Node) -> None:
    activation(lowering, node, "softplus", argument(node, 1, 1.0), argument(node, 2, 20.0))


@rule("prelu")
def prelu(lowering: Lowering, node: Node) -> None:
    """With one slope, a LeakyReLU; with one per channel, the positive part plus the negative part times the slopes."""
    slopes = lowering.tensor(node.args[1])
    assert slopes is not None
    if slopes.numel() == 1:
        return activation(lowering, node, "leaky_relu", float(slopes))
    index = lowering.channels(node, node.args[0])
    shape, first = lowering.shapes[index], len(lowering.operations)
    weight, bias = slopes.view(-1, 1, 1, 1), torch.zeros(len(slopes))
    below = Convolution(first, weight, bias, (1, 1), (0, 0, 0, 0), len(slopes), lowering.unique(node.place))
    lowering.add(node, Activation(index, "hardtanh", (-inf, 0.0)), shape)
    lowering.add(node, below, shape)
    lowering.add(node, Activation(index, "relu"), shape)
    lowering.add(node, Sum(first + 1, first + 2), shape)
