"""Which rows and columns of a map the windows of a pooling cover, and how many of them count in a mean."""

import torch
from torch import Tensor

from depthwise.infer.graph import AdaptivePooling, Pooling

Span = tuple[int, int, int]
"""Begin, end, and the number that counts."""


def spans(pool: Pooling | AdaptivePooling, axis: int, inside: int, outside: int) -> Tensor:
    """The Spans of the `outside` windows along an `axis` (0: rows, 1: columns) of a map with `inside` rows or columns.

    int64 [outside, 3], as PyTorch's poolings have them. Of the rows or columns from begin to end, a window covers every
    `dilation`-th.
    """
    if isinstance(pool, AdaptivePooling):
        return torch.tensor([_even(index, inside, outside) for index in range(outside)])
    return torch.tensor([_window(pool, axis, index, inside) for index in range(outside)])


def _even(index: int, inside: int, outside: int) -> Span:
    begin, end = index * inside // outside, -(-(index + 1) * inside // outside)
    return begin, end, end - begin


def _window(pool: Pooling, axis: int, index: int, inside: int) -> Span:
    kernel, dilation, (before, after) = pool.kernel[axis], pool.dilation[axis], pool.counted[axis::2]
    start = index * pool.stride[axis] - pool.padding[axis]
    # The first row or column of the window that is not padding.
    begin = min(max(start, start % dilation), inside)
    end = max(begin, min(start + (kernel - 1) * dilation + 1, inside))
    counted = min(start + kernel, inside + after) - max(start, -before)
    if pool.divisor is not None:
        counted = pool.divisor if axis == 0 else 1
    return begin, end, counted
