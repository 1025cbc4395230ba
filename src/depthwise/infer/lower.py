"""From a module to the short list of operations that the inference kernels know.

The module is exported to PyTorch's graph of operators, so that it may be anybody's. Batch norms go into the convolution
before them, where there is one; padding into the convolution or pooling behind; dropout, which evaluation does not
have, away.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer.check import check
from depthwise.infer.graph import (
    LANES,
    Activation,
    Concatenation,
    Convolution,
    Gate,
    Graph,
    Image,
    Mean,
    Operation,
    Pool,
    Sides,
    Sum,
)
from depthwise.infer.trace import Node, Trace, tensors_of, trace

SIMPLE = ("relu", "relu6", "sigmoid", "silu", "hardsigmoid", "hardswish")
"""Activations without a number of their own, named as PyTorch's operators."""


def lower(module: nn.Module, example: Tensor) -> Graph:
    """The graph of `module` in evaluation on [N, C, H, W] like `example`.

    Raises DepthwiseError that names the operator, and where it stands, if one has no counterpart here.
    """
    return lowered(trace(module, example), module)


def lowered(traced: Trace, module: nn.Module) -> Graph:
    """The graph that `traced`, which is of `module`, comes to with the module's weights; raises as `lower` does."""
    lowering = _Lowering({**tensors_of(module), **traced.constants})
    for node in traced.nodes:
        if node.image:
            lowering.image(node)
        elif not node.tensor:
            lowering.call(node)
    if len(traced.results) != 1:
        raise DepthwiseError("the network has more than one result: compile a plain classifier")
    last = lowering.value(traced.results[0])
    if (
        last.index != len(lowering.operations) - 1
        or last.padding
        or isinstance(lowering.operations[-1], Concatenation | Image)
    ):
        raise DepthwiseError(
            "the network's result is not the last thing it computes: compile a plain classifier"
        )
    graph = Graph(
        tuple(lowering.operations), tuple(lowering.shapes), flat=last.shape == (lowering.shapes[-1][0],)
    )
    check(graph)
    return graph


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = (*shape, 1, 1)[:3]
    return channels, height, width


@dataclass(frozen=True)
class _Value:
    """An operation's result, padded or not: padding waits for who reads it.

    shape: of one image's values, which are the map's own [C, H, W] or another view of the same values in their order.
    """

    index: int
    shape: tuple[int, ...]
    padding: Sides | None = None
    fill: float = 0.0


class _Lowering:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.operations: list[Operation] = []
        self.shapes: list[tuple[int, int, int]] = []
        self.makers: list[Node] = []
        self.values: dict[str, _Value] = {}
        self.node = Node("")
        """What is being lowered."""
        self.images = 0

    def image(self, node: Node) -> None:
        if len(node.shape) != 4 or self.images:
            raise DepthwiseError(
                f"the network takes {list(node.shape)}: native plans take images [N, C, H, W]"
            )
        self.images = node.shape[0]
        self.add(node, Image())

    def add(self, node: Node, operation: Operation, shape: tuple[int, int, int] | None = None) -> None:
        """What `node` computes; `shape` is the map's, where it stands as another view."""
        self.operations.append(operation)
        self.makers.append(node)
        self.shapes.append(shape or _three(node.shape[1:]))
        self.values[node.name] = _Value(len(self.operations) - 1, node.shape[1:])

    def value(self, node: Any) -> _Value:
        """Of an argument, which may be anything but must be a map."""
        if getattr(node, "name", None) not in self.values:
            raise self.refusal(self.node, f"{self.node.target} with something other than a map")
        return self.values[node.name]

    def lone(self, node: Node) -> bool:
        """Whether nobody but one reads the operation behind `node`, by this name or another."""
        maker = self.makers[self.value(node).index]
        while node is not maker and node.users == 1:
            node = node.args[0]
        return node.users == 1

    def call(self, node: Node) -> None:
        self.node = node
        name = node.target
        rule: Callable[[Node], None] | None = None
        if name in SIMPLE:
            rule = partial(self.activation, kind=name)
        elif name.isidentifier() and not name.startswith("_"):
            rule = getattr(self, f"_{name}", None)
        if rule is None:
            raise self.refusal(node, name)
        try:
            rule(node)
        except DepthwiseError:
            raise
        except (
            Exception
        ) as error:  # arguments that the rule does not foresee, of an operator that anybody may call
            raise self.refusal(node, f"{name} with such arguments") from error

    def refusal(self, node: Node, what: str) -> DepthwiseError:
        return DepthwiseError(f"{what} in {node.place or 'the network'} has no compiled form")

    def unique(self, place: str) -> str:
        """The name of a convolution at `place`, told from others of the same module."""
        earlier = sum(
            isinstance(made, Convolution) and made.name.partition("#")[0] == place for made in self.operations
        )
        return f"{place}#{earlier + 1}" if earlier else place

    def argument(self, node: Node, position: int, default: Any = None) -> Any:
        return node.args[position] if len(node.args) > position else default

    def tensor(self, node: Any) -> Tensor | None:
        if node is None:
            return None
        if getattr(node, "tensor", "") not in self.tensors:
            raise self.refusal(self.node, f"{self.node.target} with weights that are computed")
        return self.tensors[node.tensor].detach().float()

    def same(self, node: Node) -> None:
        self.values[node.name] = self.value(node.args[0])

    _clone = _detach = _contiguous = _alias = same

    def _dropout(self, node: Node) -> None:
        if self.argument(node, 2, False):
            raise self.refusal(node, "dropout in evaluation")
        self.same(node)

    _feature_dropout = _dropout

    def _view(self, node: Node) -> None:
        value, shape = self.value(node.args[0]), tuple(node.shape[1:])
        alike = node.shape[:1] == (self.images,) and prod(shape) == prod(self.shapes[value.index])
        if value.padding or not alike or isinstance(self.argument(node, 1), str):
            raise self.refusal(node, f"{node.target} to other than all values of each image")
        self.values[node.name] = replace(value, shape=shape)

    _reshape = _flatten = _squeeze = _unsqueeze = _unflatten = _view

    def _pad(self, node: Node) -> None:
        left, right, top, bottom, *others = (*node.args[1], 0, 0)[: max(4, len(node.args[1]))]
        mode, fill = self.argument(node, 2, "constant"), self.argument(node, 3) or 0.0
        index = self.map(node, node.args[0])
        if mode != "constant" or any(others) or min(left, right, top, bottom) < 0:
            raise self.refusal(node, "this padding")
        sides = (top, left, bottom, right)
        self.values[node.name] = _Value(index, self.shapes[index], sides, float(fill))

    def _constant_pad_nd(self, node: Node) -> None:
        self._pad(replace(node, args=[*node.args[:2], "constant", self.argument(node, 2, 0.0)]))

    def padded(self, node: Node, fill: float) -> tuple[int, Sides]:
        """The map and the padding before it, which must be with `fill`."""
        value = self.value(node.args[0])
        if value.padding and value.fill != fill:
            raise self.refusal(node, f"padding with {value.fill}")
        return self.map(node, node.args[0], padded=True), value.padding or (0, 0, 0, 0)

    def plain(self, node: Node, operand: Any) -> int:
        """An operand in any view."""
        value = self.value(operand)
        if value.padding:
            raise self.refusal(node, f"{node.target} of a padded map")
        return value.index

    def map(self, node: Node, operand: Any, *, padded: bool = False) -> int:
        """An operand that is a map [N, C, H, W]."""
        value = self.value(operand)
        if value.shape != self.shapes[value.index]:
            raise self.refusal(node, f"{node.target} of {len(value.shape)} dimensions an image")
        return value.index if padded else self.plain(node, operand)

    def channels(self, node: Node, operand: Any) -> int:
        """An operand that is a map, or one number a channel, [N, C]."""
        value = self.value(operand)
        if value.shape == self.shapes[value.index][:1]:
            return self.plain(node, operand)
        return self.map(node, operand)

    def _conv2d(self, node: Node) -> None:
        source, outside = self.padded(node, 0.0)
        weight, bias = self.tensor(node.args[1]), self.tensor(self.argument(node, 2))
        assert weight is not None
        stride, padding = self.argument(node, 3, [1, 1]), self.argument(node, 4, [0, 0])
        dilation, groups = self.argument(node, 5, [1, 1]), self.argument(node, 6, 1)
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
            raise self.refusal(node, "a convolution with such strides or dilations")
        bias = torch.zeros(len(weight)) if bias is None else bias
        top, left, bottom, right = (a + b for a, b in zip(outside, own, strict=True))
        sides = (top, left, bottom, right)
        name = self.unique(node.place)
        self.add(node, Convolution(source, weight, bias, stride[0], sides, groups, name))

    def _linear(self, node: Node) -> None:
        weight, bias = self.tensor(node.args[1]), self.tensor(self.argument(node, 2))
        assert weight is not None
        bias = torch.zeros(len(weight)) if bias is None else bias
        index = self.plain(node, node.args[0])
        if len(self.value(node.args[0]).shape) != 1:
            raise self.refusal(node, "a linear layer on a map")
        weight = weight.unflatten(1, self.shapes[index])
        self.add(node, Convolution(index, weight, bias, 1, (0, 0, 0, 0), 1, self.unique(node.place)))

    def _batch_norm(self, node: Node) -> None:
        if node.args[5]:
            raise self.refusal(node, "a batch norm by the batch's own statistics")
        index = self.channels(node, node.args[0])
        before = self.operations[index]
        gamma, beta, mean, variance = (self.tensor(argument) for argument in node.args[1:5])
        assert mean is not None
        assert variance is not None
        scale = (variance.double() + node.args[7]).rsqrt() * (1 if gamma is None else gamma.double())
        shift = (0 if beta is None else beta.double()) - mean.double() * scale
        if isinstance(before, Convolution) and self.lone(node.args[0]):
            weight, bias = before.weight * scale[:, None, None, None], before.bias * scale + shift
            self.operations[index] = replace(before, weight=weight.float(), bias=bias.float())
            self.same(node)
        else:
            weight, name = scale[:, None, None, None].float(), self.unique(node.place)
            self.add(node, Convolution(index, weight, shift.float(), 1, (0, 0, 0, 0), len(weight), name))

    def activation(self, node: Node, kind: str) -> None:
        index = self.plain(node, node.args[0])
        self.add(node, Activation(index, kind), self.shapes[index])

    def _hardtanh(self, node: Node) -> None:
        if (self.argument(node, 1, -1.0), self.argument(node, 2, 1.0)) != (0, 6):
            raise self.refusal(node, "a clamp other than ReLU6")
        self.activation(node, "relu6")

    def _elu(self, node: Node) -> None:
        if {self.argument(node, position, 1) for position in (1, 2, 3)} != {1}:
            raise self.refusal(node, "an ELU with a scale")
        self.activation(node, "elu")

    def _add(self, node: Node) -> None:
        one, other = (self.plain(node, operand) for operand in node.args[:2])
        views = {self.value(operand).shape for operand in node.args[:2]}
        if node.kwargs.get("alpha", 1) != 1 or self.shapes[one] != self.shapes[other] or len(views) > 1:
            raise self.refusal(node, "a sum of unequal shapes")
        self.add(node, Sum(one, other), self.shapes[one])

    def _amax(self, node: Node) -> None:
        """Maxout: the largest of every so many neighbouring channels of a convolution, as so many convolutions."""
        what = "a maximum other than maxout behind a convolution"
        inner = node.args[0]
        index, view = self.plain(node, inner), self.value(inner).shape
        before = self.operations[index]
        if (
            len(view) != 4
            or view[2:] != self.shapes[index][1:]
            or node.args[1] != [2]
            or len(node.shape) != 4
        ):
            raise self.refusal(node, what)
        if not (isinstance(before, Convolution) and before.groups == 1 and self.lone(inner)):
            raise self.refusal(node, what)
        pieces = view[1]
        parts = [
            replace(before, weight=before.weight[piece::pieces], bias=before.bias[piece::pieces])
            for piece in range(pieces)
        ]
        self.operations[index], self.shapes[index] = parts[0], _three(node.shape[1:])
        for part in parts[1:]:
            self.add(node, replace(part, name=self.unique(before.name.partition("#")[0])))
            self.add(node, Sum(index, len(self.operations) - 1, largest=True))
            index = len(self.operations) - 1

    def _max_pool2d(self, node: Node) -> None:
        if {*self.argument(node, 4, [1])} != {1}:
            raise self.refusal(node, "a pooling with dilation")
        self.pool(node, -float("inf"))

    def _avg_pool2d(self, node: Node) -> None:
        counted = self.argument(node, 5, True)
        if (self.argument(node, 4, False) and counted) or self.argument(node, 6) is not None:
            raise self.refusal(
                node, "an average pooling that rounds up and counts padding, or has a divisor,"
            )
        if self.value(node.args[0]).padding and not counted:
            raise self.refusal(node, "padding")
        self.pool(node, 0.0, average=True, count_padding=counted)

    def pool(self, node: Node, fill: float, *, average: bool = False, count_padding: bool = False) -> None:
        source, outside = self.padded(node, fill)
        kernel = (*node.args[1], *node.args[1])[:2]
        stride = self.argument(node, 2) or kernel
        top, left = (*self.argument(node, 3, [0]), *self.argument(node, 3, [0]))[:2]
        if len({*stride}) > 1:
            raise self.refusal(node, "a pooling with such strides")
        sides = (outside[0] + top, outside[1] + left, outside[2] + top, outside[3] + left)
        self.add(node, Pool(source, kernel, stride[0], sides, average, count_padding))

    def _cat(self, node: Node) -> None:
        parts = tuple(self.channels(node, part) for part in node.args[0])
        widths = [self.shapes[part][0] for part in parts]
        axis = self.argument(node, 1, 0) % len(node.shape)
        if axis != 1:
            raise self.refusal(node, f"a concatenation along {f'axis {axis}' if axis else 'the batch'}")
        if any(width % LANES for width in widths):
            raise self.refusal(node, f"a concatenation of {', '.join(map(str, widths))} channels")
        self.add(node, Concatenation(parts))

    def _mul(self, node: Node) -> None:
        factor = node.args[1]
        if not isinstance(factor, float | int):
            return self.gate(node)
        index = self.plain(node, node.args[0])
        before = self.operations[index]
        if not (isinstance(before, Convolution) and self.lone(node.args[0])):
            raise self.refusal(node, "a map times a number, but not behind a convolution,")
        self.operations[index] = replace(before, weight=before.weight * factor, bias=before.bias * factor)
        self.same(node)

    def gate(self, node: Node) -> None:
        source, gate = (self.map(node, operand) for operand in node.args[:2])
        if self.shapes[source][1:] == (1, 1):
            source, gate = gate, source
        if self.shapes[gate] != (self.shapes[source][0], 1, 1):
            raise self.refusal(node, "a product of two maps")
        self.add(node, Gate(source, gate))

    def _mean(self, node: Node) -> None:
        axes = self.argument(node, 1) or []
        if sorted(axis % 4 for axis in axes) != [2, 3] or node.kwargs:
            raise self.refusal(node, "a mean over other axes than a map's")
        self.add(node, Mean(self.map(node, node.args[0])))

    def _adaptive_avg_pool2d(self, node: Node) -> None:
        source = self.map(node, node.args[0])
        _, *shape = self.shapes[source]
        wanted = [*node.shape[2:]]
        height, width = (before // after for before, after in zip(shape, wanted, strict=True))
        if wanted == [1, 1]:
            self.add(node, Mean(source))
        elif height != width or [height * size for size in wanted] != shape:
            raise self.refusal(node, f"adaptive pooling from {shape} to {wanted}")
        else:
            self.add(node, Pool(source, (height, width), height, (0, 0, 0, 0), average=True))
