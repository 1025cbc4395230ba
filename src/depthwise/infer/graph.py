"""The operations that the inference kernels know, and graphs of them."""

from dataclasses import dataclass

from torch import Tensor

LANES = 16  # channels are padded to a multiple of it: whole vectors on every machine

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
"""The activations, by PyTorch's names, and the defaults of their numbers.

hardtanh is a clamp. A gelu with a number other than 0 is the approximation by tanh.
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
    """weight [K, M / groups, h, w], bias [K]; a linear layer is one on a map of one pixel. name: that of the module.

    With a dilation of n, every n-th row and column of the weight is the module's own, and the others are zero.
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
    """The sum of two maps, or of each two values the larger one."""

    source: int
    other: int
    largest: bool = False


@dataclass(frozen=True)
class Gate:
    """A map times one number per channel, `gate` [C, 1, 1]."""

    source: int
    gate: int


@dataclass(frozen=True)
class Pooling:
    """The largest value of each window, which is never in the padding, or the mean.

    counted: the part of the padding whose zeros count in a mean. divisor: what a sum is divided by, in place of the
    number of pixels that count.
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
class AdaptivePooling:
    """The mean or the largest value of windows, one per pixel of the result, that divide the map evenly."""

    source: int
    average: bool


@dataclass(frozen=True)
class Concatenation:
    """The channels of the parts, one part after the other."""

    parts: tuple[int, ...]


@dataclass(frozen=True)
class Mean:
    """The mean of each channel over the whole map."""

    source: int


@dataclass(frozen=True)
class Image:
    """The images that the network is called with."""


Operation = Image | Convolution | Activation | Sum | Gate | Pooling | AdaptivePooling | Mean | Concatenation


@dataclass(frozen=True)
class Graph:
    """Operations in an order in which they can run, each with the shape [C, H, W] it makes; the last is the result."""

    operations: tuple[Operation, ...]
    shapes: tuple[tuple[int, int, int], ...]
    flat: bool
    """The result is [N, C] rather than [N, C, 1, 1]."""


def sources(operation: Operation) -> tuple[int, ...]:
    """The numbers of the operations whose results `operation` reads."""
    match operation:
        case Image():
            return ()
        case Sum(source, other, _) | Gate(source, other):
            return source, other
        case Concatenation(parts):
            return parts
        case _:
            return (operation.source,)
