"""An update of a network's weights in one reading of memory: clipped gradients, the optimiser's step, the average.

Results are the bits that PyTorch's own operators have, but for square roots, which are the nearest numbers here. Before
each update it is seen where everything lies, so a tensor that was replaced, or that the kernel cannot take, is never
written past.
"""

import ctypes
from collections.abc import Sequence
from ctypes import byref
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from depthwise.native import structs
from depthwise.native.library import library

Rates = structs.Rates

FIELDS = ("weight", "first", "second", "updates", "average")


def in_use() -> bool:
    """Whether kernels run."""
    return library.handle is not None


@dataclass(frozen=True, eq=False)
class Row:
    """A tensor and what moves with it, as `Moved` in native/kernels.h has it.

    learns: it may have a gradient; else the average alone moves. group: the number of its rates. begins: its slots are
    new.
    """

    weight: Tensor
    learns: bool = False
    group: int = 0
    first: Tensor | None = None
    second: Tensor | None = None
    updates: Tensor | None = None
    average: Tensor | None = None
    begins: bool = False

    def written(self) -> list[Tensor]:
        """What an update changes, but for the gradient."""
        changed = [self.weight if self.learns else None, self.first, self.second, self.updates, self.average]
        return [tensor for tensor in changed if tensor is not None]

    def suits(self) -> bool:
        """Whether the kernel can take it: float32 in the processor's memory, all in one order and without gaps."""
        alike = [t for t in (self.weight, self.first, self.second, self.average) if t is not None]
        counts = self.updates is None or (is_plain(self.updates) and self.updates.ndim == 0)
        plain = counts and all(is_plain(t) and not t.is_inference() for t in alike)
        return plain and _is_dense(self.weight) and all(_same_order(t, self.weight) for t in alike)


class Table:
    """What updates by `rule`, one of `structs.RULES`, move, as the kernel takes it: rows that learn, then others.

    All rows must suit.
    """

    def __init__(self, rule: str, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._rule = structs.RULES.index(rule)
        self._learning = [row for row in rows if row.learns]
        self._array = (structs.Moved * len(rows))()
        self._tensors, self._pointers = list[Tensor](), list[int]()
        for entry, row in zip(self._array, rows, strict=True):
            entry.count, entry.group, entry.begins = row.weight.numel(), row.group, row.begins
            for field in FIELDS:
                if (tensor := getattr(row, field)) is not None:
                    setattr(entry, field, tensor.data_ptr())
                    self._tensors.append(tensor)
                    self._pointers.append(tensor.data_ptr())
        words = np.frombuffer(memoryview(self._array).cast("B"), np.int64)  # a field has eight bytes
        words = words.reshape(len(rows), -1)
        self._gradient_pointers = words[: len(self._learning), structs.Moved.gradient.offset // 8]
        self._gradient_bytes = np.array([4 * row.weight.numel() for row in self._learning], np.int64)
        self._gradients: Sequence[Tensor | None] = ()
        self._orders = [{(row.weight.shape, row.weight.stride())} for row in self._learning]
        written = [tensor for row in rows for tensor in row.written() if tensor.numel()]
        self._starts = np.array([tensor.data_ptr() for tensor in written], np.int64)
        self._bytes = np.array([4 * tensor.numel() for tensor in written], np.int64)

    def holds(self) -> bool:
        """Whether its tensors still lie where they lay."""
        return [*map(Tensor.data_ptr, self._tensors)] == self._pointers

    def take(self, gradients: Sequence[Tensor | None]) -> bool:
        """Have the gradients of the next update, one for each row that learns.

        False if the kernel cannot take one, or if two tensors that the update writes have memory in common.
        """
        pointers = []
        for gradient, row, orders in zip(gradients, self._learning, self._orders, strict=True):
            if gradient is None:
                pointers.append(0)
                continue
            if not is_plain(gradient):
                return False
            if (order := (gradient.shape, gradient.stride())) not in orders:
                if not _same_order(gradient, row.weight):
                    return False
                orders.add(order)
            pointers.append(gradient.data_ptr())
            if not pointers[-1] and row.weight.numel():  # a tensor of zeros that takes no memory
                return False
        starts = np.array(pointers, np.int64)
        there = (starts != 0) & (self._gradient_bytes != 0)
        self._gradients, self._gradient_pointers[:] = gradients, starts
        return _are_apart(
            np.concatenate([self._starts, starts[there]]),
            np.concatenate([self._bytes, self._gradient_bytes[there]]),
        )

    def run(self, rates: Sequence[Rates], *, clip: float, follow: float) -> None:
        """An update by the gradients taken, which are multiplied by `clip` first; averages go the part `follow` of the
        way to their weights."""
        groups = (structs.Rates * len(rates))(*rates)
        arguments = structs.Update(
            ctypes.addressof(self._array),
            ctypes.addressof(groups),
            len(self._array),
            clip,
            follow,
            self._rule,
            torch.get_num_threads(),
        )
        library.loaded.depthwise_update(byref(arguments))  # type: ignore[union-attr]
        self._tell(clipped=clip != 1)

    def _tell(self, *, clipped: bool) -> None:
        """Let autograd know what has changed, as it knows of PyTorch's own operators, and let the gradients go."""
        changed = [row.average for row in self.rows if row.average is not None]
        for row, gradient in zip(self._learning, self._gradients, strict=True):
            if gradient is not None:
                changed += [*row.written(), *([gradient] if clipped else [])]
        torch.autograd.graph.increment_version(changed)
        self._gradients = ()


def is_plain(tensor: Tensor | None) -> TypeGuard[Tensor]:
    """Whether there is a tensor whose float32 numbers lie in the processor's memory, in whatever order."""
    return tensor is not None and (
        (type(tensor) is Tensor or type(tensor) is nn.Parameter)
        and tensor.dtype is torch.float32
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not tensor.is_neg()
    )


def _steps(tensor: Tensor) -> list[tuple[int, int]]:
    """Stride and size of each dimension along which there are several places."""
    return [(step, size) for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1]


def _same_order(tensor: Tensor, other: Tensor) -> bool:
    return tensor.shape == other.shape and _steps(tensor) == _steps(other)


def _is_dense(tensor: Tensor) -> bool:
    within = 1
    for step, size in sorted(_steps(tensor)):
        if step != within:
            return False
        within *= size
    return True


def _are_apart(starts: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether no two parts of memory have a byte in common."""
    order = np.argsort(starts)
    starts, sizes = starts[order], sizes[order]
    return bool((starts[:-1] + sizes[:-1] <= starts[1:]).all())
