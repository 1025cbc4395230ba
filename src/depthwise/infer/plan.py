"""A network as a plan for the native kernels: weights packed once, maps laid out in one arena, steps in a list."""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.infer.arena import ALIGNMENT, lay_out
from depthwise.infer.fuse import NOTHING, Step, fuse
from depthwise.infer.graph import LANES, Convolution, Graph, Pool
from depthwise.infer.pack import Packed, bytes_of, function_of, pack, unpack
from depthwise.infer.quantize import Rounding
from depthwise.infer.reference import evaluate
from depthwise.infer.windows import spans
from depthwise.native import structs
from depthwise.native.library import library
from depthwise.native.plans import run_plans, scratch_bytes

KINDS = ("input", "convolution", "pool", "mean", "sum", "average", "copy")
CACHE_BYTES = 8 << 20  # that a map of all images run together may have: more leaves the third-level cache


class Plan:
    """Runs `graph` on float32 images [N, C, H, W] of the shape it was made for; safe from many threads at once.

    bf16: maps and weights are bfloat16 rather than float32; `roundings`: products that are done in bytes then.
    At most `together` images are in work at a time, that the maps between two steps stay in the cache. Memory for a
    number of images and of threads is taken when it first comes, and kept: running allocates the result and nothing
    else.

    Images with a NaN or an infinity in them, or in what the network makes of them, are answered by PyTorch's
    operators, each for itself; the weights for that are unpacked when the first comes, and kept too. A network with
    such weights is run by PyTorch's operators altogether.
    """

    def __init__(self, graph: Graph, *, bf16: bool, roundings: Mapping[str, Rounding] | None = None) -> None:
        if library.handle is None:
            raise DepthwiseError(
                f"the native kernels cannot run here: {library.reason or 'they are switched off'}"
            )
        self.graph, self.bf16 = graph, bf16
        self.kernels = library.path
        schedule = fuse(graph)
        self.steps, self.homes = list(schedule.steps), schedule.homes
        self.shapes = list(graph.shapes)
        self.value_bytes = 2 if bf16 else 4
        self.result = self.steps[-1].result
        self.float_out = not bf16 or self.steps[-1].kind == "convolution"
        self.roundings = roundings or {}
        self.byte_maps: dict[int, Rounding] = {}
        self._keep_bytes()
        self.steps = [self._saturated(step) for step in self.steps]
        self.channels = self._channels()
        self.borders = self._borders()
        self.packed = [self._pack(step) for step in self.steps]
        self.out_bytes = {index: bytes_of(r, self.channels[index]) for index, r in self.byte_maps.items()}
        numbers = {id(operation): number for number, operation in enumerate(graph.operations)}
        self.made_of = [(numbers.get(id(s.depthwise)), numbers.get(id(s.product))) for s in self.steps]
        # The weights were packed: the network's own need not stay in memory beside them.
        self.finite = all(map(_finite, graph.operations))
        if self.finite:
            self.graph = replace(graph, operations=tuple(map(_weightless, graph.operations)))
        self.steps = [
            replace(step, depthwise=_weightless(step.depthwise), product=_weightless(step.product))
            for step in self.steps
        ]
        widest = max(h * w * c for (_, h, w), c in zip(self.shapes, self.channels, strict=True))
        self.together = max(2, CACHE_BYTES // (widest * self.value_bytes))
        self._idle: dict[tuple[int, int], SimpleQueue[_Context]] = {}
        self._weighted: Graph | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """float32 [N, C, H, W] to the network's result."""
        if library.path != self.kernels or library.handle is None:
            raise DepthwiseError(
                f"this network was compiled for the {self.kernels} kernels: compile it again"
            )
        check_images(x, self.shapes[0])
        if not len(x):
            return x.new_zeros(0, *self.shapes[self.result][: 1 if self.graph.flat else 3])
        if not self.finite:
            return torch.cat([evaluate(self.graph, image.contiguous()) for image in x.split(1)])
        y, strange = self._run(x)
        for images in strange:
            for image in images:
                alone = x[image : image + 1]
                if len(images) == 1 or self._run(alone)[1]:
                    self._weighted = graph = self._weighted or self.whole_graph()
                    y[image] = evaluate(graph, alone.contiguous())[0]
        return y

    def _run(self, x: Tensor) -> tuple[Tensor, list[range]]:
        """What the kernels make of images, and the images that were run together and met what is not finite."""
        results: list[Tensor] = []
        strange: list[range] = []
        done = 0
        for beside, images, threads in self._turns(len(x), torch.get_num_threads()):
            contexts = [self._context(images, threads) for _ in range(beside)]
            for result, finite in _run(contexts, x[done : done + beside * images].split(images)):
                results.append(result)
                if not finite:
                    strange.append(range(done, done + images))
                done += images
            for context in contexts:
                self._idle[images, threads].put(context)
        return results[0] if len(results) == 1 else torch.cat(results), strange

    def release(self) -> None:
        """Let go of the memory of earlier runs."""
        self._idle.clear()
        self._weighted = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Plan":
        return self  # nothing in it changes

    def __reduce__(self) -> tuple[Any, ...]:
        """Its graph, whole: another processor packs it anew."""
        return _planned, (self.whole_graph(), self.bf16, self.roundings)

    def whole_graph(self) -> Graph:
        """Its graph with the weights as they were packed, or as they are if they are not finite."""
        if not self.finite:
            return self.graph
        operations = list(self.graph.operations)
        for step, packed, numbers in zip(self.steps, self.packed, self.made_of, strict=True):
            for number, made in zip(numbers, unpack(packed, step, self.rounding(step.product)), strict=True):
                if number is not None and made is not None:
                    operations[number] = made
        return replace(self.graph, operations=tuple(operations))

    def _turns(self, images: int, threads: int) -> Iterator[tuple[int, int, int]]:
        """Turns in which images are run: so many runs beside each other, the images and the threads of each run.

        Each thread has images of its own, as far as they go around and the cache has room for one a thread: it then
        waits for nobody and fetches nothing that another core wrote. All threads share the images left.
        """
        own = images // threads if threads <= self.together else 0
        for part in _even_parts(own, max(1, self.together // threads)):
            yield threads, part, 1
        for part in _even_parts(images - own * threads, self.together):
            yield 1, part, threads

    def _context(self, images: int, threads: int) -> "_Context":
        try:
            return self._idle.setdefault((images, threads), SimpleQueue()).get_nowait()
        except Empty:
            return _Context(self, images, threads)

    def rounding(self, product: Convolution | None) -> Rounding | None:
        """How `product` is rounded, if it is done in bytes."""
        return self.roundings.get(product.name) if product else None

    def _pack(self, step: Step) -> Packed:
        packed = pack(
            step,
            self.channels[step.source],
            self.channels[step.result],
            bf16=self.bf16,
            rounding=self.rounding(step.product),
            source_bytes=step.source in self.byte_maps,
        )
        source, result = self.shapes[step.source], self.shapes[step.result]
        if step.kind == "copy":
            return replace(packed, length=source[0])
        if step.pool is not None:
            rows, columns = (spans(step.pool, axis, source[1 + axis], result[1 + axis]) for axis in (0, 1))
            return replace(packed, row_spans=rows, column_spans=columns)
        return packed

    def _saturated(self, step: Step) -> Step:
        """Without an activation before bytes that they do not need."""
        rounding = self.rounding(step.product)
        if step.depthwise and rounding and rounding.saturates(step.between.kind):
            return replace(step, between=NOTHING)
        return step

    def _keep_bytes(self) -> None:
        """Turn the maps that products in bytes read into bytes.

        Whoever makes the map writes bytes, if nobody reads anything else in it. Else they become a map beside it; but
        where only one convolution of single pixels wants them, it makes them itself of what it reads.
        """
        readers: dict[int, list[int]] = {}
        for number, step in enumerate(self.steps):
            if self.rounding(step.product) and step.depthwise is None:
                readers.setdefault(step.source, []).append(number)
        copies: dict[int, Step] = {}
        for source, numbers in readers.items():
            rounding = self.rounding(self.steps[numbers[0]].product)
            assert rounding is not None
            makers = [step for step in self.steps if step.result == source]
            read = [
                number
                for number, step in enumerate(self.steps)
                for map_read in (step.source, step.residual, step.gate)
                if map_read == source
            ]
            index = source
            if (
                read != numbers
                or source in self.homes
                or [step.kind for step in makers] not in (["convolution"], ["sum"])
                or makers[0].first is not None
            ):
                step = self.steps[numbers[0]]
                if len(numbers) == 1 and step.product and step.product.weight.shape[2:] == (1, 1):
                    continue
                index = len(self.shapes)
                self.shapes.append(self.shapes[source])
                copies[numbers[0]] = Step("sum", source, index)
                for number in numbers:
                    self.steps[number] = replace(self.steps[number], source=index)
            self.byte_maps[index] = rounding
        self.steps = [
            part
            for number, step in enumerate(self.steps)
            for part in ([copies[number], step] if number in copies else [step])
        ]

    def _channels(self) -> list[int]:
        """Of each map in memory: filled up, but for an image that only convolutions read, value by value."""
        channels = [-(-shape[0] // LANES) * LANES for shape in self.shapes]
        image = self.steps[0].result
        readers = [step for step in self.steps[1:] if image in (step.source, step.residual, step.gate)]
        if all(step.product and not step.depthwise and step.residual != image for step in readers):
            channels[image] = -(-self.shapes[image][0] // 2) * 2
        return channels

    def _borders(self) -> list[int]:
        borders = [0] * len(self.shapes)
        for step in self.steps:
            if step.kind != "convolution":
                continue  # the other kinds look at what is inside only
            kernels, strides, sides = step.window
            for kernel, stride, before, inside, outside in zip(
                kernels,
                strides,
                sides[:2],
                self.shapes[step.source][1:],
                self.shapes[step.result][1:],
                strict=True,
            ):
                behind = (outside - 1) * stride + kernel - before - inside
                borders[step.source] = max(borders[step.source], before, behind)
        return borders


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


def _run(contexts: Sequence["_Context"], images: Sequence[Tensor]) -> list[tuple[Tensor, bool]]:
    """What each context makes of its images, and whether all is finite; contexts beside each other have one thread."""
    for context, x in zip(contexts, images, strict=True):
        context.call.image = x.data_ptr()
        context.call.strides[:] = x.stride()
    finite = run_plans([context.call for context in contexts])
    return [(context.result(), each) for context, each in zip(contexts, finite, strict=True)]


class _Context:
    """The memory of one run at a time, for one batch size and number of threads."""

    def __init__(self, plan: Plan, batch: int, threads: int) -> None:
        self.plan, self.batch, self.threads = plan, batch, threads
        owners = {plan.homes.get(step.result, (step.result, 0))[0] for step in plan.steps}
        self.sizes = {index: self._bytes(index) for index in owners}
        self.offsets, maps_bytes = lay_out(plan.steps, plan.homes, self.sizes, plan.result)
        self.steps = (structs.Step * len(plan.steps))(
            *(self._step(step, packed) for step, packed in zip(plan.steps, plan.packed, strict=True))
        )
        self.call = structs.Run(
            steps=ctypes.addressof(self.steps),
            count=len(plan.steps),
            scratch=maps_bytes,
            batch=batch,
            threads=threads,
            bf16=plan.bf16,
        )
        self.call.scratch_bytes = scratch_bytes(self.call)
        self.call.arena_bytes = maps_bytes + threads * self.call.scratch_bytes
        self.arena = torch.zeros(self.call.arena_bytes + ALIGNMENT, dtype=torch.uint8)
        self.start = -self.arena.data_ptr() % ALIGNMENT
        self.call.arena = self.arena.data_ptr() + self.start

    def result(self) -> Tensor:
        """A copy of what the last run left, [N, K] or [N, K, H, W]."""
        channels, height, width = self.plan.shapes[self.plan.result]
        filled = self.plan.channels[self.plan.result]
        start = self.start + self.offsets[self.plan.result]
        size = self.batch * height * width * filled * (4 if self.plan.float_out else 2)
        values = self.arena[start : start + size].view(
            torch.float32 if self.plan.float_out else torch.bfloat16
        )
        values = values.view(self.batch, height, width, filled)[..., :channels].to(torch.float32, copy=True)
        return values.reshape(self.batch, channels) if self.plan.graph.flat else values.permute(0, 3, 1, 2)

    def _map(self, index: int | None, channels: int | None = None, first: int = 0) -> structs.Map:
        """`channels` of map `index` from `first` on; all of them unless given."""
        if index is None:
            return structs.Map(offset=-1)
        _, height, width = self.plan.shapes[index]
        owner, offset = self.plan.homes.get(index, (index, 0))
        return structs.Map(
            offset=self.offsets[owner],
            bytes=self.sizes[owner],
            height=height,
            width=width,
            channels=channels or self.plan.channels[index],
            border=self.plan.borders[owner],
            pixel=self.plan.channels[owner],
            first=offset + first,
        )

    def _step(self, step: Step, packed: Packed) -> structs.Step:
        kernel, stride, (top, left, _, _) = step.window
        dilation = step.pool.dilation if isinstance(step.pool, Pool) else (1, 1)
        source, result = self._map(step.source), self._map(step.result)
        if step.kind == "input":
            source.channels = self.plan.shapes[step.result][0]
        if step.first is not None:
            channels = self.plan.shapes[step.source][0]
            if step.last:
                channels = self.plan.channels[step.result] - step.first
            result = self._map(step.result, channels, step.first)
        out_bytes = self.plan.out_bytes.get(step.result)
        return structs.Step(
            input=source,
            out=result,
            residual=self._map(step.residual),
            gate=self._map(step.gate),
            **packed.fields(out_bytes),
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
            kind=KINDS.index(step.kind),
            relu_first=step.relu_first,
            largest=step.largest,
            float_out=step.result == self.plan.result and self.plan.float_out,
            watched=bool(self.plan.roundings)  # bytes have no NaN
            or self.plan.homes.get(step.result, (step.result, 0))[0] == self.plan.result,
        )

    def _bytes(self, index: int) -> int:
        plan, border = self.plan, self.plan.borders[index]
        _, height, width = plan.shapes[index]
        value = 4 if index == plan.result and plan.float_out else plan.value_bytes
        value = 1 if index in plan.byte_maps else value
        size = self.batch * (height + 2 * border) * (width + 2 * border) * plan.channels[index] * value
        return (
            -(-size // ALIGNMENT) * ALIGNMENT + ALIGNMENT
        )  # at the end nobody's, for the sanitizer to watch over
