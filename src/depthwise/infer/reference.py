"""What a graph computes, by definition: each operation by PyTorch's own operators, in float32."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from depthwise.infer.graph import (
    Activation,
    AdaptivePooling,
    Concatenation,
    Convolution,
    Function,
    Gate,
    Graph,
    Image,
    Mean,
    Operation,
    Pooling,
    Sides,
    Sum,
    sources,
)
from depthwise.infer.windows import spans

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "nothing": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": torch.clamp,
    "elu": torch.ops.aten.elu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "leaky_relu": F.leaky_relu,
    "tanh": torch.tanh,
    "gelu": lambda x, by_tanh: F.gelu(x, approximate="tanh" if by_tanh else "none"),
    "softplus": F.softplus,
    "mish": F.mish,
}
"""By the names in graph.ACTIVATIONS; each is called with a map and the activation's numbers."""

Visit = Callable[[int, list[Tensor], Tensor], None]
"""Called with an operation's number, the maps that it reads and the map that it makes, [N, C, H, W] each."""


def interpret(graph: Graph, x: Tensor, visit: Visit = lambda index, read, made: None) -> Tensor:
    """The result of `graph` on float32 images [N, C, H, W]; a map is freed after its last reader."""
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
    """The result of `operation` on the maps that it reads; its `shape` is [C, H, W]."""
    match operation:
        case Convolution():
            x, (top, left, bottom, right) = read[0], operation.padding
            padding = top, left
            if (bottom, right) != padding:
                x, padding = _pad(x, operation.padding, 0.0), (0, 0)
            down, across = operation.dilation
            weight = operation.weight[:, :, ::down, ::across]
            return F.conv2d(
                x, weight, operation.bias, operation.stride, padding, operation.dilation, operation.groups
            )
        case Activation():
            return activate(operation.function, read[0])
        case Sum():
            return torch.maximum(*read) if operation.largest else read[0] + read[1]
        case Gate():
            return read[0] * read[1]
        case Pooling():
            return _pool(operation, read[0], shape[1:])
        case AdaptivePooling():
            pooled: Tensor = (F.adaptive_avg_pool2d if operation.average else F.adaptive_max_pool2d)(
                read[0], shape[1:]
            )
            return pooled
        case Mean():
            return read[0].mean((2, 3), keepdim=True)
        case Concatenation():
            return torch.cat(read, 1)
        case Image():
            raise AssertionError("an image is read from nowhere")


def activate(function: Function, x: Tensor) -> Tensor:
    """The activation of `x`."""
    return FUNCTIONS[function.kind](x, *function.numbers)


def _pad(x: Tensor, sides: Sides, value: float) -> Tensor:
    top, left, bottom, right = sides
    return F.pad(x, (left, right, top, bottom), value=value)


def _pool(pool: Pooling, x: Tensor, size: tuple[int, int]) -> Tensor:
    top, left, _, _ = pool.padding
    # With PyTorch's ceil_mode the last window may end after the padding.
    bottom, right = (
        (out - 1) * stride + (kernel - 1) * dilation + 1 - before - inside
        for out, stride, kernel, dilation, before, inside in zip(
            size, pool.stride, pool.kernel, pool.dilation, (top, left), x.shape[2:], strict=True
        )
    )
    sides = (top, left, bottom, right)
    if not pool.average:
        x = _pad(x, sides, -torch.inf)
        return F.max_pool2d(x, pool.kernel, pool.stride, dilation=pool.dilation)
    sums = F.avg_pool2d(_pad(x, sides, 0.0), pool.kernel, pool.stride, divisor_override=1)
    rows, columns = (spans(pool, axis, x.shape[2 + axis], size[axis])[:, 2] for axis in (0, 1))
    return sums / (rows[:, None] * columns)
