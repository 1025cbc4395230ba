"""Sums, products and concatenations: what has more than one map, or a map and a number."""

from dataclasses import replace

from depthwise.infer.graph import LANES, Concatenation, Convolution, Gate, Sum
from depthwise.infer.lowering import Lowering, argument, rule
from depthwise.infer.trace import Node


@rule("add")
def add(lowering: Lowering, node: Node) -> None:
    one, other = (lowering.plain(node, operand) for operand in node.args[:2])
    views = {lowering.value(operand).shape for operand in node.args[:2]}
    if node.kwargs.get("alpha", 1) != 1 or lowering.shapes[one] != lowering.shapes[other] or len(views) > 1:
        raise lowering.refusal(node, "a sum of unequal shapes")
    lowering.add(node, Sum(one, other), lowering.shapes[one])


@rule("mul")
def mul(lowering: Lowering, node: Node) -> None:
    factor = node.args[1]
    if not isinstance(factor, float | int):
        return gate(lowering, node)
    index = lowering.plain(node, node.args[0])
    before = lowering.operations[index]
    if not (isinstance(before, Convolution) and lowering.lone(node.args[0])):
        raise lowering.refusal(node, "a map times a number, but not behind a convolution,")
    lowering.operations[index] = replace(before, weight=before.weight * factor, bias=before.bias * factor)
    lowering.same(node)


def gate(lowering: Lowering, node: Node) -> None:
    """A map times one number a channel, in either order."""
    source, by = (lowering.map(node, operand) for operand in node.args[:2])
    if lowering.shapes[source][1:] == (1, 1):
        source, by = by, source
    if lowering.shapes[by] != (lowering.shapes[source][0], 1, 1):
        raise lowering.refusal(node, "a product of two maps")
    lowering.add(node, Gate(source, by))


@rule("cat")
def cat(lowering: Lowering, node: Node) -> None:
    parts = tuple(lowering.channels(node, part) for part in node.args[0])
    widths = [lowering.shapes[part][0] for part in parts]
    axis = argument(node, 1, 0) % len(node.shape)
    if axis != 1:
        raise lowering.refusal(node, f"a concatenation along {f'axis {axis}' if axis else 'the batch'}")
    if any(width % LANES for width in widths):
        raise lowering.refusal(node, f"a concatenation of {', '.join(map(str, widths))} channels")
    lowering.add(node, Concatenation(parts))
