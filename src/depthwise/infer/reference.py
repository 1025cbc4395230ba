"""What a graph means: every operation by PyTorch's own operators, one after another, in float32."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from depthwise.infer.graph import (
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
    sources,
)

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "elu": F.elu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
}
"""Of graph.ACTIVATIONS."""

Visit = Callable[[int, list[Tensor], Tensor], None]
"""Called with the number of an operation, what it reads and what it makes, [N, C, H, W] each."""


def evaluate(graph: Graph, x: Tensor, visit: Visit = lambda index, read, made: None) -> Tensor:
    """The result of `graph` on float32 images [N, C, H, W]; maps are kept no longer than they are read."""
    last = {source: index for index, made in enumerate(graph.operations) for source in sources(made)}
    values: dict[int, Tensor] = {}
    value = x
    for index, operation in enumerate(graph.operations):
        read = [values[source] for source in sources(operation)]
        value = values[index] = apply(operation, read, graph.shapes[index]) if read else x
        visit(index, read, value)
        for source in sources(operation):
            if last[source] == index:
                values.pop(source, None)
    return value.flatten(1) if graph.flat else value


def apply(operation: Operation, read: list[Tensor], shape: tuple[int, int, int]) -> Tensor:
    """What `operation` makes of the maps that it reads, of the shape [C, H, W]."""
    match operation:
        case Convolution():
            padded = _pad(read[0], operation.padding, 0.0)
            return F.conv2d(
                padded, operation.weight, operation.bias, operation.stride, groups=operation.groups
            )
        case Activation():
            return activate(operation.kind, read[0])
        case Sum():
            return torch.maximum(*read) if operation.largest else read[0] + read[1]
        case Gate():
            return read[0] * read[1]
        case Pool():
            return _pool(operation, read[0], shape[1:])
        case Mean():
            return read[0].mean((2, 3), keepdim=True)
        case Concatenation():
            return torch.cat(read, 1)
        case Image():
            raise AssertionError("an image is read from nowhere")


def activate(kind: str, x: Tensor) -> Tensor:
    """The activation `kind` of graph.ACTIVATIONS."""
    return FUNCTIONS[kind](x)


def _pad(x: Tensor, sides: Sides, value: float) -> Tensor:
    top, left, bottom, right = sides
    return F.pad(x, (left, right, top, bottom), value=value)


def _pool(pool: Pool, x: Tensor, size: tuple[int, int]) -> Tensor:
    top, left, _, _ = pool.padding
    # Rounding up counts windows that end behind the padding.
    bottom, right = (
        (out - 1) * pool.stride + kernel - before - inside
        for out, kernel, before, inside in zip(size, pool.kernel, (top, left), x.shape[2:], strict=True)
    )
    sides = (top, left, bottom, right)
    if not pool.average:
        return F.max_pool2d(_pad(x, sides, -torch.inf), pool.kernel, pool.stride)
    sums = F.avg_pool2d(_pad(x, sides, 0.0), pool.kernel, pool.stride)
    if pool.count_padding:
        return sums
    return sums / F.avg_pool2d(_pad(torch.ones_like(x), sides, 0.0), pool.kernel, pool.stride)
