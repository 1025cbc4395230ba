"""A network as the native kernels run it: its weights packed, and memory kept for the runs to come."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.infer.fuse import Step
from depthwise.infer.graph import Convolution, Graph
from depthwise.infer.layout import Layout, lay_out
from depthwise.infer.pack import Packed, pack, unpack, with_result_rounded
from depthwise.infer.quantize import Rounding
from depthwise.infer.reference import interpret
from depthwise.infer.windows import spans
from depthwise.infer.workspace import Workspace, run
from depthwise.native.library import library

CACHE_BYTES = 8 << 20
"""Of the largest map of all images that run together: more would leave the third-level cache."""


_Kind = tuple[int, ...]
"""Of a workspace: images, threads, and the maps that it keeps."""


class Plan:
    """Runs `graph` on float32 images [N, C, H, W] of the shape it was made for; safe from many threads at once.

    bf16: maps and weights are bfloat16 rather than float32; `roundings`: the convolutions that are then in int8.
    At most `together` images are in work at a time, so that the maps between two steps stay in the cache. Memory for a
    number of images and of threads is taken when that first comes, and kept: then running allocates only the result.

    Images with a NaN or an infinity in them, or in what the network makes of them, are answered by PyTorch's
    operators, each for itself. The weights for that are unpacked for the first such image, and kept. A network whose
    weights are not finite is run by PyTorch's operators altogether.
    """

    def __init__(self, graph: Graph, *, bf16: bool, roundings: Mapping[str, Rounding] | None = None) -> None:
        if library.handle is None:
            raise DepthwiseError(
                f"the native kernels cannot run here: {library.reason or 'they are switched off'}"
            )
        layout = lay_out(graph, bf16=bf16, roundings=roundings or {})
        numbers = {id(operation): number for number, operation in enumerate(graph.operations)}
        self.made_of = [(numbers.get(id(s.depthwise)), numbers.get(id(s.product))) for s in layout.steps]
        self.kernels = library.path
        self.packed = [_packed(layout, step) for step in layout.steps]
        self.finite = all(map(_finite, graph.operations))
        # The weights were packed: the network's own need not stay in memory beside them.
        self.graph = (
            replace(graph, operations=tuple(map(_weightless, graph.operations))) if self.finite else graph
        )
        self.layout = replace(
            layout,
            steps=tuple(
                replace(step, depthwise=_weightless(step.depthwise), product=_weightless(step.product))
                for step in layout.steps
            ),
        )
        self.together = max(2, CACHE_BYTES // layout.widest_bytes)
        self._idle: dict[_Kind, SimpleQueue[Workspace]] = {}
        self._weighted: Graph | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """float32 [N, C, H, W] to the network's result."""
        return self.made(x)[0]

    def made(self, x: Tensor, kept: Sequence[int] = ()) -> list[Tensor]:
        """The network's result for float32 [N, C, H, W], and the maps `kept` on the way, float32 [N, c, h, w] each.

        A map has the number of the operation that makes it.
        """
        if library.path != self.kernels or library.handle is None:
            raise DepthwiseError(
                f"this network was compiled for the {self.kernels} kernels: compile it again"
            )
        check_images(x, self.graph.shapes[0])
        if not len(x):
            shapes = [self.graph.shapes[index] for index in (-1, *kept)]
            return self._formed([x.new_zeros(0, *shape) for shape in shapes])
        if not self.finite:
            each = [_interpreted(self.graph, image, kept) for image in x.split(1)]
            return [torch.cat(maps) for maps in zip(*each, strict=True)]
        maps, strange = self._run(x, kept)
        for images in strange:
            for image in images:
                alone = x[image : image + 1]
                if len(images) == 1 or self._run(alone, kept)[1]:
                    self._weighted = graph = self._weighted or self.whole_graph()
                    for made, right in zip(maps, _interpreted(graph, alone, kept), strict=True):
                        made[image] = right[0]
        return maps

    def _formed(self, maps: list[Tensor]) -> list[Tensor]:
        """The result, which comes first, in the shape that the graph says."""
        return [maps[0].flatten(1), *maps[1:]] if self.graph.flat else maps

    def _run(self, x: Tensor, kept: Sequence[int]) -> tuple[list[Tensor], list[range]]:
        """What the kernels make of images, and which images ran together and met a value that is not finite."""
        results: list[list[Tensor]] = []
        strange: list[range] = []
        done = 0
        for beside, images, threads in self._turns(len(x), torch.get_num_threads()):
            workspaces = [self._workspace(images, threads, kept) for _ in range(beside)]
            for result, finite in run(workspaces, x[done : done + beside * images].split(images)):
                results.append(result)
                if not finite:
                    strange.append(range(done, done + images))
                done += images
            for workspace in workspaces:
                self._idle[images, threads, *kept].put(workspace)
        maps = results[0] if len(results) == 1 else [torch.cat(parts) for parts in zip(*results, strict=True)]
        return self._formed(maps), strange

    def release(self) -> None:
        """Let go of the memory of earlier runs."""
        self._idle.clear()
        self._weighted = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Plan":
        return self  # nothing in it changes

    def __reduce__(self) -> tuple[Any, ...]:
        """Its graph with the weights: where it is loaded, it is packed for the processor there."""
        return _planned, (self.whole_graph(), self.layout.bf16, self.layout.roundings)

    def whole_graph(self) -> Graph:
        """Its graph with the weights as they were packed, or as they are if they are not finite."""
        if not self.finite:
            return self.graph
        operations = list(self.graph.operations)
        for step, packed, numbers in zip(self.layout.steps, self.packed, self.made_of, strict=True):
            unpacked = unpack(packed, step, *self.layout.roundings_of(step))
            for number, made in zip(numbers, unpacked, strict=True):
                if number is not None and made is not None:
                    operations[number] = made
        return replace(self.graph, operations=tuple(operations))

    @cached_property
    def classifier(self) -> tuple[Tensor, Tensor]:
        """The weight [K, M, h, w] and the bias [K] of the last product, which makes the result."""
        step = self.layout.steps[-1]
        product = unpack(self.packed[-1], step, *self.layout.roundings_of(step))[1]
        assert product is not None
        return product.weight, product.bias

    def _turns(self, images: int, threads: int) -> Iterator[tuple[int, int, int]]:
        """How images are run, turn by turn: n runs beside each other, and of each run its images and its threads.

        Each thread has images of its own, if there are enough and the cache has room for one a thread. So it waits for
        no other thread and fetches nothing that another core wrote. All threads share the images that are left.
        """
        own = images // threads if threads <= self.together else 0
        for part in _even_parts(own, max(1, self.together // threads)):
            yield threads, part, 1
        for part in _even_parts(images - own * threads, self.together):
            yield 1, part, threads

    def _workspace(self, images: int, threads: int, kept: Sequence[int]) -> Workspace:
        try:
            return self._idle.setdefault((images, threads, *kept), SimpleQueue()).get_nowait()
        except Empty:
            return Workspace(self.layout, self.packed, images, threads, kept)


def _interpreted(graph: Graph, image: Tensor, kept: Sequence[int]) -> list[Tensor]:
    """What `Plan.made` gives for one image, by PyTorch's operators."""
    maps: dict[int, Tensor] = {}

    def visit(index: int, read: list[Tensor], made: Tensor) -> None:
        if index in kept:
            maps[index] = made

    return [interpret(graph, image.contiguous(), visit), *(maps[index] for index in kept)]


def _packed(layout: Layout, step: Step) -> Packed:
    """What the kernels take of `step` besides the maps."""
    source, result = layout.maps[step.source], layout.maps[step.result]
    rounding, depthwise_rounding = layout.roundings_of(step)
    packed = pack(
        step,
        source.channels,
        result.channels,
        bf16=layout.bf16,
        rounding=rounding,
        depthwise_rounding=depthwise_rounding,
        uint8_source=source.rounding is not None,
    )
    if result.rounding is not None:
        packed = with_result_rounded(packed, step, result.rounding, result.channels)
    if step.kind == "copy":
        return replace(packed, length=source.shape[0])
    if step.pool is not None:
        rows, columns = (
            spans(step.pool, axis, source.shape[1 + axis], result.shape[1 + axis]) for axis in (0, 1)
        )
        return replace(packed, row_spans=rows, column_spans=columns)
    return packed


def _planned(graph: Graph, bf16: bool, roundings: Mapping[str, Rounding]) -> Plan:
    return Plan(graph, bf16=bf16, roundings=roundings)


def check_images(x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise DepthwiseError unless `x` are float32 images of `shape` [C, H, W] on the CPU."""
    if tuple(x.shape[1:]) != shape or x.dtype != torch.float32 or x.device.type != "cpu":
        raise DepthwiseError(
            f"this network was compiled for float32 images [N, {', '.join(map(str, shape))}] on the CPU, not "
            f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)} on {x.device.type}: compile it for these"
        )


def _finite(operation: Any) -> bool:
    return not isinstance(operation, Convolution) or all(
        bool(part.isfinite().all()) for part in (operation.weight, operation.bias)
    )


def _weightless(operation: Any) -> Any:
    """A convolution with a weight of the same shape and no memory; anything else as it is."""
    if not isinstance(operation, Convolution):
        return operation
    return replace(operation, weight=operation.weight.new_empty(()).expand(operation.weight.shape))


def _even_parts(count: int, most: int) -> list[int]:
    """`count` in as few parts of at most `most` as there must be, none larger than another by more than one."""
    parts = -(-count // most)
    return [count * (i + 1) // parts - count * i // parts for i in range(parts)]
