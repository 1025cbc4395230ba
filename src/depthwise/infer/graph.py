"""The short list of operations that the inference kernels know, and graphs of them."""

from dataclasses import dataclass

from torch import Tensor

LANES = 16  # channels lie in multiples of it: whole vectors on every machine

ACTIVATIONS = ("nothing", "relu", "relu6", "elu", "sigmoid", "silu", "hardsigmoid", "hardswish")

Sides = tuple[int, int, int, int]
"""Top, left, bottom, right."""


@dataclass(frozen=True)
class Convolution:
    """weight [K, M / groups, h, w], bias [K]; a linear layer is one on a map of one pixel. name: of the module."""

    source: int
    weight: Tensor
    bias: Tensor
    stride: int
    padding: Sides
    groups: int
    name: str = ""


@dataclass(frozen=True)
class Activation:
    source: int
    kind: str


@dataclass(frozen=True)
class Sum:
    """Of two maps, value by value; or the larger of the two."""

    source: int
    other: int
    largest: bool = False


@dataclass(frozen=True)
class Gate:
    """A map times one number a channel, `gate` [C, 1, 1]."""

    source: int
    gate: int


@dataclass(frozen=True)
class Pool:
    """The largest of each window, which the padding never is, or the mean; `count_padding`: of the zeros, too."""

    source: int
    kernel: tuple[int, int]
    stride: int
    padding: Sides
    average: bool = False
    count_padding: bool = False


@dataclass(frozen=True)
class Concatenation:
    """Of channels."""

    parts: tuple[int, ...]


@dataclass(frozen=True)
class Mean:
    """Of the whole map."""

    source: int


@dataclass(frozen=True)
class Image:
    """What the network is called with."""


Operation = Image | Convolution | Activation | Sum | Gate | Pool | Mean | Concatenation


@dataclass(frozen=True)
class Graph:
    """Operations in an order in which they can run, each with the shape [C, H, W] it makes; the last is the result."""

    operations: tuple[Operation, ...]
    shapes: tuple[tuple[int, int, int], ...]
    flat: bool
    """Whether the result is [N, C] rather than [N, C, 1, 1]."""


def sources(operation: Operation) -> tuple[int, ...]:
    """What `operation` reads."""
    match operation:
        case Image():
            return ()
        case Sum(source, other, _) | Gate(source, other):
            return source, other
        case Concatenation(parts):
            return parts
        case _:
            return (operation.source,)
