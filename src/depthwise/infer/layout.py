"""From a graph to a layout: which steps run, and how each map lies in memory. Nothing is computed here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from depthwise.infer.fuse import NOTHING, Schedule, Step, fuse
from depthwise.infer.graph import LANES, Graph
from depthwise.infer.quantize import Rounding

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class MapLayout:
    """How one map lies in memory: values [N, H, W, channels] of `dtype` within a border of zeros.

    shape: [C, H, W] of its own values; `channels` is C, padded. border: pixels on each side, for the convolutions that
    read it. rounding: of the values, if they are uint8. owner: the map whose memory it is, itself or the concatenation
    that it is a part of; first: its first channel there.
    """

    shape: Shape
    channels: int
    border: int
    dtype: torch.dtype
    rounding: Rounding | None
    owner: int
    first: int


@dataclass(frozen=True)
class Layout:
    """`steps` in the order in which they run, and the `maps` that they read and write by their numbers.

    Map k is what operation k of the graph makes; uint8 copies of maps come after those. result: the number of the map
    that is the network's. bf16: weights, and maps unless they say otherwise, are bfloat16, else float32. roundings: by
    their names, the convolutions that are computed in int8.
    """

    bf16: bool
    steps: tuple[Step, ...]
    maps: tuple[MapLayout, ...]
    result: int
    roundings: Mapping[str, Rounding]

    def roundings_of(self, step: Step) -> tuple[Rounding | None, Rounding | None]:
        """How the product of `step` and its depthwise convolution are rounded, as far as they are computed in int8."""
        product, depthwise = step.product, step.depthwise
        return (
            self.roundings.get(product.name) if product else None,
            self.roundings.get(depthwise.name) if depthwise else None,
        )

    @property
    def widest_bytes(self) -> int:
        """Of one image, the bytes of the largest map, its border aside."""
        value_bytes = 2 if self.bf16 else 4
        return max(each.channels * each.shape[1] * each.shape[2] * value_bytes for each in self.maps)


def lay_out(graph: Graph, *, bf16: bool, roundings: Mapping[str, Rounding]) -> Layout:
    """The layout for `graph`: maps and weights in bfloat16 or float32, and in int8 what `roundings` name.

    A depthwise convolution among them stays bfloat16 if the map that it reads cannot be uint8.
    """
    schedule = fuse(graph)
    steps, shapes, rounded = _with_uint8_maps(schedule, graph.shapes, roundings)
    steps = [_without_needless_activations(step, roundings, rounded) for step in steps]
    result = steps[-1].result
    plain = torch.bfloat16 if bf16 else torch.float32
    dtypes = {
        # A classifier's logits are not rounded to bfloat16; other steps have no such form.
        result: torch.float32 if steps[-1].kind == "convolution" else plain,
        **dict.fromkeys(rounded, torch.uint8),
    }
    sizes = zip(shapes, _channels(steps, shapes), _borders(steps, shapes), strict=True)
    maps = [
        MapLayout(*size, dtypes.get(index, plain), rounded.get(index), *schedule.homes.get(index, (index, 0)))
        for index, size in enumerate(sizes)
    ]
    left = {step.depthwise.name for step in steps if step.depthwise and not maps[step.source].rounding}
    used = {name: rounding for name, rounding in roundings.items() if name not in left}
    return Layout(bf16, tuple(steps), tuple(maps), result, used)


def _without_needless_activations(
    step: Step, roundings: Mapping[str, Rounding], rounded: Mapping[int, Rounding]
) -> Step:
    """`step` without the clamps that rounding to uint8 does by itself: between its two convolutions, and at its end."""
    rounding = roundings.get(step.product.name) if step.product else None
    if step.depthwise and rounding and rounding.saturates(step.between.kind):
        step = replace(step, between=NOTHING)
    if step.result in rounded and rounded[step.result].saturates(step.activation.kind):
        step = replace(step, activation=NOTHING)
    return step


def _with_uint8_maps(
    schedule: Schedule, shapes: Sequence[Shape], roundings: Mapping[str, Rounding]
) -> tuple[list[Step], list[Shape], dict[int, Rounding]]:
    """Steps and shapes with the uint8 maps that int8 products read, and how each of these maps is rounded.

    A map that only int8 convolutions read is written in uint8. If other steps read it too, one more step writes a uint8
    copy. A single 1x1 convolution needs no copy: it rounds its rows itself, as a separable convolution does. Nor does a
    depthwise convolution, for the copy would take the time that its bytes save: it is not in int8 then.
    """
    steps, shapes = list(schedule.steps), list(shapes)
    int8_readers: dict[int, list[int]] = {}
    for number, step in enumerate(steps):
        if _reads_bytes(step, roundings):
            int8_readers.setdefault(step.source, []).append(number)
    rounded: dict[int, Rounding] = {}
    copies: dict[int, Step] = {}
    for source, numbers in int8_readers.items():
        index = source
        direct = _can_be_uint8(source, numbers, steps, schedule.homes)
        if not direct:
            numbers = [number for number in numbers if steps[number].depthwise is None]
            if not numbers:
                continue
        first = steps[numbers[0]].depthwise or steps[numbers[0]].product
        assert first is not None
        if not direct:
            if len(numbers) == 1 and first.weight.shape[2:] == (1, 1):
                continue
            index = len(shapes)
            shapes.append(shapes[source])
            copies[numbers[0]] = Step("sum", source, index)
            for number in numbers:
                steps[number] = replace(steps[number], source=index)
        rounded[index] = roundings[first.name]
    with_copies = [
        part
        for number, step in enumerate(steps)
        for part in ([copies[number], step] if number in copies else [step])
    ]
    return with_copies, shapes, rounded


def _reads_bytes(step: Step, roundings: Mapping[str, Rounding]) -> bool:
    """Whether `step` could read a uint8 map: its product is in int8, and so may be the depthwise part before it."""
    if step.product is None or step.product.name not in roundings:
        return False
    return step.depthwise is None or (step.depthwise.name in roundings and not step.relu_first)


def _can_be_uint8(
    index: int, int8_readers: list[int], steps: Sequence[Step], homes: Mapping[int, tuple[int, int]]
) -> bool:
    """Whether map `index` may be uint8 itself: nothing else reads it, and the step that makes it can write uint8."""
    readers = [
        number
        for number, step in enumerate(steps)
        for map_read in (step.source, step.residual, step.gate)
        if map_read == index
    ]
    makers = [step for step in steps if step.result == index]
    return (
        readers == int8_readers
        and index not in homes
        and [step.kind for step in makers] in (["convolution"], ["sum"])
        and makers[0].first is None
    )


def _channels(steps: Sequence[Step], shapes: Sequence[Shape]) -> list[int]:
    """Of each map, its channels padded to whole vectors; of an image that only convolutions read, to an even number."""
    channels = [-(-shape[0] // LANES) * LANES for shape in shapes]
    image = steps[0].result
    readers = [step for step in steps[1:] if image in (step.source, step.residual, step.gate)]
    if all(step.product and not step.depthwise and step.residual != image for step in readers):
        channels[image] = -(-shapes[image][0] // 2) * 2
    return channels


def _borders(steps: Sequence[Step], shapes: Sequence[Shape]) -> list[int]:
    """Of each map, how far the convolutions that read it reach over its edges; other steps stay within."""
    borders = [0] * len(shapes)
    for step in steps:
        if step.kind != "convolution":
            continue
        kernels, strides, sides = step.window
        read, made = shapes[step.source][1:], shapes[step.result][1:]
        for kernel, stride, before, inside, outside in zip(
            kernels, strides, sides[:2], read, made, strict=True
        ):
            after = (outside - 1) * stride + kernel - before - inside
            borders[step.source] = max(borders[step.source], before, after)
    return borders
