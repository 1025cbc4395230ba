"""Operators that compute nothing: views of the same values, and padding, which the next operation applies."""

from dataclasses import replace
from math import prod

from depthwise.infer.lowering import Lowering, Value, argument, rule
from depthwise.infer.trace import Node


@rule("dropout", "feature_dropout")
def dropout(lowering: Lowering, node: Node) -> None:
    raise lowering.refusal(node, "dropout in evaluation")


@rule("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "view_as", "reshape_as")
def view(lowering: Lowering, node: Node) -> None:
    index, shape = lowering.plain(node, node.args[0]), tuple(node.shape[1:])
    if node.shape[:1] != (lowering.images,) or prod(shape) != prod(lowering.shapes[index]):
        raise lowering.refusal(node, f"{node.target} to other than all values of each image")
    lowering.values[node.name] = Value(index, shape)


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
