"""The state of lowering a trace, and the table of rules by the names of PyTorch's operators."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.infer.graph import Convolution, Image, Operation, Sides
from depthwise.infer.trace import Node


@dataclass(frozen=True)
class Value:
    """An operation's result. Padding is not applied yet: the operation that reads the value does that.

    shape: that of one image's values, which is the map's own [C, H, W] or another view of the same values.
    """

    index: int
    shape: tuple[int, ...]
    padding: Sides | None = None
    fill: float = 0.0


class Lowering:
    """The operations so far, the shapes [C, H, W] of their results, and the value of each node."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.operations: list[Operation] = []
        self.shapes: list[tuple[int, int, int]] = []
        self.makers: list[Node] = []
        self.values: dict[str, Value] = {}
        self.node = Node("")
        """The node that is being lowered."""
        self.images = 0

    def image(self, node: Node) -> None:
        """Enter the images that the network is called with."""
        if len(node.shape) != 4 or self.images:
            raise DepthwiseError(
                f"the network takes {list(node.shape)}: native plans take images [N, C, H, W]"
            )
        self.images = node.shape[0]
        self.add(node, Image())

    def refusal(self, node: Node, what: str) -> DepthwiseError:
        """The error that `what`, in the module of `node`, has no compiled form."""
        return DepthwiseError(f"{what} in {node.place or 'the network'} has no compiled form")

    def add(self, node: Node, operation: Operation, shape: tuple[int, int, int] | None = None) -> None:
        """Enter `operation` as what `node` computes; `shape` is the map's, if the node's is another view of it."""
        self.operations.append(operation)
        self.makers.append(node)
        self.shapes.append(shape or three(node.shape[1:]))
        self.values[node.name] = Value(len(self.operations) - 1, node.shape[1:])

    def value(self, node: Any) -> Value:
        """The value of an argument, which must be a map."""
        if getattr(node, "name", None) not in self.values:
            raise self.refusal(self.node, f"{self.node.target} with something other than a map")
        return self.values[node.name]

    def known(self, value: Any) -> bool:
        """Whether an argument is a map."""
        return isinstance(value, Node) and value.name in self.values

    def lone(self, node: Node) -> bool:
        """Whether the operation whose result `node` is has a single reader, by whatever view."""
        maker = self.makers[self.value(node).index]
        while node is not maker and node.users == 1:
            node = node.args[0]
        return node.users == 1

    def unique(self, place: str) -> str:
        """A name for a convolution of the module `place` that differs from its other convolutions' names."""
        earlier = sum(
            isinstance(made, Convolution) and made.name.partition("#")[0] == place for made in self.operations
        )
        return f"{place}#{earlier + 1}" if earlier else place

    def tensor(self, node: Any) -> Tensor | None:
        """An argument that is a weight, in float32, or None."""
        if node is None:
            return None
        if getattr(node, "tensor", "") not in self.tensors:
            raise self.refusal(self.node, f"{self.node.target} with weights that are computed")
        return self.tensors[node.tensor].detach().float()

    def numbers(self, value: Any, like: Value) -> Tensor:
        """float64 [C], one number per channel, from a number or a weight that PyTorch broadcasts to `like`.

        Raises DepthwiseError if pixels have numbers of their own.
        """
        channels = self.shapes[like.index][0]
        if isinstance(value, float | int):
            return torch.full((channels,), float(value), dtype=torch.float64)
        weight = self.tensor(value)
        assert weight is not None
        shape = (1, *like.shape)
        if torch.broadcast_shapes(weight.shape, shape) != shape:
            raise self.refusal(self.node, f"{self.node.target} that stretches a map")
        whole = weight.double().expand(shape).reshape(channels, -1)
        if not (whole == whole[:, :1]).all():
            raise self.refusal(self.node, f"{self.node.target} with a number for each pixel")
        return whole[:, 0].clone()

    def affine(self, node: Node, operand: Node, scale: Tensor, shift: Tensor) -> None:
        """Enter that `node` is the map `operand`, in any view, times `scale` plus `shift`, float64 [C] each.

        They are folded into the convolution before, if it has no other reader. Otherwise they become a depthwise
        convolution of single pixels.
        """
        index, view = self.plain(node, operand), self.value(operand).shape
        if view != node.shape[1:]:
            raise self.refusal(node, f"{node.target} that stretches a map")
        before = self.operations[index]
        if isinstance(before, Convolution) and self.lone(operand):
            weight, bias = before.weight * scale[:, None, None, None], before.bias * scale + shift
            self.operations[index] = replace(before, weight=weight.float(), bias=bias.float())
            self.makers[index] = node
        else:
            weight, name = scale[:, None, None, None].float(), self.unique(node.place)
            made = Convolution(index, weight, shift.float(), (1, 1), (0, 0, 0, 0), len(weight), name)
            self.add(node, made, self.shapes[index])
            index = len(self.operations) - 1
        self.values[node.name] = Value(index, view)

    def padded(self, node: Node, fill: float) -> tuple[int, Sides]:
        """The map that `node` reads and its padding, if that is with `fill`."""
        value = self.value(node.args[0])
        waits = value.padding if value.padding and value.fill == fill else None
        return self.map(node, node.args[0], padded=waits is not None), waits or (0, 0, 0, 0)

    def plain(self, node: Node, operand: Any) -> int:
        """The operation of an operand in any view; its padding, if any, becomes an operation of its own."""
        value = self.value(operand)
        if value.padding:
            self._lay_out(operand, value)
        return self.value(operand).index

    def _lay_out(self, operand: Node, value: Value) -> None:
        """Enter the padding as a depthwise convolution that pads with zeros, and shifts them to `fill`."""
        if not isfinite(value.fill):
            raise self.refusal(self.node, f"padding with {value.fill}")
        channels, height, width = self.shapes[value.index]
        top, left, bottom, right = value.padding or (0, 0, 0, 0)
        ones, fill, index = torch.ones(channels, 1, 1, 1), torch.full((channels,), value.fill), value.index
        if value.fill:
            shifted = Convolution(
                index, ones, -fill, (1, 1), (0, 0, 0, 0), channels, self.unique(operand.place)
            )
            self.add(operand, shifted, self.shapes[index])
            index = len(self.operations) - 1
        name = self.unique(operand.place)
        made = Convolution(index, ones, fill, (1, 1), (top, left, bottom, right), channels, name)
        self.add(operand, made, (channels, top + height + bottom, left + width + right))

    def map(self, node: Node, operand: Any, *, padded: bool = False) -> int:
        """The operation of an operand that must be a map [N, C, H, W]."""
        value = self.value(operand)
        if value.shape != self.shapes[value.index]:
            raise self.refusal(node, f"{node.target} of {len(value.shape)} dimensions an image")
        return value.index if padded else self.plain(node, operand)

    def channels(self, node: Node, operand: Any) -> int:
        """The operation of an operand that is a map, or one number per channel, [N, C]."""
        value = self.value(operand)
        if value.shape == self.shapes[value.index][:1]:
            return self.plain(node, operand)
        return self.map(node, operand)


Rule = Callable[[Lowering, Node], None]
"""Enters what a node computes, or raises DepthwiseError; any other exception becomes one."""

RULES: dict[str, Rule] = {}
"""The rules of all operators that have a compiled form; `rules/` fills the table."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """A decorator: the function is the rule of these operators of PyTorch."""

    def entered(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return entered


def argument(node: Node, position: int, default: Any = None) -> Any:
    """The positional argument of `node`; a trace leaves out arguments that are the default."""
    return node.args[position] if len(node.args) > position else default


def three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """[C, H, W] of one image's shape."""
    channels, height, width = (*shape, 1, 1)[:3]
    return channels, height, width
