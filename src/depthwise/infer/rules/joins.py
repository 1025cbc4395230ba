"""Sums, products and concatenations: operators of several maps, or of a map and a number."""

import torch

from depthwise.infer.graph import Concatenation, Gate, Sum
from depthwise.infer.lowering import Lowering, argument, rule
from depthwise.infer.trace import Node


@rule("add", "sub", "rsub")
def add(lowering: Lowering, node: Node) -> None:
    """The sum of two maps, or of a map and numbers, each times a factor."""
    alpha = float(node.kwargs.get("alpha", argument(node, 2, 1.0)))
    factors = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[node.target]
    terms = [*zip(node.args[:2], factors, strict=True)]
    for (one, factor), (other, times) in (terms, terms[::-1]):
        if lowering.known(one) and not lowering.known(other):
            numbers = lowering.numbers(other, lowering.value(one))
            return lowering.affine(node, one, factor * torch.ones_like(numbers), times * numbers)
    # Padding that is not applied yet becomes part of the maps first.
    maps = [lowering.shapes[lowering.plain(node, operand)] for operand, _ in terms]
    shapes = {(lowering.value(operand).shape, shape) for (operand, _), shape in zip(terms, maps, strict=True)}
    if len(shapes) > 1:
        raise lowering.refusal(node, "a sum of unequal shapes")
    one, other = (scaled(lowering, node, operand, factor) for operand, factor in terms)
    lowering.add(node, Sum(one, other), lowering.shapes[one])


def scaled(lowering: Lowering, node: Node, operand: Node, factor: float) -> int:
    """The map `operand` times `factor`."""
    if factor != 1:
        factors = torch.full(
            (lowering.shapes[lowering.plain(node, operand)][0],), factor, dtype=torch.float64
        )
        lowering.affine(node, operand, factors, torch.zeros_like(factors))
        return lowering.values[node.name].index
    return lowering.plain(node, operand)


@rule("mul", "div")
def mul(lowering: Lowering, node: Node) -> None:
    """A map times or divided by numbers, or times a gate."""
    one, other = node.args[:2]
    if node.target == "mul" and not lowering.known(one):
        one, other = other, one
    if node.kwargs or (node.target == "div" and lowering.known(other)):
        raise lowering.refusal(node, "this division")
    if lowering.known(other):
        return gate(lowering, node)
    numbers = lowering.numbers(other, lowering.value(one))
    numbers = numbers if node.target == "mul" else 1 / numbers
    lowering.affine(node, one, numbers, torch.zeros_like(numbers))


@rule("neg")
def neg(lowering: Lowering, node: Node) -> None:
    numbers = lowering.numbers(-1.0, lowering.value(node.args[0]))
    lowering.affine(node, node.args[0], numbers, torch.zeros_like(numbers))


def gate(lowering: Lowering, node: Node) -> None:
    """A map times one computed number per channel, in either order."""
    source, by = (lowering.channels(node, operand) for operand in node.args[:2])
    views = [lowering.value(operand).shape for operand in node.args[:2]]
    if lowering.shapes[source][1:] == (1, 1):
        source, by = by, source
    if len({*map(len, views)}) > 1 or lowering.shapes[by] != (lowering.shapes[source][0], 1, 1):
        raise lowering.refusal(node, "a product of two maps")
    lowering.add(node, Gate(source, by))


@rule("maximum")
def maximum(lowering: Lowering, node: Node) -> None:
    one, other = (lowering.plain(node, operand) for operand in node.args)
    if (
        len({lowering.value(operand).shape for operand in node.args}) > 1
        or lowering.shapes[one] != lowering.shapes[other]
    ):
        raise lowering.refusal(node, "a maximum of unequal shapes")
    lowering.add(node, Sum(one, other, largest=True), lowering.shapes[one])


@rule("cat")
def cat(lowering: Lowering, node: Node) -> None:
    parts = tuple(lowering.channels(node, part) for part in node.args[0])
    axis = argument(node, 1, 0) % len(node.shape)
    if axis != 1:
        raise lowering.refusal(node, f"a concatenation along {f'axis {axis}' if axis else 'the batch'}")
    lowering.add(node, Concatenation(parts))
