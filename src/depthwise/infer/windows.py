"""Which rows and columns of a map the windows of a pooling see, and how many of them count in a mean."""

import torch
from torch import Tensor

from depthwise.infer.graph import AdaptivePool, Pool

Span = tuple[int, int, int]
"""Begin, end and how many count."""


def spans(pool: Pool | AdaptivePool, axis: int, inside: int, outside: int) -> Tensor:
    """Of each of the `outside` windows along `axis`, 0 for rows and 1 for columns, of a map with `inside` of them.

    int64 [outside, 3], as PyTorch's poolings have them: begin and end, of which every `dilation`-th is seen, and the
    count.
    """
    if isinstance(pool, AdaptivePool):
        return torch.tensor([_even(index, inside, outside) for index in range(outside)])
    return torch.tensor([_window(pool, axis, index, inside) for index in range(outside)])


def _even(index: int, inside: int, outside: int) -> Span:
    begin, end = index * inside // outside, -(-(index + 1) * inside // outside)
    return begin, end, end - begin


def _window(pool: Pool, axis: int, index: int, inside: int) -> Span:
    kernel, dilation, (before, after) = pool.kernel[axis], pool.dilation[axis], pool.counted[axis::2]
    start = index * pool.stride[axis] - pool.padding[axis]
    # Of what is seen the first that is no padding.
    begin = min(max(start, start % dilation), inside)
    end = max(begin, min(start + (kernel - 1) * dilation + 1, inside))
    counted = min(start + kernel, inside + after) - max(start, -before)
    if pool.divisor is not None:
        counted = pool.divisor if axis == 0 else 1
    return begin, end, counted
