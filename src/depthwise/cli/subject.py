"""What `cost` and `draw` look at: a network of the catalogue, that of a bundle or a run, or a kind of layer."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from depthwise.bounds import Bounds, fit
from depthwise.errors import UsageError, shown, unknown_name

if TYPE_CHECKING:
    from torch import nn

LAYER_SIZE = 32

Side = Annotated[int, Bounds(1, 8192)]

Name = Annotated[
    str,
    Parameter(
        help="A network of the catalogue, a bundle, or a kind of layer: regular, separable, segments, bottleneck, "
        "factorised, stacked."
    ),
]

Size = Annotated[str | None, Parameter(help="The image, S or HxW; by default the network's own.")]

Classes = Annotated[int | None, Parameter(help="How many classes, 1000 by default.")]

Settings = Annotated[
    list[str] | None,
    Parameter(
        name="--set",
        negative="",
        consume_multiple=True,
        help="key=value, any number: arguments of the network (width=0.25), or the letters of the layer's formula "
        "(m=16 n=32 k=3).",
    ),
]


@dataclass(frozen=True)
class Subject:
    """The network or layer `name` with these arguments, for an image of these sides."""

    name: str
    arguments: dict[str, Any]
    size: tuple[int, int] | None
    layer: bool = False


def find_subject(name: str, size: str | None, classes: int | None, settings: Sequence[str]) -> Subject:
    """What is asked for, with the settings laid over what it has anyway."""
    from depthwise.analysis.formulas import LAYERS
    from depthwise.models import CATALOGUE

    if name not in LAYERS and name not in CATALOGUE and not os.path.lexists(name):
        raise unknown_name("network, layer or bundle", name, [*CATALOGUE, *LAYERS])
    from depthwise.bounds import parse_setting

    sides = None if size is None else parse_sides(size)
    given: dict[str, Any] = dict(parse_setting(setting) for setting in settings)
    if name in LAYERS:
        if classes is not None:
            raise UsageError(f"--classes {classes}: the layer {name} has none, leave it out")
        return Subject(name, LAYERS[name].arguments(given), sides or (LAYER_SIZE, LAYER_SIZE), layer=True)
    if classes is not None and given.setdefault("num_classes", classes) != classes:
        raise UsageError(
            f"--classes {classes} and --set num_classes={given['num_classes']} contradict each other: give one"
        )
    if name in CATALOGUE:
        return Subject(name, given, sides)
    from depthwise.bundle import read_bundle

    config = read_bundle(name).config
    preprocess = config.preprocess
    own = {"num_classes": len(config.classes), "in_channels": preprocess.channels, **config.model_args}
    return Subject(config.model, {**own, **given}, sides or preprocess.size)


def parse_sides(text: str) -> tuple[int, int]:
    """The height and width that `text`, S or HxW, means."""
    height, _, width = text.partition("x")
    width = width or height
    if not re.fullmatch(r"[1-9][0-9]{0,8}", height) or not re.fullmatch(r"[1-9][0-9]{0,8}", width):
        raise UsageError(
            f"size {shown(text)} is no size: write S or HxW, for example 224 or 192x256, of at most 8,192 pixels"
        )
    return fit((int(height), int(width)), tuple[Side, Side], "size", (224, 224))


def build_subject(subject: Subject) -> "tuple[nn.Module, tuple[int, ...]]":
    """The network or layer, and the shape of its input; without memory, so that a large one takes a moment."""
    import torch

    from depthwise.analysis.formulas import LAYERS
    from depthwise.models import create_model

    with torch.device("meta"):
        if subject.layer:
            layer = LAYERS[subject.name]
            arguments = layer.arguments(subject.arguments)
            module: Any = layer.build(*arguments.values())
            channels = arguments["m"]
        else:
            module = create_model(subject.name, **subject.arguments)
            channels = module.in_channels
    return module, (channels, *(subject.size or (module.input_size, module.input_size)))
