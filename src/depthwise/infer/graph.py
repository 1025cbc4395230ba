"""The short list of operations that the inference kernels know, and graphs of them."""

from dataclasses import dataclass

from torch import Tensor

LANES = 16  # channels lie in multiples of it: whole vectors on every machine

NUMBERS: dict[str, tuple[float, ...]] = {
    "nothing": (),
    "relu": (),
    "relu6": (),
    "hardtanh": (-1.0, 1.0),
    "elu": (1.0, 1.0, 1.0),
    "sigmoid": (),
    "silu": (),
    "hardsigmoid": (),
    "hardswish": (),
    "leaky_relu": (0.01,),
    "tanh": (),
    "gelu": (0.0,),
    "softplus": (1.0, 20.0),
    "mish": (),
}
"""Of each activation, by PyTorch's name, the numbers that it has, as they are where none are given.

hardtanh is a clamp; gelu's number says whether it is the approximation by tanh.
"""

ACTIVATIONS = tuple(NUMBERS)

Sides = tuple[int, int, int, int]
"""Top, left, bottom, right."""


@dataclass(frozen=True)
class Function:
    """An activation, one of ACTIVATIONS, with all its numbers."""

    kind: str = "nothing"
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Convolution:
    """weight [K, M / groups, h, w], bias [K]; a linear layer is one on a map of one pixel. name: of the module.

    With a dilation, every so many-th row and column of the weight is the module's own, and zeros stand between.
    """

    source: int
    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    padding: Sides
    groups: int
    name: str = ""
    dilation: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Activation:
    source: int
    kind: str
    numbers: tuple[float, ...] = ()

    @property
    def function(self) -> Function:
        return Function(self.kind, self.numbers)


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
    """The largest of each window, which the padding never is, or the mean.

    Of the padding, zeros, `counted` is part of the map: in a mean it counts as well. divisor: of the sum, in place of
    how many count.
    """

    source: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Sides
    average: bool = False
    counted: Sides = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    divisor: int | None = None


@dataclass(frozen=True)
class AdaptivePool:
    """As many windows as the result has rows and columns, as even as can be: the mean or the largest of each."""

    source: int
    average: bool


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


Operation = Image | Convolution | Activation | Sum | Gate | Pool | AdaptivePool | Mean | Concatenation


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
