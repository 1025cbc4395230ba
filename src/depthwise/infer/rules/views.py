"""Operators that compute nothing: other names and views of the same values, and padding, which waits for its reader."""

from dataclasses import replace
from math import prod

from depthwise.infer.lowering import Lowering, Value, argument, rule
from depthwise.infer.trace import Node


@rule("clone", "detach", "contiguous", "alias")
def same(lowering: Lowering, node: Node) -> None:
    lowering.same(node)


@rule("dropout", "feature_dropout")
def dropout(lowering: Lowering, node: Node) -> None:
    if argument(node, 2, False):
        raise lowering.refusal(node, "dropout in evaluation")
    lowering.same(node)


@rule("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten")
def view(lowering: Lowering, node: Node) -> None:
    value, shape = lowering.value(node.args[0]), tuple(node.shape[1:])
    alike = node.shape[:1] == (lowering.images,) and prod(shape) == prod(lowering.shapes[value.index])
    if value.padding or not alike or isinstance(argument(node, 1), str):
        raise lowering.refusal(node, f"{node.target} to other than all values of each image")
    lowering.values[node.name] = replace(value, shape=shape)


@rule("pad")
def pad(lowering: Lowering, node: Node) -> None:
    left, right, top, bottom, *others = (*node.args[1], 0, 0)[: max(4, len(node.args[1]))]
    mode, fill = argument(node, 2, "constant"), argument(node, 3) or 0.0
    index = lowering.map(node, node.args[0])
    if mode != "constant" or any(others) or min(left, right, top, bottom) < 0:
        raise lowering.refusal(node, "this padding")
    sides = (top, left, bottom, right)
    lowering.values[node.name] = Value(index, lowering.shapes[index], sides, float(fill))


@rule("constant_pad_nd")
def constant_pad_nd(lowering: Lowering, node: Node) -> None:
    pad(lowering, replace(node, args=[*node.args[:2], "constant", argument(node, 2, 0.0)]))
