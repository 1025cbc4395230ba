"""Keras' weights under our names: layers by their kind and order, kernels turned, a head where it can be expressed."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from depthwise.data.image import CHANNELS
from depthwise.data.transform import Preprocess
from depthwise.errors import DepthwiseError, unknown_name
from depthwise.weights import keras_config
from depthwise.weights.keras_networks import (
    CONV,
    DENSE,
    DEPTHWISE,
    FAMILIES,
    NORM,
    OTHER,
    SEPARABLE,
    Family,
    Graph,
)
from depthwise.weights.layout import CLASSIFIER, Translation, add_counters
from depthwise.words import number_of

CAFFE_MEAN = (123.68, 116.779, 103.939)  # of red, green and blue, 0 to 255


@dataclass(frozen=True)
class Layer:
    """A layer's tensors by the name of the variable (kernel, gamma; 0, 1, ... in Keras 3's files)."""

    path: str
    tensors: dict[str, Tensor]

    @property
    def kind(self) -> str:
        """Told by the shapes, which every version of the format has."""
        shapes = [tensor.shape for tensor in self.tensors.values()]
        match [len(shape) for shape in shapes]:
            case [4] | [4, 1]:
                return DEPTHWISE if shapes[0][3] == 1 and shapes[0][2] > 1 else CONV
            case [4, 4] | [4, 4, 1]:
                return SEPARABLE
            case [1, 1, 1] | [1, 1, 1, 1]:
                return NORM
            case [2] | [2, 1]:
                return DENSE
        return OTHER


def layers_of(tensors: Mapping[str, Tensor]) -> list[Layer]:
    """The layers, those of the network before those of a head that was put on it."""
    layers: dict[str, Layer] = {}
    for name, tensor in tensors.items():
        path, _, variable = name.removesuffix(":0").rpartition("/")
        path = path.removesuffix("/vars")
        layers.setdefault(path, Layer(path, {})).tensors[variable] = tensor
    # In Keras 3's files a network that is a layer of another has a group of its own, inside that one's.
    groups: dict[str, list[Layer]] = {}
    for layer in layers.values():
        numbered = "0" in layer.tensors
        groups.setdefault(layer.path.rpartition("/")[0] if numbered else "", []).append(layer)
    return [layer for group in sorted(groups.values(), key=len, reverse=True) for layer in group]


def looks_like(tensors: Mapping[str, Tensor]) -> str | None:
    """The network that has as many layers of each kind as the file, but for a head of dense layers."""
    kinds = Counter(layer.kind for layer in layers_of(tensors) if not _makes_colours(layer))
    for model, family in FAMILIES.items():
        graph = Graph()
        family.calls(graph, graph.layer())
        own = Counter(kind for kind in graph.kinds if kind)
        own[CONV] += family.convolutional_head and kinds[CONV] > own[CONV]
        if all(kinds[kind] == own[kind] for kind in (CONV, DEPTHWISE, SEPARABLE, NORM)):
            return model
    return None


@dataclass(frozen=True)
class Import:
    """A Keras file in our terms; `notes` say what it left open."""

    translation: Translation
    preprocess: Preprocess
    notes: tuple[str, ...]


def translate(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], model: str, interpolation: str = "nearest"
) -> Import:
    """A Keras file as weights under the names of our network `model`, with its preprocessing.

    Pictures are stretched to the input's size, as `load_img(path, target_size=...)` does. Raises UsageError for a model
    that Keras does not have, DepthwiseError for a configuration that is malformed or has what cannot be expressed.
    """
    if model not in FAMILIES:
        raise unknown_name("model of Keras", model, FAMILIES)
    family = FAMILIES[model]
    layers = layers_of(tensors)
    statistics = [layer for layer in layers if layer.path.rpartition("/")[2].startswith("normalization")]
    fronts = [layer for layer in layers if _makes_colours(layer)]
    layers = [layer for layer in layers if layer not in statistics and layer not in fronts]
    measured = [tensor for layer in statistics if len(statistics) == 1 for tensor in layer.tensors.values()]
    entries = keras_config.entries(config)
    weights, names, rest = _trunk(family, layers)
    front = keras_config.Front.of(entries, measured) if fronts else keras_config.Front()
    merged = [_merge(fronts, front, weights)] if fronts else []
    keras_config.refuse_padding(entries)
    arguments = _arguments(family, weights, entries)
    channels = arguments["in_channels"]
    scaling = None
    if not (family.caffe and keras_config.reverses_channels(entries)):
        scaling = keras_config.scaling(entries, channels, measured)
    if scaling is None and front.after:  # what scales behind the front is given pixels, too
        scaling = keras_config.Scaling((1.0,) * channels, (0.0,) * channels)
    if family.caffe and scaling is None and channels == 3:
        first = next(iter(weights), "")
        weights |= {first: weights[first].flip(1)} if first else {}
    head = _head(family, rest, keras_config.Head.of(entries, config))
    arguments |= head.arguments
    weights |= head.weights
    classifier = weights.get(f"{CLASSIFIER}.weight")
    arguments["num_classes"] = 0 if classifier is None else len(classifier)
    add_counters(weights)
    preprocess = _preprocess(family, keras_config.image_size(entries), channels, scaling, interpolation)
    notes = (*merged, *head.notes, *_notes(model, preprocess, configured=bool(entries)))
    return Import(Translation(weights, arguments, names, head.fault), preprocess, notes)


def _makes_colours(layer: Layer) -> bool:
    """Whether it is a convolution that makes three channels of a picture's: none of a network's own does."""
    kernel = next(iter(layer.tensors.values()))
    return layer.kind == CONV and kernel.shape[2] in CHANNELS and kernel.shape[3] == keras_config.COLOURS


def _merge(fronts: Sequence[Layer], front: keras_config.Front, weights: dict[str, Tensor]) -> str:
    """Put the front's convolution into the first one of the network's `weights`, in place; returns a note.

    Raises DepthwiseError where the two are not one convolution.
    """
    layer = fronts[0]
    kernel, *bias = (tensor.double() for tensor in layer.tensors.values())
    name, made = layer.path.rpartition("/")[2], number_of(kernel.shape[2], "channel")
    first = next(iter(weights), "")
    norm = first.removesuffix(".conv.weight") + ".norm"
    weight = weights.get(first, torch.empty(0)).double()
    fault, remedy = front.fault, front.remedy
    plain = len(fronts) == 1 and kernel.shape[:2] == (1, 1) and all(tensor.shape == (3,) for tensor in bias)
    if not fault and not (plain and weight.shape[1:2] == (3,)):
        fault = "it is not one of single pixels that the network's first convolution reads"
    if not fault:
        scaling = front.after or keras_config.Scaling((1.0,) * 3, (0.0,) * 3)
        factor, offset = (torch.tensor(values).double() for values in (scaling.factor, scaling.offset))
        constant = offset + factor * (bias[0] if bias else 0)
        if constant.any() and (front.padded or f"{norm}.running_mean" not in weights):
            fault = "what is added to the channels has no place where the first convolution lays zeros around them"
            remedy = f"train it with use_bias=False and scale before it, or {remedy}"
    if fault:
        raise DepthwiseError(
            f"{name} makes three channels of {made} before the network, and would be lost, for {fault}: {remedy}"
        )
    weights[first] = torch.einsum("kchw,c,ic->kihw", weight, factor, kernel[0, 0]).float()
    if constant.any():
        _add_bias(weights, norm, torch.einsum("kchw,c->k", weight, constant))
    seen = f"{made}, grey" if made == "1 channel" else made
    return f"{name}, which makes three channels of {made}, is part of the first convolution: pictures have {seen}"


def _add_bias(weights: dict[str, Tensor], norm: str, bias: Tensor) -> None:
    """Add it before the `norm`, in place: norm(x + bias) is norm(x) with the mean so much lower."""
    mean = weights.get(f"{norm}.running_mean")
    if mean is not None and mean.shape == bias.shape:
        weights[f"{norm}.running_mean"] = (mean - bias).to(mean.dtype)
    else:  # a misfit, which is found out later
        weights[f"{norm.removesuffix('.norm')}.conv.bias"] = bias


def _arguments(
    family: Family, trunk: Mapping[str, Tensor], entries: list[keras_config.Entry]
) -> dict[str, Any]:
    """Those of our builder that the weights up to the last map and the configuration tell."""
    arguments = dict(family.arguments)
    # Of a file that is of another network anything may come first; that it does not fit is found out later.
    first = next(iter(trunk.values()), None)
    arguments["in_channels"] = first.shape[1] if first is not None and first.shape[1] in CHANNELS else 3
    epsilon = keras_config.epsilon(entries)
    if epsilon is not None:
        arguments["norm_eps"] = epsilon
    if family.width and f"{family.width[0]}.weight" in trunk:
        width = len(trunk[f"{family.width[0]}.weight"]) / family.width[1]
        arguments |= {"width": width} if width != 1 else {}
    return arguments


def _notes(model: str, preprocess: Preprocess, *, configured: bool) -> Iterator[str]:
    size = "x".join(map(str, preprocess.size))
    if not configured:
        yield (
            f"the file has no model configuration: images are taken to be {size}, scaled by keras.applications' "
            f"preprocess_input"
        )
    if model == "mobilenet_v1" and any(-(-side // 2) % 16 for side in preprocess.size):
        yield (
            f"at {size} Keras pads some maps of odd size on one side only, which is not done here: predictions "
            f"differ a little"
        )


def _trunk(family: Family, layers: Sequence[Layer]) -> tuple[dict[str, Tensor], dict[str, str], list[Layer]]:
    """Weights up to the last map, the first convolution first; our paths to theirs; the layers that are left over."""
    graph = Graph()
    last = family.calls(graph, graph.layer())
    by_kind: dict[str, list[Layer]] = {}
    for one in layers:
        by_kind.setdefault(one.kind, []).append(one)
    waiting = {kind: iter(of_kind) for kind, of_kind in by_kind.items()}
    norms = {ours for ours, kind in zip(graph.ours, graph.kinds, strict=True) if kind == NORM}
    weights: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    taken = set()
    biases: dict[str, Tensor] = {}
    for node in graph.in_keras_order(last):
        kind, ours = graph.kinds[node], graph.ours[node]
        layer = next(waiting[kind], None) if kind in waiting else None
        if layer is None:
            continue
        taken.add(layer.path)
        converted = _convert(kind, layer)
        norm = ours.removesuffix(".conv") + ".norm"
        if "bias" in converted and norm in norms:
            biases[norm] = converted.pop("bias")
        weights |= {f"{ours}.{leaf}": tensor for leaf, tensor in converted.items()}
        names |= {f"{ours}{part}": layer.path for part in ("", ".depthwise", ".pointwise")}
    for norm, bias in biases.items():
        _add_bias(weights, norm, bias)
    return weights, names, [one for one in layers if one.path not in taken]


def _convert(kind: str, layer: Layer) -> dict[str, Tensor]:
    """A layer's tensors laid out and named as PyTorch's. Keras has [height, width, in, out], and [in, out]."""
    values = list(layer.tensors.values())
    if kind == NORM:
        names = ["weight", "bias", "running_mean", "running_var"]
        if len(values) == 3:  # scale=False
            values = [torch.ones_like(values[0]), *values]
        return dict(zip(names, values, strict=True))
    if kind == SEPARABLE:
        depthwise, pointwise, *bias = values
        converted = {
            "depthwise.weight": depthwise.permute(2, 3, 0, 1),
            "pointwise.weight": pointwise.permute(3, 2, 0, 1),
        }
    else:
        kernel, *bias = values
        axes = {CONV: (3, 2, 0, 1), DEPTHWISE: (2, 3, 0, 1), DENSE: (1, 0)}[kind]
        converted = {"weight": kernel.permute(axes)}
    return converted | ({"bias": bias[0]} if bias else {})


@dataclass(frozen=True)
class _Head:
    """A head's weights and arguments of our builder; or neither, and a clause that says why it is left out."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    notes: tuple[str, ...] = ()


def _head(family: Family, rest: Sequence[Layer], said: keras_config.Head) -> _Head:
    # Networks with dense layers of their own are built without unless they come along.
    without: dict[str, Any] = {family.hidden[0]: ()} if family.hidden and family.flatten else {}
    if not rest:
        return _Head(arguments=without)
    if said.fault:
        return _Head(arguments=without, fault=said.fault)
    *before, last = rest
    kinds = [layer.kind for layer in rest]
    dense = kinds == [DENSE] * len(rest) and (family.hidden or not before)
    if not dense and not (family.convolutional_head and kinds == [CONV]):
        names = ", ".join(layer.path.rpartition("/")[2] for layer in rest)
        return _Head(arguments=without, fault=f"its head has the layers {names}")
    flattens = family.flatten and bool(before)
    if said.flattens not in (None, flattens):
        fault = "its head " + ("flattens the map" if said.flattens else "takes the mean of each map")
        return _Head(arguments=without, fault=fault)
    weights: dict[str, Tensor] = {}
    arguments = dict(without)
    if before and family.hidden:
        name, path = family.hidden
        hidden = [_convert(DENSE, layer) for layer in before]
        if flattens:
            kernel = hidden[0]["weight"]
            if kernel.shape[1] % 49:
                return _Head(
                    arguments=without,
                    fault=f"its head takes {kernel.shape[1]:,} values, not those of a 7x7 map",
                )
            # Keras flattens [height, width, channels].
            hidden[0]["weight"] = kernel.unflatten(1, (7, 7, -1)).permute(0, 3, 1, 2).flatten(1)
        arguments[name] = tuple(len(tensors["weight"]) for tensors in hidden)
        weights = {f"{path(i)}.{leaf}": t for i, tensors in enumerate(hidden) for leaf, t in tensors.items()}
    end = _convert(last.kind, last)
    weight, bias = end["weight"].flatten(1), end.get("bias", torch.zeros(len(end["weight"])))
    note = ""
    if len(weight) == 1 and said.activation != "softmax":
        # sigmoid(z) is the second of softmax(0, z).
        weight, bias = (torch.cat([torch.zeros_like(tensor), tensor]) for tensor in (weight, bias))
        note = "the one output is taken for the probability of the second of two classes"
    elif said.activation == "sigmoid":
        return _Head(
            fault=f"its {len(weight)} outputs are independent probabilities (sigmoid), and a bundle's add up to 1"
        )
    elif said.activation == "linear":
        note = "the last layer has no softmax: probabilities are the softmax of its outputs"
    weights |= {f"{CLASSIFIER}.weight": weight, f"{CLASSIFIER}.bias": bias}
    return _Head(weights, arguments, notes=(note,) if note else ())


def _preprocess(
    family: Family,
    size: tuple[int, int] | None,
    channels: int,
    scaling: keras_config.Scaling | None,
    interpolation: str,
) -> Preprocess:
    """From pixels of 0 to 255 to what the first convolution was trained on."""
    mean: tuple[float, ...] = (0.5,) * channels
    std: tuple[float, ...] = (0.5,) * channels
    if scaling is not None:
        if min(scaling.factor) <= 0:
            raise DepthwiseError(
                f"a scaling by {scaling.factor} leaves no picture: save the network behind it"
            )
        std = tuple(1 / (255 * factor) for factor in scaling.factor)
        mean = tuple(-offset * s for offset, s in zip(scaling.offset, std, strict=True))
    elif family.caffe:
        mean = tuple(value / 255 for value in CAFFE_MEAN) if channels == 3 else (0.0,) * channels
        std = (1 / 255,) * channels
    return Preprocess(
        size or (family.size, family.size), channels, 1.0, interpolation, mean, std, stretch=True
    )
