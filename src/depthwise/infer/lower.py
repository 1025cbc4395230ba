"""From a module to the short list of operations that the inference kernels know.

The module is exported to PyTorch's graph of operators, so that it may be anybody's. Batch norms go into the convolution
before them, where there is one; padding into the convolution or pooling behind; dropout, which evaluation does not
have, away.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
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
            lowering.add(node, Image())
        elif not node.tensor:
            lowering.call(node)
    if len(traced.results) != 1:
        raise DepthwiseError("the network has more than one result: compile a plain classifier")
    [result] = traced.results
    last = lowering.value(result)
    if (
        last.index != len(lowering.operations) - 1
        or last.padding
        or last.flat
        or isinstance(lowering.operations[-1], Concatenation | Image)
    ):
        raise DepthwiseError(
            "the network's result is not the last thing it computes: compile a plain classifier"
        )
    graph = Graph(tuple(lowering.operations), tuple(lowering.shapes), flat=len(result.shape) == 2)
    check(graph)
    return graph


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = (*shape, 1, 1)[:3]
    return channels, height, width


@dataclass(frozen=True)
class _Value:
    """An operation's result, padded or not: padding waits for who reads it. A `flat` one stands as [N, C * H * W]."""

    index: int
    padding: Sides | None = None
    fill: float = 0.0
    flat: bool = False


class _Lowering:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.operations: list[Operation] = []
        self.shapes: list[tuple[int, int, int]] = []
        self.makers: list[Node] = []
        self.values: dict[str, _Value] = {}
        self.node = Node("")
        """What is being lowered."""

    def add(self, node: Node, operation: Operation) -> None:
        self.operations.append(operation)
        self.makers.append(node)
        self.shapes.append(_three(node.shape[1:]))
        self.values[node.name] = _Value(len(self.operations) - 1)

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
        if name.isidentifier() and not name.startswith("_"):
            rule = getattr(self, f"_{name}", None)
        if rule is None:
            raise self.refusal(node, name)
        rule(node)

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
        return None if node is None else self.tensors[node.tensor].detach().float()

    def same(self, node: Node) -> None:
        self.values[node.name] = self.value(node.args[0])

    _dropout = _feature_dropout = _clone = _detach = _contiguous = _alias = same

    def _flatten(self, node: Node) -> None:
        value = self.value(node.args[0])
        channels, height, width = self.shapes[value.index]
        shape = tuple(node.shape[1:])
        if value.padding or shape not in [
            (channels, height, width)[: len(shape)],
            (channels * height * width,),
        ]:
            raise self.refusal(node, f"{node.target} to other than the channels or all values of a map")
        self.values[node.name] = replace(value, flat=(height, width) != (1, 1) and len(shape) == 1)

    _view = _reshape = _squeeze = _flatten

    def _pad(self, node: Node) -> None:
        left, right, top, bottom = (*node.args[1], 0, 0)[:4]
        mode, fill = self.argument(node, 2, "constant"), self.argument(node, 3) or 0.0
        value = self.value(node.args[0])
        if mode != "constant" or value.padding or min(left, right, top, bottom) < 0:
            raise self.refusal(node, "this padding")
        self.values[node.name] = _Value(value.index, (top, left, bottom, right), float(fill))

    def _constant_pad_nd(self, node: Node) -> None:
        self._pad(replace(node, args=[*node.args[:2], "constant", self.argument(node, 2, 0.0)]))

    def padded(self, node: Node, fill: float) -> tuple[int, Sides]:
        """The operand and the padding before it, which must be with `fill`."""
        value = self.value(node.args[0])
        if value.flat:
            raise self.refusal(node, "a flattened map")
        if value.padding and value.fill != fill:
            raise self.refusal(node, f"padding with {value.fill}")
        return value.index, value.padding or (0, 0, 0, 0)

    def plain(self, node: Node, operand: Any) -> int:
        value = self.value(operand)
        if value.padding or value.flat:
            raise self.refusal(node, "padding" if value.padding else "a flattened map")
        return value.index

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
        value = self.value(node.args[0])
        if not value.flat and self.shapes[self.plain(node, node.args[0])][1:] != (1, 1):
            raise self.refusal(node, "a linear layer on a map")
        weight = weight.unflatten(1, self.shapes[value.index])
        sides = (0, 0, 0, 0)
        name = self.unique(node.place)
        self.add(node, Convolution(value.index, weight, bias, 1, sides, 1, name))

    def _batch_norm(self, node: Node) -> None:
        index = self.plain(node, node.args[0])
        before = self.operations[index]
        if node.args[5]:
            raise self.refusal(node, "a batch norm by the batch's own statistics")
        gamma, beta, mean, variance = (self.tensor(argument) for argument in node.args[1:5])
        assert mean is not None
        assert variance is not None
        scale = (variance.double() + node.args[7]).rsqrt() * (1 if gamma is None else gamma.double())
        shift = (0 if beta is None else beta.double()) - mean.double() * scale
        if isinstance(before, Convolution) and self.lone(node.args[0]):
            weight, bias = before.weight * scale[:, None, None, None], before.bias * scale + shift
            self.operations[index] = replace(before, weight=weight.float(), bias=bias.float())
            self.values[node.name] = _Value(index)
        else:
            weight, name = scale[:, None, None, None].float(), self.unique(node.place)
            self.add(node, Convolution(index, weight, shift.float(), 1, (0, 0, 0, 0), len(weight), name))

    def activation(self, node: Node, kind: str) -> None:
        self.add(node, Activation(self.plain(node, node.args[0]), kind))

    def _relu(self, node: Node) -> None:
        self.activation(node, "relu")

    def _relu6(self, node: Node) -> None:
        self.activation(node, "relu6")

    def _sigmoid(self, node: Node) -> None:
        self.activation(node, "sigmoid")

    def _silu(self, node: Node) -> None:
        self.activation(node, "silu")

    def _hardsigmoid(self, node: Node) -> None:
        self.activation(node, "hardsigmoid")

    def _hardswish(self, node: Node) -> None:
        self.activation(node, "hardswish")

    def _hardtanh(self, node: Node) -> None:
        if (self.argument(node, 1, -1.0), self.argument(node, 2, 1.0)) != (0, 6):
            raise self.refusal(node, "a clamp other than ReLU6")
        self.activation(node, "relu6")

    def _elu(self, node: Node) -> None:
        if {self.argument(node, position, 1) for position in (1, 2, 3)} != {1}:
            raise self.refusal(node, "an ELU with a scale")
        self.activation(node, "elu")

    def _add(self, node: Node) -> None:
        operands = [self.plain(node, operand) for operand in node.args[:2]]
        if node.kwargs.get("alpha", 1) != 1 or self.shapes[operands[0]] != self.shapes[operands[1]]:
            raise self.refusal(node, "a sum of unequal shapes")
        self.add(node, Sum(operands[0], operands[1]))

    def _unflatten(self, node: Node) -> None:
        """Of channels: what `amax` stands behind; nobody else finds a map here."""

    def _amax(self, node: Node) -> None:
        """Maxout: the largest of every so many neighbouring channels of a convolution, as so many convolutions."""
        what = "a maximum other than maxout behind a convolution"
        inner = node.args[0]
        if inner.target != "unflatten" or len(inner.shape) != 5 or node.args[1] != [2]:
            raise self.refusal(node, what)
        index, pieces = self.plain(node, inner.args[0]), inner.shape[2]
        before = self.operations[index]
        alone = inner.users == 1 and self.lone(inner.args[0])
        if not (isinstance(before, Convolution) and before.groups == 1 and alone):
            raise self.refusal(node, what)
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
        parts = tuple(self.plain(node, part) for part in node.args[0])
        widths = [self.shapes[part][0] for part in parts]
        axis = self.argument(node, 1, 0)
        if axis not in (1, -3):
            along = "the batch" if axis % max(1, len(node.shape)) == 0 else f"axis {axis}"
            raise self.refusal(node, f"a concatenation along {along}")
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
        self.values[node.name] = _Value(index)

    def gate(self, node: Node) -> None:
        source, gate = (self.plain(node, operand) for operand in node.args[:2])
        if self.shapes[source][1:] == (1, 1):
            source, gate = gate, source
        if self.shapes[gate] != (self.shapes[source][0], 1, 1) or len(node.shape) != 4:
            raise self.refusal(node, "a product of two maps")
        self.add(node, Gate(source, gate))

    def _mean(self, node: Node) -> None:
        if sorted(axis % 4 for axis in node.args[1]) != [2, 3]:
            raise self.refusal(node, "a mean over other axes than a map's")
        self.add(node, Mean(self.plain(node, node.args[0])))

    def _adaptive_avg_pool2d(self, node: Node) -> None:
        source = self.plain(node, node.args[0])
        _, *shape = self.shapes[source]
        wanted = [*node.shape[2:]]
        height, width = (before // after for before, after in zip(shape, wanted, strict=True))
        if wanted == [1, 1]:
            self.add(node, Mean(source))
        elif height != width or [height * size for size in wanted] != shape:
            raise self.refusal(node, f"adaptive pooling from {shape} to {wanted}")
        else:
            self.add(node, Pool(source, (height, width), height, (0, 0, 0, 0), average=True))
