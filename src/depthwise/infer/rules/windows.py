"""Poolings and means: numbers of a map's windows, each channel by itself."""

from depthwise.infer.graph import Mean, Pool
from depthwise.infer.lowering import Lowering, argument, rule
from depthwise.infer.trace import Node


@rule("max_pool2d")
def max_pool2d(lowering: Lowering, node: Node) -> None:
    if {*argument(node, 4, [1])} != {1}:
        raise lowering.refusal(node, "a pooling with dilation")
    pool(lowering, node, -float("inf"))


@rule("avg_pool2d")
def avg_pool2d(lowering: Lowering, node: Node) -> None:
    counted = argument(node, 5, True)
    if (argument(node, 4, False) and counted) or argument(node, 6) is not None:
        raise lowering.refusal(
            node, "an average pooling that rounds up and counts padding, or has a divisor,"
        )
    if lowering.value(node.args[0]).padding and not counted:
        raise lowering.refusal(node, "padding")
    pool(lowering, node, 0.0, average=True, count_padding=counted)


def pool(
    lowering: Lowering, node: Node, fill: float, *, average: bool = False, count_padding: bool = False
) -> None:
    """Pooling by the arguments that all kinds have, over padding with `fill`."""
    source, outside = lowering.padded(node, fill)
    kernel = (*node.args[1], *node.args[1])[:2]
    stride = argument(node, 2) or kernel
    top, left = (*argument(node, 3, [0]), *argument(node, 3, [0]))[:2]
    if len({*stride}) > 1:
        raise lowering.refusal(node, "a pooling with such strides")
    sides = (outside[0] + top, outside[1] + left, outside[2] + top, outside[3] + left)
    lowering.add(node, Pool(source, kernel, stride[0], sides, average, count_padding))


@rule("mean")
def mean(lowering: Lowering, node: Node) -> None:
    axes = argument(node, 1) or []
    if sorted(axis % 4 for axis in axes) != [2, 3] or node.kwargs:
        raise lowering.refusal(node, "a mean over other axes than a map's")
    lowering.add(node, Mean(lowering.map(node, node.args[0])))


@rule("adaptive_avg_pool2d")
def adaptive_avg_pool2d(lowering: Lowering, node: Node) -> None:
    source = lowering.map(node, node.args[0])
    _, *shape = lowering.shapes[source]
    wanted = [*node.shape[2:]]
    height, width = (before // after for before, after in zip(shape, wanted, strict=True))
    if wanted == [1, 1]:
        lowering.add(node, Mean(source))
    elif height != width or [height * size for size in wanted] != shape:
        raise lowering.refusal(node, f"adaptive pooling from {shape} to {wanted}")
    else:
        lowering.add(node, Pool(source, (height, width), height, (0, 0, 0, 0), average=True))
