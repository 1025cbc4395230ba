"""Whether a graph is what it says: its shapes steer where the native kernels read and write."""

from collections.abc import Sequence

from depthwise.errors import DepthwiseError
from depthwise.infer.graph import (
    ACTIVATIONS,
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

MOST_PADDING = 1 << 12

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
                and _windows(read[0], shape, kernel, stride, padding, rounded_up=False)
            )
        case Activation(_, kind):
            return kind in ACTIVATIONS and read[0] == shape
        case Sum():
            return read[0] == read[1] == shape
        case Gate():
            return read[0] == shape and read[1] == (shape[0], 1, 1)
        case Pool(_, kernel, stride, padding, _, _):
            return read[0][0] == shape[0] and _windows(
                read[0], shape, kernel, stride, padding, rounded_up=True
            )
        case Mean():
            return shape == (read[0][0], 1, 1)
        case Concatenation():
            return all(part[1:] == shape[1:] for part in read) and sum(part[0] for part in read) == shape[0]


def _windows(
    source: Shape, shape: Shape, kernel: Sequence[int], stride: int, padding: Sides, *, rounded_up: bool
) -> bool:
    """Whether so many windows fit; `rounded_up`: the last may reach over the edge, if it begins before it."""
    if stride < 1 or min(kernel) < 1 or not 0 <= min(padding) <= max(padding) <= MOST_PADDING:
        return False
    for inside, outside, size, before, after in zip(
        source[1:], shape[1:], kernel, padding[:2], padding[2:], strict=True
    ):
        room = before + inside + after - size
        most = -(-room // stride) if rounded_up else room // stride
        if not room // stride <= outside - 1 <= most:
            return False
        # Of a convolution the last window may see padding alone, as where a kernel of 1 is padded.
        if rounded_up and (outside - 1) * stride >= before + inside:
            return False
    return True
