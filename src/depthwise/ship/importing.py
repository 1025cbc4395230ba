"""Other people's weights into a bundle that predicts as they do at home."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depthwise.bundle import BundleConfig, write_bundle
from depthwise.data.transform import INTERPOLATIONS, Preprocess
from depthwise.errors import DepthwiseError, UsageError, unknown_name
from depthwise.models import CATALOGUE, create_model
from depthwise.ship.load import check_fit
from depthwise.weights import LAYOUTS, hub, keras
from depthwise.weights.files import WeightsFile, read_weights
from depthwise.weights.layout import Layout, Translation, looks_like
from depthwise.weights.wrapping import CHOICES, Choice
from depthwise.words import number_of

ALL_LAYOUTS = tuple(layout for layouts in LAYOUTS.values() for layout in layouts.values())

TRANSFORM_INPUT = (
    "torchvision's published Inception turns ImageNet's mean and deviation into 0.5 itself (transform_input): for one "
    "trained from scratch, without that, give --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225"
)


@dataclass(frozen=True)
class Imported:
    """What became of foreign weights: the bundle's folder and configuration, where they came from, and what to know.

    `source` is "keras", "torchvision" or "timm".
    """

    out: Path
    source: str
    config: BundleConfig
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Read:
    """A source in our terms; `classes` are empty where it has no names for them.

    transforms: the network may change the normalisation itself (torchvision's transform_input), which no file says.
    """

    source: str
    file: WeightsFile
    translation: Translation
    preprocess: Preprocess
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    transforms: bool = False


def import_weights(
    source: str | os.PathLike[str],
    model: str,
    out: str | os.PathLike[str],
    *,
    classes: Sequence[str] = (),
    interpolation: str | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    weights: Choice | None = None,
    backbone: bool = False,
    force: bool = False,
) -> Imported:
    """Write the bundle `out` from Keras', timm's or torchvision's weights of the catalogue's network `model`.

    source: a .keras, .weights.h5, .h5, .safetensors or .pth file, the index of several, a folder from the hub, or a
    name: torchvision:resnet50, timm:legacy_xception.tf_in1k. classes: their names, for a file that has none.
    interpolation: how pictures were resized, where that is not as the source's own tools do. mean, std: of each
    channel, in units of the full range, where the training took others. weights: "raw" or "ema", the averaged ones, of
    a checkpoint that has both; by default the averaged, as timm does. backbone: leave the head out.

    Raises DepthwiseError, and writes nothing, if the file cannot be read or is hostile, if any weight does not fit, or
    if the head cannot be expressed and `backbone` is not asked for; UsageError for names that do not exist.
    """
    if model not in CATALOGUE:
        raise unknown_name("model", model, CATALOGUE)
    if interpolation not in (None, *INTERPOLATIONS):
        raise unknown_name("interpolation", str(interpolation), INTERPOLATIONS)
    if weights not in (None, *CHOICES):
        raise unknown_name("weights", str(weights), CHOICES)
    read = _read(str(source), model, interpolation, weights)
    translation = _without_head(read.translation) if backbone else read.translation
    _check(read.file, model, translation)
    num_classes = translation.arguments["num_classes"]
    if not num_classes and not backbone:
        beside = read.file.beside[:1]
        reason = translation.foreign_head or (
            f"its head stands beside it ({beside[0]})" if beside else "the file has no head"
        )
        raise DepthwiseError(
            f"{read.file.path} can only be imported as a backbone, {reason}: add --backbone, and train a classifier "
            f"on it with depthwise train --init"
        )
    if read.transforms and not mean:
        read = replace(read, notes=(*read.notes, TRANSFORM_INPUT))
    names, remark = _class_names(num_classes, tuple(classes) or read.classes, backbone)
    arguments = {k: v for k, v in translation.arguments.items() if k not in ("num_classes", "in_channels")}
    config = BundleConfig(
        model=model,
        classes=names,
        preprocess=_normalised(read.preprocess, translation.arguments["in_channels"], mean, std),
        model_args=arguments | ({"num_classes": 0} if backbone else {}),
        training={
            "imported_from": {"source": read.source, "file": str(source), "sha256": _sha256(read.file.files)}
        },
    )
    write_bundle(out, config, translation.weights, overwrite=force)
    return Imported(Path(out), read.source, config, (*read.notes, *translation.notes, *remark))


def _read(source: str, model: str, interpolation: str | None, choice: Choice | None) -> _Read:
    project, _, name = source.partition(":")
    if name and project in LAYOUTS and not Path(source).exists():
        read = _by_name(project, name, model, choice)
    else:
        read = _from_file(read_weights(Path(source), choice, ALL_LAYOUTS), model, interpolation)
    if interpolation is not None:
        read = replace(read, preprocess=replace(read.preprocess, interpolation=interpolation))
    return read


def _for_channels(preprocess: Preprocess, channels: int) -> Preprocess:
    """The same for images of so many channels, each scaled as the three are on average."""
    if channels == preprocess.channels:
        return preprocess
    mean, std = ((sum(of) / len(of),) * channels for of in (preprocess.mean, preprocess.std))
    return replace(preprocess, channels=channels, mean=mean, std=std)


def _normalised(
    preprocess: Preprocess, channels: int, mean: Sequence[float], std: Sequence[float]
) -> Preprocess:
    """The same for images of so many channels, by these means and deviations if there are some."""
    preprocess = _for_channels(preprocess, channels)

    def each(name: str, given: Sequence[float], usual: tuple[float, ...]) -> tuple[float, ...]:
        if len(given) not in (0, 1, channels):
            raise UsageError(
                f"--{name} has {len(given)} numbers for images of {number_of(channels, 'channel')}: give one for all "
                f"or one for each"
            )
        return (tuple(given) * channels)[:channels] or usual

    return replace(preprocess, mean=each("mean", mean, preprocess.mean), std=each("std", std, preprocess.std))


def _check(file: WeightsFile, model: str, translation: Translation) -> None:
    """Raise DepthwiseError unless every tensor fits the network, with the name of the one that it looks like."""
    expected = _state(model, translation.arguments)
    try:
        check_fit(file.path, model, translation.weights, expected, translation.names)
    except DepthwiseError as error:
        alike = (
            keras.looks_like(file.tensors) if file.kind == "keras" else looks_like(ALL_LAYOUTS, file.tensors)
        )
        hint = f", which may be {alike}" if alike not in (None, model) else ""
        raise DepthwiseError(f"{error}{hint}") from None


def _by_name(project: str, name: str, model: str, choice: Choice | None) -> _Read:
    architecture = name.partition(".")[0]
    layouts = LAYOUTS[project]
    if architecture not in layouts:
        raise unknown_name(f"network of {project}", architecture, layouts)
    if layouts[architecture].model != model:
        raise UsageError(
            f"{project}:{name} is a network that is called {layouts[architecture].model} here: "
            f"give --model={layouts[architecture].model}"
        )
    if project == "timm":
        return _from_file(read_weights(hub.from_timm(name), choice), model, None)
    published, layout = hub.from_torchvision(name, layouts)
    file = read_weights(published.path, choice)
    return _Read(project, file, layout.translate(file.tensors), published.preprocess, published.classes)


def _from_file(file: WeightsFile, model: str, interpolation: str | None) -> _Read:
    if file.kind == "keras":
        found = keras.translate(file.tensors, file.config, model)
        notes = [*file.notes, *found.notes]
        if interpolation is None:
            notes.append(
                "images are resized as Keras' load_img does, stretched and with nearest: give --interpolation bilinear "
                "if the training resized otherwise"
            )
        return _Read("keras", file, found.translation, found.preprocess, (), tuple(notes))
    project, architecture, layout = _recognise(file, model)
    known = hub.known_file(file.path, architecture, layout) if project == "torchvision" else None
    preprocess, notes, transforms = layout.preprocess, list(file.notes), False
    classes: tuple[str, ...] = ()
    if known:
        preprocess, classes = known.preprocess, known.classes
    elif file.config:
        preprocess = hub.timm_preprocess(dict(file.config), preprocess)
        labels = file.config.get("label_names")
        classes = tuple(map(str, labels)) if isinstance(labels, list) else ()
    else:
        notes.append(
            f"the file says nothing of its preprocessing: taken is {project}'s usual one for {architecture}, "
            f"{preprocess.size[0]}x{preprocess.size[1]}, {preprocess.interpolation}"
        )
        transforms = project == "torchvision" and preprocess.mean == (0.5,) * 3
    return _Read(project, file, layout.translate(file.tensors), preprocess, classes, tuple(notes), transforms)


def _recognise(file: WeightsFile, model: str) -> tuple[str, str, Layout]:
    """The project and architecture that the file says it is, or whose modules it has."""
    if "format_version" in file.config:
        raise UsageError(f"{file.path.parent} is a bundle already: use it as it is")
    said = file.config.get("architecture")
    if isinstance(said, str) and said in LAYOUTS["timm"]:
        layout = LAYOUTS["timm"][said]
        if layout.model != model:
            raise UsageError(
                f"{file.path} is timm's {said}, which is called {layout.model} here: "
                f"give --model={layout.model}"
            )
        return "timm", said, layout
    candidates = [
        (project, architecture, layout)
        for project, layouts in LAYOUTS.items()
        for architecture, layout in layouts.items()
        if layout.model == model
    ]
    if not candidates:
        known = {layout.model for layout in ALL_LAYOUTS}
        raise unknown_name("model of timm or torchvision", model, known)
    most = max(layout.num_known(file.tensors) for _, _, layout in candidates)
    best = [candidate for candidate in candidates if candidate[2].num_known(file.tensors) == most]
    # Networks of several widths have the same modules.
    return min(best, key=lambda candidate: _num_misfits(candidate[2], file))


def _num_misfits(layout: Layout, file: WeightsFile) -> int:
    """How many tensors the file and the network have not in common."""
    translation = layout.translate(file.tensors)
    expected, found = (
        {(name, tensor.shape) for name, tensor in tensors.items()}
        for tensors in (_state(layout.model, translation.arguments), translation.weights)
    )
    return len(expected ^ found)


def _state(model: str, arguments: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The names and shapes of the network's tensors, which take no memory."""
    with torch.device("meta"):
        return create_model(model, **arguments).state_dict()


def _without_head(translation: Translation) -> Translation:
    """The same as a backbone: no classifiers, no towers."""
    weights = {
        name: tensor
        for name, tensor in translation.weights.items()
        if not name.startswith("aux.") and not name.startswith("classifier.")
    }
    arguments: dict[str, Any] = {k: v for k, v in translation.arguments.items() if k != "aux"}
    return replace(translation, weights=weights, arguments=arguments | {"num_classes": 0})


def _class_names(
    num_classes: int, known: tuple[str, ...], backbone: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names for the classes, and a remark if they are made up."""
    if backbone:
        return (), ("written as a backbone, without a classifier: depthwise train --init puts one on it",)
    if known and len(known) != num_classes:
        raise DepthwiseError(
            f"{len(known)} class names for {num_classes} outputs: give as many names as the network has outputs"
        )
    if known:
        return known, ()
    if num_classes == 1000:
        from torchvision.models._meta import _IMAGENET_CATEGORIES

        return tuple(_IMAGENET_CATEGORIES), ("1000 outputs are taken to be ImageNet's classes",)
    names = tuple(map(str, range(num_classes)))
    return names, (f"the classes are called 0 to {num_classes - 1}: name them with --classes FILE",)


def _sha256(files: Sequence[Path]) -> str:
    """Of the files one after another."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
    return digest.hexdigest()
