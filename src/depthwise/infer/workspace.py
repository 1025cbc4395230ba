"""The memory that one run of a plan works in, and the plan's steps as the kernels take them."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from depthwise.infer.arena import ALIGNMENT, place
from depthwise.infer.fuse import Step
from depthwise.infer.graph import Pooling
from depthwise.infer.layout import Layout
from depthwise.infer.pack import Packed, function_of
from depthwise.native import structs
from depthwise.native.plans import run_plans, scratch_bytes


class Workspace:
    """Memory for a run of `batch` images on `threads` threads, one run at a time; packed: the steps' numbers.

    kept: maps that are there after a run, besides the result.
    """

    def __init__(
        self, layout: Layout, packed: Sequence[Packed], batch: int, threads: int, kept: Sequence[int] = ()
    ) -> None:
        self.layout, self.packed, self.batch, self.threads = layout, packed, batch, threads
        self.kept = kept
        owners = {layout.maps[step.result].owner for step in layout.steps}
        self.sizes = {index: self._bytes(index) for index in owners}
        self.offsets, maps_bytes = place(layout, self.sizes, kept)
        self.steps = (structs.Step * len(layout.steps))(
            *(self._step(step, numbers) for step, numbers in zip(layout.steps, packed, strict=True))
        )
        self.call = structs.Run(
            steps=ctypes.addressof(self.steps),
            count=len(layout.steps),
            scratch=maps_bytes,
            batch=batch,
            threads=threads,
            bf16=layout.bf16,
        )
        self.call.scratch_bytes = scratch_bytes(self.call)
        self.call.arena_bytes = maps_bytes + threads * self.call.scratch_bytes
        self.arena = torch.zeros(self.call.arena_bytes + ALIGNMENT, dtype=torch.uint8)
        self.start = -self.arena.data_ptr() % ALIGNMENT
        self.call.arena = self.arena.data_ptr() + self.start

    def made(self) -> list[Tensor]:
        """Copies of what the last run made, the result and the maps that are kept: float32 [N, C, H, W] each."""
        return [self._values(index) for index in (self.layout.result, *self.kept)]

    def _values(self, index: int) -> Tensor:
        laid = self.layout.maps[index]
        owner = self.layout.maps[laid.owner]
        channels, height, width = laid.shape
        start, border = self.start + self.offsets[laid.owner], owner.border
        rows, columns = height + 2 * border, width + 2 * border
        size = self.batch * rows * columns * owner.channels * owner.dtype.itemsize
        values = self.arena[start : start + size].view(owner.dtype)
        values = values.view(self.batch, rows, columns, owner.channels)
        values = values[:, border : border + height, border : border + width]
        values = values[..., laid.first : laid.first + channels].to(torch.float32, copy=True)
        if laid.rounding is not None:
            values = (values - laid.rounding.zero) * laid.rounding.scale
        return values.permute(0, 3, 1, 2)

    def _map(self, index: int | None, channels: int | None = None, first: int = 0) -> structs.Map:
        """`channels` of map `index`, starting with its channel `first`; all of them by default."""
        if index is None:
            return structs.Map(offset=-1)
        laid = self.layout.maps[index]
        owner = self.layout.maps[laid.owner]
        _, height, width = laid.shape
        return structs.Map(
            offset=self.offsets[laid.owner],
            bytes=self.sizes[laid.owner],
            height=height,
            width=width,
            channels=channels or laid.channels,
            border=owner.border,
            pixel=owner.channels,
            first=laid.first + first,
        )

    def _step(self, step: Step, packed: Packed) -> structs.Step:
        kernel, stride, (top, left, _, _) = step.window
        dilation = step.pool.dilation if isinstance(step.pool, Pooling) else (1, 1)
        maps, result = self.layout.maps, self.layout.result
        source, out = self._map(step.source), self._map(step.result)
        if step.kind == "input":
            source.channels = maps[step.result].shape[0]
        if step.first is not None:
            end = maps[step.result].channels if step.last else step.first + maps[step.source].shape[0]
            out = self._map(step.result, end - step.first, step.first)
        return structs.Step(
            input=source,
            out=out,
            residual=self._map(step.residual),
            gate=self._map(step.gate),
            **packed.fields(),
            kernel_height=kernel[0],
            kernel_width=kernel[1],
            stride_y=stride[0],
            stride_x=stride[1],
            dilation_y=dilation[0],
            dilation_x=dilation[1],
            pad_top=top,
            pad_left=left,
            between=function_of(step.between),
            activation=function_of(step.activation),
            kind=structs.KINDS.index(step.kind),
            relu_first=step.relu_first,
            largest=step.largest,
            float_out=step.result == result and maps[result].dtype == torch.float32,
            # uint8 has no NaN: with int8 products every step must tell what it meets.
            watched=bool(self.layout.roundings) or maps[step.result].owner == result,
        )

    def _bytes(self, index: int) -> int:
        laid = self.layout.maps[index]
        _, height, width = laid.shape
        pixels = self.batch * (height + 2 * laid.border) * (width + 2 * laid.border)
        size = pixels * laid.channels * laid.dtype.itemsize
        # The end belongs to no map, for the sanitizer to watch over.
        return -(-size // ALIGNMENT) * ALIGNMENT + ALIGNMENT


def run(workspaces: Sequence[Workspace], images: Sequence[Tensor]) -> list[tuple[list[Tensor], bool]]:
    """What each workspace made of its images, and whether all values were finite; of several, each has one thread."""
    for workspace, x in zip(workspaces, images, strict=True):
        workspace.call.image = x.data_ptr()
        workspace.call.strides[:] = x.stride()
    finite = run_plans([workspace.call for workspace in workspaces])
    return [(workspace.made(), each) for workspace, each in zip(workspaces, finite, strict=True)]
