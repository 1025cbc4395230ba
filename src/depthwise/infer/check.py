"""Whether a graph's shapes are right: they decide where the native kernels read and write."""

from collections.abc import Sequence
from math import isnan

from depthwise.errors import DepthwiseError
from depthwise.infer.graph import (
    NUMBERS,
    Activation,
    AdaptivePooling,
    Concatenation,
    Convolution,
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

MOST_PADDING = 1 << 12
MOST_WINDOW = 1 << 20  # of kernels, strides and dilations

Shape = tuple[int, int, int]


def check(graph: Graph) -> None:
    """Raise DepthwiseError that names the first operation whose shape does not follow from what it reads."""
    for index, (operation, shape) in enumerate(zip(graph.operations, graph.shapes, strict=True)):
        read = sources(operation)
        sound = all(0 <= source < index for source in read) and min(shape) > 0
        if not (sound and _follows(operation, [graph.shapes[source] for source in read], shape)):
            raise DepthwiseError(
                f"operation {index}, {type(operation).__name__}, makes {list(shape)}, which does not follow from what "
                f"it reads: compile a plain classifier"
            )


def _follows(operation: Operation, read: Sequence[Shape], shape: Shape) -> bool:
    match operation:
        case Image():
            return True
        case Convolution(_, weight, bias, stride, padding, groups):
            outputs, width, *kernel = weight.shape
            return (
                groups > 0
                and outputs == shape[0] == len(bias)
                and outputs % groups == 0
                and width * groups == read[0][0]
                and _windows(read[0], shape, kernel, stride, padding)
            )
        case Activation(_, kind, numbers):
            return (
                kind in NUMBERS
                and len(numbers) == len(NUMBERS[kind])
                and not any(map(isnan, numbers))
                and read[0] == shape
            )
        case Sum():
            return read[0] == read[1] == shape
        case Gate():
            return read[0] == shape and read[1] == (shape[0], 1, 1)
        case Pooling(_, kernel, stride, padding):
            counted, padded = operation.counted, operation.divisor != 0 and read[0][0] == shape[0]
            inner = all(0 <= part <= side for part, side in zip(counted, padding, strict=True))
            return padded and inner and _windows(read[0], shape, kernel, stride, padding, operation.dilation)
        case AdaptivePooling():
            return read[0][0] == shape[0]
        case Mean():
            return shape == (read[0][0], 1, 1)
        case Concatenation():
            return all(part[1:] == shape[1:] for part in read) and sum(part[0] for part in read) == shape[0]


def _windows(
    source: Shape,
    shape: Shape,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sides,
    dilation: Sequence[int] | None = None,
) -> bool:
    """Whether `shape` has the right number of windows; with a `dilation`, the last may reach over the edge."""
    sides = (*kernel, *stride, *(dilation or ()))
    if (
        not 0 < min(sides) <= max(sides) <= MOST_WINDOW
        or not 0 <= min(padding) <= max(padding) <= MOST_PADDING
    ):
        return False
    for axis in (0, 1):
        outside, step = shape[1 + axis], stride[axis]
        padded = padding[axis] + source[1 + axis] + padding[axis + 2]
        room = padded - 1 - (kernel[axis] - 1) * (dilation or (1, 1))[axis]
        most = room // step if dilation is None else -(-room // step)
        if not room // step <= outside - 1 <= most:
            return False
        # The last window must begin before the edge. A convolution's may cover padding alone, as a padded 1x1 does.
        if dilation is not None and (outside - 1) * step >= padded:
            return False
    return True
