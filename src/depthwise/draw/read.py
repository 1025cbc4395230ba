"""From a module to pieces: run it once, then describe its parts in the words of the papers."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from depthwise.analysis.cost import Cost, cost
from depthwise.draw.pieces import (
    BY,
    Box,
    Chain,
    Fork,
    Label,
    Mark,
    Piece,
    Sum,
    boxes,
    chain,
    followed,
    output,
)
from depthwise.layers import (
    Branches,
    ConvNorm,
    GlobalAverage,
    MaxPool2d,
    PointwiseConv2d,
    Residual,
    SeparableConv2d,
    SqueezeExcite,
    Tapped,
)
from depthwise.modes import in_mode

Shape = tuple[int, ...]

# Batch norm stands in the caption; the others leave the values as they are.
UNSEEN = (nn.Identity, nn.Flatten, nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True)
class Section:
    """A stage as drawn: its name, its pieces, the shape behind it and what it costs, for one image.

    `side` is the auxiliary tower that looks at its output; a stage with one within is two sections.
    """

    name: str
    pieces: Chain
    output: Shape
    parameters: int
    macs: int
    side: "Section | None" = None


@dataclass(frozen=True)
class Reading:
    """A whole module: its sections in order and what it costs.

    normed: there is batch norm in it; opaque: modules of their own making, of which only the layers are known.
    """

    input_shape: Shape
    sections: tuple[Section, ...]
    cost: Cost
    normed: bool
    opaque: bool


def read(module: nn.Module, input_shape: Shape) -> Reading:
    """Run `module` on a blank image and describe it; a network in its stages, anything else in its children."""
    reader = _Reader(module, input_shape)
    stages = getattr(module, "stages", None)
    if isinstance(stages, nn.Sequential) and isinstance(getattr(module, "classifier", None), nn.Module):
        sections = list(reader.network(module, stages))
    else:
        sections = list(reader.children(module))
    sections = [section for section in sections if section.pieces.items]
    return Reading(
        input_shape,
        tuple(sections or [reader.whole(module)]),
        reader.cost,
        any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()),
        reader.opaque,
    )


class _Reader:
    """A module's shapes and costs by the name of the part, in the order in which the parts ran."""

    def __init__(self, module: nn.Module, input_shape: Shape) -> None:
        self.cost = cost(module, input_shape)
        self.macs = {layer.name: layer.macs for layer in self.cost.layers}
        self.shapes: dict[str, tuple[Shape, Shape]] = {}
        self.opaque = False
        self._started: dict[str, int] = {}
        self.run(module, "", input_shape)

    def run(self, module: nn.Module, name: str, shape: Shape) -> None:
        """Note what `module`, called `name`, makes of a blank input of `shape`, and all its parts."""
        reference = next(module.parameters(), torch.empty(0))
        with ExitStack() as stack, in_mode(module, training=False), torch.no_grad():
            for inner, part in module.named_modules(prefix=name):
                stack.callback(part.register_forward_pre_hook(partial(self._start, inner)).remove)
                stack.callback(part.register_forward_hook(partial(self._stop, inner)).remove)
            module(torch.zeros(1, *shape, dtype=reference.dtype, device=reference.device))

    def _start(self, name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._started.setdefault(name, len(self._started))

    def _stop(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        given, made = (
            tuple(value.shape[1:]) if isinstance(value, Tensor) else ()
            for value in (inputs[0] if inputs else None, output)
        )
        self.shapes.setdefault(name, (given, made))

    def network(self, network: nn.Module, stages: nn.Sequential) -> Iterator[Section]:
        towers = getattr(network, "aux", None) or {}
        for name, parts in _sections(stages):
            side = None
            if name in towers:
                tower, path = towers[name], f"aux.{name}"
                self.run(tower, path, self.shapes[parts[-1][0]][1])
                side = self.section("auxiliary classifier", [(path, tower)])
            yield self.section(name, parts, side)
        head = [(name, part) for name, part in network.named_children() if name not in ("stages", "aux")]
        yield self.section("classifier", sorted(head, key=lambda item: self._started.get(item[0], 0)))

    def children(self, module: nn.Module) -> Iterator[Section]:
        """A section for each child with children of its own, and one for each run of those without."""
        self.opaque = (
            type(module) not in (nn.Sequential, *_WHOLE) and next(module.children(), None) is not None
        )
        plain: list[tuple[str, nn.Module]] = []
        for name, child in self._ran("", module) or [("", module)]:
            if name and next(child.children(), None) is not None and not isinstance(child, _WHOLE):
                yield from [self.section("", plain)] if plain else []
                plain = []
                yield self.section(type(child).__name__ if name.isdigit() else name, [(name, child)])
            else:
                plain.append((name, child))
        yield from [self.section("", plain)] if plain else []

    def whole(self, module: nn.Module) -> Section:
        """`module` as one box, for what has nothing in it that is drawn."""
        box = self._box("", module)
        return Section("", Chain((box,)), box.output, self.cost.parameters, self.cost.macs)

    def section(
        self, name: str, parts: Sequence[tuple[str, nn.Module]], side: Section | None = None
    ) -> Section:
        paths = [path for path, _ in parts]
        ends = [self.shapes[path][1] for path in paths if path in self.shapes]
        start = self.shapes.get(paths[0], ((), ()))[0]
        return Section(
            name,
            _labelled(chain([self.piece(path, part) for path, part in parts]), start),
            ends[-1] if ends else (),
            sum(p.numel() for _, part in parts for p in part.parameters()),
            sum(macs for layer, macs in self.macs.items() if any(_within(layer, path) for path in paths)),
            side,
        )

    def piece(self, path: str, module: nn.Module) -> Piece:
        """What `module`, called `path`, looks like."""
        match module:
            case nn.Dropout(p=p):
                return Mark(f"dropout {p:g}") if p else Chain(())
            case _ if isinstance(module, UNSEEN):
                return Chain(())
            case _ if _is_activation(module):
                return Mark(type(module).__name__)
            case ConvNorm():
                return chain(
                    [self.piece(f"{path}.{part}", getattr(module, part)) for part in ("conv", "activation")]
                )
            case Branches():
                return self._fork(path, module)
            case Residual():
                return self._sum(path, module)
            case _ if isinstance(module, _WHOLE) or next(module.children(), None) is None:
                return self._box(path, module)
        self.opaque |= type(module) is not nn.Sequential
        parts = chain([self.piece(name, child) for name, child in self._ran(path, module)])
        # What calls none of its children, as attention does, or only what is not drawn, is a layer of its own.
        return parts if next(boxes(parts), None) else self._box(path, module)

    def _fork(self, path: str, module: Branches) -> Piece:
        branches = [
            chain([self.piece(f"{path}.branches.{i}", part)]) for i, part in enumerate(module.branches)
        ]
        shape = self._shape(path)
        note = self._note(path, module)
        return Fork(
            tuple(branches), Box((f"concat {shape[0] if shape else ''}",), "join", shape, shape, note)
        )

    def _sum(self, path: str, module: Residual) -> Piece:
        body, skip, activation = (
            self.piece(f"{path}.{name}", getattr(module, name)) for name in ("body", "skip", "activation")
        )
        factor = Chain(()) if module.scale == 1 else Mark(f"{BY} {module.scale:g}")
        return chain([Sum(chain([body, factor]), chain([skip]), self._shape(path)), activation])

    def _box(self, path: str, module: nn.Module) -> Box:
        shape = self._shape(path)
        text, kind = _described(module, shape)
        return Box(text, kind, shape, shape[1:] if kind == "pooling" else shape, self._note(path, module))

    def _note(self, path: str, module: nn.Module) -> str:
        given, made = self.shapes.get(path, ((), ()))
        parameters = sum(p.numel() for p in module.parameters())
        macs = sum(macs for name, macs in self.macs.items() if _within(name, path))
        shapes = f"{shape_text(given)} → {shape_text(made)}"
        return f"{path or type(module).__name__}: {shapes}, {parameters:,} parameters, {macs:,} multiply-adds"

    def _shape(self, path: str) -> Shape:
        return self.shapes.get(path, ((), ()))[1]

    def _ran(self, path: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
        """The children that ran, in that order, with their full names."""
        named = [(f"{path}.{name}" if path else name, child) for name, child in module.named_children()]
        return sorted(
            (item for item in named if item[0] in self._started), key=lambda item: self._started[item[0]]
        )


_WHOLE = (SeparableConv2d, SqueezeExcite)
"""Modules with children that are drawn as one layer."""


def _sections(stages: nn.Sequential) -> Iterator[tuple[str, list[tuple[str, nn.Module]]]]:
    """Each stage, cut behind the parts with names of their own, as its name and its parts with theirs."""
    for name, stage in stages.named_children():
        parts = [(f"stages.{name}", stage)]
        if isinstance(stage, Tapped):
            parts = []
            for place, (number, part) in enumerate(stage.named_children()):
                parts.append((f"stages.{name}.{number}", part))
                if place in stage.taps:
                    yield stage.taps[place], parts
                    parts = []
        yield name, parts


def shape_text(shape: Shape) -> str:
    """(C, H, W) as papers write a map, HxWxC; any other shape as it is."""
    return BY.join(map(str, (*shape[1:], shape[0]) if len(shape) == 3 else shape))


def _labelled(pieces: Chain, shape: Shape) -> Chain:
    """The chain with the shape written wherever the size of the map changes on the way, but for the end."""
    items: list[Piece] = []
    size = written = shape[1:]
    for item, below in followed(pieces.items):
        items.append(item)
        made = output(item)
        size = made[1:] if made else size
        if size != written and below is not None and not isinstance(below, Mark):
            # Of a pooled vector only the length is left.
            shape = output(Chain(tuple(items)))
            items.append(Label(shape_text(shape) if size else f"{shape[0]} features"))
            written = size
    return Chain(tuple(items))


def _described(module: nn.Module, shape: Shape) -> tuple[tuple[str, ...], str]:
    """The text of a layer's box, in parts, and its kind."""
    match module:
        case SeparableConv2d():
            between = [f"{type(module.between).__name__} between"] if _is_activation(module.between) else []
            return (
                f"SeparableConv {module.pointwise.out_channels}, {_window(module.depthwise.kernel_size)}",
                *_stride(module.depthwise.stride),
                *between,
            ), "depthwise"
        case PointwiseConv2d():
            return (f"Conv {module.out_channels}, 1{BY}1", *_stride(module.stride)), "pointwise"
        case nn.Conv2d() if module.groups == module.in_channels > 1:
            maps = f"{module.out_channels}, " if module.out_channels != module.in_channels else ""
            text = f"DepthwiseConv {maps}{_window(module.kernel_size)}"
            return (text, *_stride(module.stride)), "depthwise"
        case nn.Conv2d():
            kind = "pointwise" if set(module.kernel_size) == {1} else "regular"
            groups = [f"{module.groups} groups"] if module.groups > 1 else []
            text = f"Conv {module.out_channels}, {_window(module.kernel_size)}"
            return (text, *_stride(module.stride), *groups), "grouped" if groups else kind
        case nn.Linear():
            return (f"Fully connected {module.out_features}",), "linear"
        case GlobalAverage():
            return ("Global AveragePooling",), "pooling"
        case nn.AdaptiveAvgPool2d() | nn.AdaptiveMaxPool2d():
            name = "AveragePooling" if isinstance(module, nn.AdaptiveAvgPool2d) else "MaxPooling"
            return (
                f"Global {name}" if set(shape[1:]) == {1} else f"{name} to {_window(shape[1:])}",
            ), "pooling"
        case MaxPool2d() | nn.MaxPool2d() | nn.AvgPool2d():
            name = "AvgPooling" if isinstance(module, nn.AvgPool2d) else "MaxPooling"
            return (f"{name} {_window(module.kernel_size)}", *_stride(module.stride)), "pooling"
        case SqueezeExcite():
            squeezed, channels = module.squeeze.out_channels, module.excite.out_channels
            return ("Squeeze-and-excite", f"{channels} → {squeezed} → {channels}"), "gate"
        case _:
            return (type(module).__name__,), "other"


def _is_activation(module: nn.Module) -> bool:
    own = type(module).__module__ == nn.modules.activation.__name__
    return own and not isinstance(module, nn.MultiheadAttention)


def _window(size: Any) -> str:
    return BY.join(map(str, (size, size) if isinstance(size, int) else size))


def _stride(stride: Any) -> list[str]:
    sides = {stride} if isinstance(stride, int) else set(stride)
    if sides == {1}:
        return []
    return [f"stride {_window(stride) if len(sides) > 1 else sides.pop()}"]


def _within(layer: str, path: str) -> bool:
    return not path or layer == path or layer.startswith(f"{path}.")
