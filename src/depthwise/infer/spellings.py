"""Gives what networks write in several ways one spelling, before it is lowered, and removes what has no reader.

`x * sigmoid(x)` becomes SiLU, and a clamp between 0 and 6 becomes ReLU6. A gate that is expanded to its map's shape
becomes the gate, and an operator that changes nothing becomes its operand. `rules/` then knows one form of each
operation.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from depthwise.infer.trace import Node, Trace

CLOSE = 1e-6
"""Relative tolerance of constants: 1/6 in float32 counts as 1/6."""

NAMES = {
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "subtract": "sub",
    "negative": "neg",
    "special_expit": "sigmoid",
    "concat": "cat",
    "concatenate": "cat",
}
"""Second names of operators, and the names that the rules know."""

UNCHANGED = (
    "alias", "clone", "contiguous", "detach", "dropout", "expand", "expand_as", "broadcast_to", "feature_dropout",
    "identity", "lift_fresh", "lift_fresh_copy", "repeat", "slice", "tile", "to", "_to_copy", "type_as", "view_as",
    "reshape_as", "view", "reshape", "flatten", "squeeze", "unflatten",
)  # fmt: skip
"""Operators that change nothing if shape and dtype stay, unless they draw random numbers."""

MOVING: dict[str, Callable[..., Tensor]] = {
    "transpose": torch.transpose,
    "swapaxes": torch.swapaxes,
    "swapdims": torch.swapdims,
    "t": torch.t,
    "numpy_T": lambda sides: sides.permute(*range(sides.ndim)[::-1]),
    "movedim": torch.movedim,
    "moveaxis": torch.moveaxis,
}
"""Operators that permute the sides of a tensor, besides permute."""

VIEWS = ("view", "reshape", "flatten")
EXPANDING = ("expand", "expand_as", "broadcast_to", "repeat", "tile")
BROADCASTING = ("mul", "add", "sub", "div", "rsub", "maximum", "minimum", "max", "min")


def simplified(traced: Trace, tensors: Mapping[str, Tensor]) -> Trace:
    """`traced` in the one spelling, each node with the number of its readers; tensors: those that it names."""
    spelling = _Spelling(tensors)
    made: dict[Node, Node] = {}

    def known(value: Any) -> Any:
        if isinstance(value, Node):
            return made[value]
        if isinstance(value, dict):
            return {key: known(part) for key, part in value.items()}
        return [*map(known, value)] if isinstance(value, list | tuple) else value

    for node in traced.nodes:
        made[node] = spelling.of(replace(node, args=known(node.args), kwargs=known(node.kwargs), users=0))
    results = tuple(known(list(traced.results)))
    wanted = set(_nodes_in(results))
    for node in _nodes_in(results):
        node.users += 1
    for node in reversed(dict.fromkeys(made.values())):
        if node in wanted:
            for read in _nodes_in([node.args, node.kwargs]):
                read.users += 1
                wanted.add(read)
    return Trace(
        tuple(node for node in dict.fromkeys(made.values()) if node in wanted or node.image),
        results,
        traced.constants,
    )


def _nodes_in(value: Any) -> Iterator[Node]:
    if isinstance(value, Node):
        yield value
    elif isinstance(value, dict):
        yield from _nodes_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _nodes_in(part)


class _Spelling:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.ways: dict[str, Callable[[Node], Node]] = {
            "permute": self.permute,
            **dict.fromkeys(MOVING, self.moved),
            "clip": self.clamp,
            "clamp": self.clamp,
            "clamp_min": self.clamp,
            "clamp_max": self.clamp,
            "hardtanh": self.clamp,
            "threshold": self.threshold,
            "maximum": self.larger,
            "max": self.larger,
            "minimum": self.smaller,
            "min": self.smaller,
            "mean": self.over_sides,
            "sum": self.over_sides,
            "add": self.neutral,
            "sub": self.neutral,
            "mul": self.product,
            "div": self.product,
        }

    def of(self, node: Node) -> Node:
        """`node` in the one spelling: a new node, or one of those that it reads."""
        while True:
            before = node
            if node.target in NAMES:
                node = replace(node, target=NAMES[node.target])
            node = self.unchanged(node)
            node = self.unexpanded(node)
            node = self.ways.get(node.target, lambda node: node)(node)
            if node is before:
                return node

    def number(self, value: Any) -> float | None:
        """The value of a number, or of a tensor with a single value."""
        if isinstance(value, int | float):
            return float(value)
        tensor = self.tensors.get(value.tensor) if isinstance(value, Node) and value.tensor else None
        return float(tensor) if tensor is not None and tensor.numel() == 1 else None

    def unchanged(self, node: Node) -> Node:
        source = node.args[0] if node.args else None
        if node.target not in UNCHANGED or not isinstance(source, Node) or source.tensor:
            return node
        if (node.shape, node.dtype) != (source.shape, source.dtype):
            return node
        random = node.target.endswith("dropout") and _argument(node, 2, False)
        return node if random else source

    def unexpanded(self, node: Node) -> Node:
        """Without an expansion of an operand that the operator would broadcast to the same shape."""
        if node.target not in BROADCASTING or len(node.args) < 2:
            return node
        args = [_unstretched(arg) for arg in node.args]
        shapes = [arg.shape for arg in args[:2] if isinstance(arg, Node)]
        if args == node.args or torch.broadcast_shapes(*shapes) != node.shape:
            return node
        return replace(node, args=args)

    def permute(self, node: Node) -> Node:
        """Two in a row are one. One that moves nothing is its source, and one that only moves sides of 1 is a view."""
        source, order = node.args
        sides = [side % len(order) for side in order]
        if isinstance(source, Node) and source.target == "permute":
            source, sides = source.args[0], [source.args[1][side] for side in sides]
        if sides == sorted(sides):
            return source
        long = [side for side in sides if source.shape[side] != 1]
        if long == sorted(long):
            return replace(node, target="view", args=[source, [*node.shape]])
        changed = source is not node.args[0] or sides != order
        return replace(node, args=[source, sides]) if changed else node

    def moved(self, node: Node) -> Node:
        """As a permute; the order is read off a tensor whose sides all have different lengths."""
        sides = torch.empty([*range(len(node.shape))], device="meta")
        order = [*MOVING[node.target](sides, *node.args[1:]).shape]
        return replace(node, target="permute", args=[node.args[0], order], kwargs={})

    def clamp(self, node: Node) -> Node:
        """A clamp, also of a clamp, as one with two bounds, where None is no bound; ReLU and ReLU6 keep their names."""
        low, high = _argument(node, 1), _argument(node, 2)
        low, high = node.kwargs.get("min", low), node.kwargs.get("max", high)
        match node.target:
            case "clamp_max":
                low, high = None, node.kwargs.get("max", _argument(node, 1))
            case "hardtanh":
                low, high = _argument(node, 1, -1.0), _argument(node, 2, 1.0)
        bounds = [self.number(bound) for bound in (low, high)]
        if any(bound is None and given is not None for bound, given in zip(bounds, (low, high), strict=True)):
            return node
        return self.clamped(node, node.args[0], *bounds)

    def clamped(self, node: Node, source: Any, low: float | None, high: float | None) -> Node:
        low, high = -inf if low is None else low, inf if high is None else high
        low = min(low, high)
        bounds = {"relu": (0.0, inf), "relu6": (0.0, 6.0)}.get(getattr(source, "target", ""))
        if bounds is None and getattr(source, "target", "") == "clamp" and len(source.args) == 3:
            bounds = (
                -inf if source.args[1] is None else source.args[1],
                inf if source.args[2] is None else source.args[2],
            )
        if bounds is not None:
            source = source.args[0]
            low, high = (min(max(bound, low), high) for bound in bounds)
        named = {(0.0, inf): "relu", (0.0, 6.0): "relu6"}.get((low, high))
        if (low, high) == (0.0, 1.0) and (inner := self.sixth(source)) is not None:
            named, source = "hardsigmoid", inner
        if named:
            return replace(node, target=named, args=[source], kwargs={})
        args = [source, None if low == -inf else low, None if high == inf else high]
        if node.target == "clamp" and node.args == args:
            return node
        return replace(node, target="clamp", args=args, kwargs={})

    def threshold(self, node: Node) -> Node:
        if [self.number(bound) for bound in node.args[1:]] != [0.0, 0.0]:
            return node
        return self.clamped(node, node.args[0], 0.0, None)

    def larger(self, node: Node) -> Node:
        source, bound = self.with_number(node)
        if bound is not None:
            return self.clamped(node, source, bound, None)
        both = len(node.args) == 2 and all(isinstance(arg, Node) for arg in node.args)
        return replace(node, target="maximum") if node.target == "max" and both else node

    def smaller(self, node: Node) -> Node:
        source, bound = self.with_number(node)
        return node if bound is None else self.clamped(node, source, None, bound)

    def with_number(self, node: Node) -> tuple[Any, float | None]:
        """The map and the number, if `node` reads a map and a tensor of one number, in any order."""
        if len(node.args) == 2 and all(isinstance(arg, Node) for arg in node.args):
            for source, other in (node.args, node.args[::-1]):
                bound = self.number(other)
                if bound is not None and source.shape == node.shape and not source.tensor:
                    return source, bound
        return None, None

    def over_sides(self, node: Node) -> Node:
        """A mean or a sum over a map's rows and columns in two steps, or over a flattened map, as one over both."""
        inner, axes = node.args[0], _argument(node, 1)
        if not isinstance(inner, Node) or not inner.args or node.kwargs or not isinstance(axes, list):
            return node
        axes = {axis % len(inner.shape) for axis in axes}
        source = inner.args[0]
        if len(getattr(source, "shape", ())) != 4 or source.tensor:
            return node
        if (
            inner.target in VIEWS
            and axes == {2}
            and inner.shape == (*source.shape[:2], prod(source.shape[2:]))
        ):
            return replace(node, args=[source, [2, 3], len(node.shape) > 2])
        if inner.target == node.target and not inner.kwargs and isinstance(_argument(inner, 1), list):
            first = {axis % 4 for axis in inner.args[1]}
            kept = len(inner.shape) == 4
            second = (
                axes if kept else {[side for side in range(4) if side not in first][axis] for axis in axes}
            )
            if first | second == {2, 3} and not first & second:
                return replace(node, args=[source, [2, 3], len(node.shape) == 4])
        return node

    def neutral(self, node: Node) -> Node:
        source, summand = self.shifted(node)
        return source if source is not None and summand == 0 and source.dtype == node.dtype else node

    def product(self, node: Node) -> Node:
        """Hard-sigmoid, and the activations that are a map times a function of itself."""
        factor, parts = self.factors(node)
        named, source = "", parts[0]
        if len(parts) == 1:
            if factor == 1 and source.dtype == node.dtype:
                return source
            inner = self.six(source)
            if inner is not None and _is(factor, 1 / 6):
                named, source = "hardsigmoid", inner
        elif len(parts) == 2:
            for one, other in (parts, parts[::-1]):
                if found := self.curve(one, other, factor):
                    named, source = found, one
        return replace(node, target=named, args=[source], kwargs={}) if named else node

    def factors(self, node: Node) -> tuple[float, list[Node]]:
        """A product as a number and the maps, all of one shape, that it multiplies."""
        source, factor = self.scaled(node)
        if source is not None:
            inner, parts = self.factors(source)
            return factor * inner, parts
        if node.target != "mul" or not all(
            isinstance(arg, Node) and arg.shape == node.shape for arg in node.args
        ):
            return 1.0, [node]
        (one, these), (other, those) = map(self.factors, node.args)
        return one * other, these + those

    def curve(self, x: Node, other: Node, factor: float) -> str | None:
        """The activation that `factor` times `x` times `other` is."""
        inner = other.args[0] if other.args else None
        if factor == 1 and inner is x and other.target in ("sigmoid", "hardsigmoid"):
            return "silu" if other.target == "sigmoid" else "hardswish"
        if _is(factor, 1 / 6) and self.six(other) is x:
            return "hardswish"
        if factor == 1 and other.target == "tanh" and isinstance(inner, Node):
            return "mish" if inner.target == "softplus" and inner.args == [x] else None
        error, one = self.shifted(other)
        if factor == 0.5 and one == 1 and error is not None and error.target == "erf":
            source, deviation = self.scaled(error.args[0])
            return "gelu" if source is x and _is(deviation, 0.5**0.5) else None
        return None

    def scaled(self, node: Any) -> tuple[Node | None, float]:
        """The node and the number, if `node` is another one times a number."""
        if (
            isinstance(node, Node)
            and node.target in ("mul", "div")
            and len(node.args) == 2
            and not node.kwargs
        ):
            pairs = [tuple(node.args)] if node.target == "div" else [tuple(node.args), tuple(node.args[::-1])]
            for source, other in pairs:
                factor = self.number(other)
                if isinstance(source, Node) and factor and source.shape == node.shape:
                    return source, factor if node.target == "mul" else 1 / factor
        return None, 1.0

    def shifted(self, node: Any) -> tuple[Node | None, float]:
        """The node and the number, if `node` is another one plus a number."""
        if (
            isinstance(node, Node)
            and node.target in ("add", "sub")
            and len(node.args) == 2
            and not node.kwargs
        ):
            pairs = [tuple(node.args), tuple(node.args[::-1])]
            for source, other in pairs[: 2 if node.target == "add" else 1]:
                summand = self.number(other)
                if isinstance(source, Node) and summand is not None and source.shape == node.shape:
                    return source, summand if node.target == "add" else -summand
        return None, 0.0

    def six(self, node: Node) -> Node | None:
        """The x of relu6(x + 3)."""
        source, summand = self.shifted(node.args[0] if node.target == "relu6" else None)
        return source if summand == 3 else None

    def sixth(self, node: Any) -> Node | None:
        """The x of (x + 3) / 6 or x / 6 + 1 / 2."""
        scaled, factor = self.scaled(node)
        if scaled is not None and _is(factor, 1 / 6):
            source, summand = self.shifted(scaled)
            return source if summand == 3 else None
        shifted, summand = self.shifted(node)
        source, factor = self.scaled(shifted)
        return source if summand == 0.5 and _is(factor, 1 / 6) else None


def _is(value: float, wanted: float) -> bool:
    return abs(value - wanted) <= CLOSE * wanted


def _argument(node: Node, position: int, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else default


def _unstretched(value: Any) -> Any:
    """What `value` expands along sides of 1, if it is such a node."""
    if not isinstance(value, Node) or value.target not in EXPANDING or not isinstance(value.args[0], Node):
        return value
    source = value.args[0]
    short = (1,) * (len(value.shape) - len(source.shape)) + source.shape
    stretched = all(side in (1, whole) for side, whole in zip(short, value.shape, strict=True))
    return source if stretched and value.dtype == source.dtype else value
