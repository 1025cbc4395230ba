"""Keras' networks, layer by layer as keras.applications calls them, and their weights under our names.

Keras names layers after the class and counts in the order of creation, from wherever the session's counter stood, so
names say nothing that lasts. What does is the order in which a model lists its layers: by distance from its output,
then by traversal. Each function below calls the layers of one network as Keras' own code does; `Graph` lists them as
Keras would, and a file's layers of each kind, in their order, are those.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from depthwise.data.image import CHANNELS
from depthwise.data.transform import Preprocess
from depthwise.errors import DepthwiseError, unknown_name
from depthwise.weights import keras_config
from depthwise.weights.layout import CLASSIFIER, Translation, add_counters

CONV, DEPTHWISE, SEPARABLE, NORM, DENSE, OTHER = "conv", "depthwise", "separable", "norm", "dense", "other"

CAFFE_MEAN = (123.68, 116.779, 103.939)  # of red, green and blue, 0 to 255

POOL = object()
"""A step of a branch that has no weights."""


class Graph:
    """Calls of layers, recorded: a node is a number, in the order of the calls."""

    def __init__(self) -> None:
        self.parents: list[tuple[int, ...]] = []
        self.kinds: list[str] = []
        self.ours: list[str] = []

    def layer(self, *inputs: int, kind: str = "", ours: str = "") -> int:
        """A layer of a `kind` that has weights, under our module's path, or of none."""
        self.parents.append(inputs)
        self.kinds.append(kind)
        self.ours.append(ours)
        return len(self.parents) - 1

    def conv_norm(self, x: int, ours: str, *, kind: str = CONV, activation: bool = True) -> int:
        """Convolution, batch norm and an activation, which is a ConvNorm of ours."""
        x = self.layer(self.layer(x, kind=kind, ours=f"{ours}.conv"), kind=NORM, ours=f"{ours}.norm")
        return self.layer(x) if activation else x

    def in_keras_order(self, output: int) -> list[int]:
        """The nodes as `model.layers` lists them (keras/src/ops/function.py, map_graph)."""
        visits: dict[int, int] = {}
        waiting = [output]
        while waiting:
            node = waiting.pop()
            if node not in visits:
                visits[node] = len(visits)
                waiting += reversed(self.parents[node])
        distance = dict.fromkeys(visits, 0)
        for node in sorted(visits, reverse=True):  # a layer is called after its inputs
            for parent in self.parents[node]:
                distance[parent] = max(distance[parent], distance[node] + 1)
        return sorted(visits, key=lambda node: (-distance[node], visits[node]))


@dataclass(frozen=True)
class Family:
    """A network of keras.applications: `calls` records it up to the last feature map and returns that node.

    size: the side it was published for. caffe: images are BGR less a mean, rather than from -1 to 1. arguments: of
    our builder. head: how Keras' own top is called, where that is not one dense layer.
    """

    calls: Callable[[Graph, int], int]
    size: int
    caffe: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    head: tuple[tuple[str, str], ...] = ((DENSE, CLASSIFIER),)


def xception(g: Graph, x: int) -> int:
    def separable(x: int, ours: str, *, before: bool, after: bool = False) -> int:
        return g.conv_norm(g.layer(x) if before else x, ours, kind=SEPARABLE, activation=after)

    for i in (0, 1):
        x = g.conv_norm(x, f"stages.stem.{i}")
    for block in ("entry1", "entry2", "entry3", *(f"middle.{i}" for i in range(8)), "exit.0"):
        middle = block.startswith("middle")
        skip = x if middle else g.conv_norm(x, f"stages.{block}.skip", activation=False)
        for i in range(1, 4 if middle else 3):
            x = separable(x, f"stages.{block}.body.{i}", before=block != "entry1" or i > 1)
        x = g.layer(x if middle else g.layer(x), skip)
    for i in (1, 2):
        x = separable(x, f"stages.exit.{i}", before=False, after=True)
    return x


def chain(g: Graph, x: int, ours: str, steps: Sequence[Any]) -> int:
    """Convolutions with batch norm by their place under `ours`, pools, and lists of branches, one after another."""
    for step in steps:
        if step is POOL:
            x = g.layer(x)
        elif isinstance(step, list):
            x = branches(g, x, ours, step)
        else:
            x = g.conv_norm(x, f"{ours}.{step}")
    return x


def branches(g: Graph, x: int, ours: str, chains: Sequence[Sequence[Any]]) -> int:
    """Chains side by side, and their concatenation."""
    return g.layer(*[chain(g, x, ours, steps) for steps in chains])


def inception_v3(g: Graph, x: int) -> int:
    mixed5 = [("0",), ("1.0", "1.1"), ("2.0", "2.1", "2.2"), (POOL, "3.1")]
    mixed6 = [("0",), [f"1.{i}" for i in range(3)], [f"2.{i}" for i in range(5)], (POOL, "3.1")]
    fork1, fork2 = ([(f"{b}.branches.0",), (f"{b}.branches.1",)] for b in ("1.1", "2.2"))
    mixed7 = [("0",), ("1.0", fork1), ("2.0", "2.1", fork2), (POOL, "3.1")]
    x = chain(g, x, "stages", ["stem1.0", "stem1.1", "stem1.2", POOL, "stem2.1", "stem2.2", POOL])
    for i in (1, 2, 3):
        x = branches(g, x, f"stages.mixed5.{i}.branches", mixed5)
    x = branches(g, x, "stages.mixed6.0.branches", [("0",), ("1.0", "1.1", "1.2"), (POOL,)])
    for i in (1, 2, 3, 4):
        x = branches(g, x, f"stages.mixed6.{i}.branches", mixed6)
    x = branches(g, x, "stages.mixed7.0.branches", [("0.0", "0.1"), [f"1.{i}" for i in range(4)], (POOL,)])
    for i in (1, 2):
        x = branches(g, x, f"stages.mixed7.{i}.branches", mixed7)
    return x


FAMILIES: dict[str, Family] = {
    "inception_v3": Family(inception_v3, 299),
    "xception": Family(xception, 299),
}


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
    layers = [layer for layer in layers if layer not in statistics]
    entries = keras_config.entries(config)
    trunk, names, rest = _trunk(family, layers)
    arguments = dict(family.arguments)
    first = next(iter(trunk), "")
    # Of a file that is of another network anything may come first; that it does not fit is found out later.
    channels = trunk[first].shape[1] if first and trunk[first].shape[1] in CHANNELS else 3
    arguments["in_channels"] = channels
    measured = [tensor for layer in statistics[:1] for tensor in layer.tensors.values()]
    scaling = None
    if not (family.caffe and keras_config.reverses_channels(entries)):
        scaling = keras_config.scaling(entries, channels, measured)
    if family.caffe and scaling is None and channels == 3:
        trunk[first] = trunk[first].flip(1)
    epsilon = keras_config.epsilon(entries)
    if epsilon is not None:
        arguments["norm_eps"] = epsilon
    head, fault = _head(family, rest, entries, config)
    classifier = head.get(f"{CLASSIFIER}.weight")
    arguments["num_classes"] = 0 if classifier is None else len(classifier)
    preprocess = _preprocess(family, keras_config.image_size(entries), channels, scaling, interpolation)
    notes = []
    if not entries:
        notes.append(
            f"the file has no model configuration: images are taken to be {preprocess.size[0]}x{preprocess.size[1]}, "
            f"scaled by keras.applications' preprocess_input"
        )
    weights = trunk | head
    add_counters(weights)
    return Import(Translation(weights, arguments, names, fault), preprocess, tuple(notes))


def _trunk(family: Family, layers: Sequence[Layer]) -> tuple[dict[str, Tensor], dict[str, str], list[Layer]]:
    """Weights up to the last map, the first convolution first; our paths to theirs; the layers that are left over."""
    graph = Graph()
    last = family.calls(graph, graph.layer())
    by_kind: dict[str, list[Layer]] = {}
    for layer in layers:
        by_kind.setdefault(layer.kind, []).append(layer)
    waiting = {kind: iter(of_kind) for kind, of_kind in by_kind.items()}
    norms = {ours for ours, kind in zip(graph.ours, graph.kinds, strict=True) if kind == NORM}
    weights: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    taken = set()
    biases: dict[str, Tensor] = {}
    for node in graph.in_keras_order(last):
        kind, ours = graph.kinds[node], graph.ours[node]
        if not kind or not (layer := next(waiting.get(kind, iter(())), None)):
            continue
        taken.add(layer.path)
        converted = _convert(kind, layer)
        norm = ours.removesuffix(".conv") + ".norm"
        if "bias" in converted and norm in norms:
            biases[norm] = converted.pop("bias")
        weights |= {f"{ours}.{leaf}": tensor for leaf, tensor in converted.items()}
        names |= {f"{ours}{part}": layer.path for part in ("", ".depthwise", ".pointwise")}
    for norm, bias in biases.items():
        # norm(x + bias) is norm(x) with the mean so much lower.
        if f"{norm}.running_mean" in weights:
            weights[f"{norm}.running_mean"] = weights[f"{norm}.running_mean"] - bias
    return weights, names, [layer for layer in layers if layer.path not in taken]


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


def _head(
    family: Family, rest: Sequence[Layer], entries: list[keras_config.Entry], config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], str]:
    """The head's weights, or none and a clause that says why they are left out."""
    if not rest:
        return {}, ""
    fault = keras_config.head_fault(entries, config)
    own = [kind for kind, _ in family.head]
    if not fault and [layer.kind for layer in rest] != own:
        fault = "its head has the layers " + ", ".join(layer.path.rpartition("/")[2] for layer in rest)
    if fault:
        return {}, fault
    weights: dict[str, Tensor] = {}
    for (kind, ours), layer in zip(family.head, rest, strict=True):
        weights |= {f"{ours}.{leaf}": tensor for leaf, tensor in _convert(kind, layer).items()}
    weight = weights[f"{CLASSIFIER}.weight"].flatten(1)
    bias = weights.get(f"{CLASSIFIER}.bias", torch.zeros(len(weight)))
    activation = keras_config.last_activation(entries)
    if len(weight) == 1 and activation != "softmax":
        # One probability for two classes: sigmoid(z) is the second of softmax(0, z).
        weight, bias = (torch.cat([torch.zeros_like(tensor), tensor]) for tensor in (weight, bias))
    elif activation == "sigmoid":
        return (
            {},
            f"its {len(weight)} outputs are independent probabilities (sigmoid), and a bundle's add up to 1",
        )
    return weights | {f"{CLASSIFIER}.weight": weight, f"{CLASSIFIER}.bias": bias}, ""


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
