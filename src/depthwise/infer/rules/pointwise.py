"""Activations: functions of each value by itself."""

from depthwise.infer.graph import Activation
from depthwise.infer.lowering import Lowering, argument, rule
from depthwise.infer.trace import Node


@rule("relu", "relu6", "sigmoid", "silu", "hardsigmoid", "hardswish")
def simple(lowering: Lowering, node: Node) -> None:
    """Without a number of their own, named as PyTorch's operators."""
    activation(lowering, node, node.target)


def activation(lowering: Lowering, node: Node, kind: str) -> None:
    """`kind` of graph.ACTIVATIONS, of a map in any view."""
    index = lowering.plain(node, node.args[0])
    lowering.add(node, Activation(index, kind), lowering.shapes[index])


@rule("hardtanh")
def hardtanh(lowering: Lowering, node: Node) -> None:
    if (argument(node, 1, -1.0), argument(node, 2, 1.0)) != (0, 6):
        raise lowering.refusal(node, "a clamp other than ReLU6")
    activation(lowering, node, "relu6")


@rule("elu")
def elu(lowering: Lowering, node: Node) -> None:
    if {argument(node, position, 1) for position in (1, 2, 3)} != {1}:
        raise lowering.refusal(node, "an ELU with a scale")
    activation(lowering, node, "elu")
