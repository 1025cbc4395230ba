"""What a Keras model's configuration says of its input, its scaling and its head; read as data, nothing is built."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from depthwise.bounds import Bounds, fit
from depthwise.errors import DepthwiseError, UsageError, shown

Config = Mapping[str, Any]

_IDLE = (
    "InputLayer",
    "Dropout",
    "SpatialDropout2D",
    "GaussianNoise",
    "GaussianDropout",
    "ZeroPadding2D",
    "Identity",
)
_PADDING = "conv1_pad"  # before the first convolution of keras.applications' own networks
COLOURS = 3
"""Channels that a convolution makes of pictures before a network; none of a network's own makes so few."""

_HEAD_BEGINS = ("GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten", "Dense")
_HEAD_IDLE = ("InputLayer", "Dropout", "Flatten", "Reshape", "Identity", "ActivityRegularization")
_LINEAR = (None, "linear")

_Number = Annotated[float, Bounds(-1e12, 1e12)]


@dataclass(frozen=True)
class Entry:
    """A layer or operation: the name of its class, its arguments, and how it is called."""

    kind: str
    arguments: dict[str, Any]
    calls: Any


@dataclass(frozen=True)
class Scaling:
    """What is done to a pixel from 0 to 255 of each channel before the network: factor * pixel + offset."""

    factor: tuple[float, ...]
    offset: tuple[float, ...]


def entries(config: Config) -> list[Entry]:
    """The layers in order, those of a network inside the network in its place. Empty without a configuration."""
    try:
        return list(_entries(config)) if config else []
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise DepthwiseError(
            f"the Keras configuration is malformed ({type(error).__name__}: {error}): save the model again"
        ) from None


def _entries(config: Config) -> Iterator[Entry]:
    for layer in config["config"]["layers"]:
        arguments = dict(layer["config"])
        if "layers" in arguments:
            yield from _entries(layer)
        else:
            yield Entry(str(layer["class_name"])[:60], arguments, layer.get("inbound_nodes"))


def epsilon(layers: list[Entry]) -> float | None:
    """The epsilon of the first batch norm."""
    return next((float(e.arguments["epsilon"]) for e in layers if _is_norm(e)), None)


def _is_norm(entry: Entry) -> bool:
    return entry.kind.startswith("BatchNormalization") and isinstance(entry.arguments.get("epsilon"), float)


def image_size(layers: list[Entry]) -> tuple[int, int] | None:
    """Height and width of the input, if it is fixed."""
    for entry in layers:
        shape = entry.arguments.get("batch_shape") or entry.arguments.get("batch_input_shape")
        if isinstance(shape, list | tuple) and len(shape) == 4:
            height, width = shape[2:] if shape[1] in (1, 3, 4) else shape[1:3]
            whole = isinstance(height, int) and isinstance(width, int)
            return (height, width) if whole and height > 0 and width > 0 else None
    return None


def scaling(layers: list[Entry], channels: int, statistics: Sequence[Tensor] = ()) -> Scaling | None:
    """What the model itself does to pixels before its first convolution; None if nothing.

    statistics: mean and variance of a Normalization layer that measured them, if there is one. Raises
    DepthwiseError for a layer that is no scaling.
    """
    factor, offset = [1.0] * channels, [0.0] * channels
    changed = False
    for entry in layers:
        if entry.kind == "Conv2D":
            break
        if entry.kind in _IDLE or entry.kind.startswith("Random"):
            continue
        by, plus = _affine(entry, channels, statistics)
        factor = [f * b for f, b in zip(factor, by, strict=True)]
        offset = [o * b + p for o, b, p in zip(offset, by, plus, strict=True)]
        changed = True
    return Scaling(tuple(factor), tuple(offset)) if changed else None


def refuse_padding(layers: list[Entry]) -> None:
    """Raise DepthwiseError for zeros that a layer of the model's own lays around pictures before the network."""
    for entry in layers:
        if entry.kind == "Conv2D" and entry.arguments.get("filters") != COLOURS:
            return
        name = str(entry.arguments.get("name"))
        if entry.kind == "ZeroPadding2D" and name.lower() != _PADDING:
            raise DepthwiseError(
                f"{shown(name)} lays zeros around pictures before the network, and would be lost: save the network "
                f"behind it alone"
            )


def reverses_channels(layers: list[Entry]) -> bool:
    """Whether the model turns RGB to BGR itself, as preprocess_input does when a model calls it."""
    front = [entry.kind for entry in layers]
    return "GetItem" in front[: front.index("Conv2D") if "Conv2D" in front else None]


@dataclass(frozen=True)
class Front:
    """A convolution before the network that makes the network's three channels of a picture's, and what follows it.

    after: what is done to those channels on their way; padded: the network, or what stands before it, lays zeros around
    them. fault: why the convolution is not one of single pixels alone, in a clause, empty if it is that; remedy: what
    to do about it.
    """

    after: Scaling | None = None
    padded: bool = False
    fault: str = ""
    remedy: str = "save the network behind it alone, for pictures in colour"

    @staticmethod
    def of(layers: list[Entry], statistics: Sequence[Tensor] = ()) -> "Front":
        """The front of a network with these layers; raises DepthwiseError for what follows it and is no scaling."""
        convolutions = [i for i, entry in enumerate(layers) if entry.kind == "Conv2D"]
        if len(convolutions) < 2:
            return Front(
                fault="the file does not say what else it does", remedy="save all of the model as .keras"
            )
        first, second = convolutions[:2]
        arguments = layers[first].arguments
        for name, plain in {
            "filters": COLOURS,
            "kernel_size": [1, 1],
            "strides": [1, 1],
            "groups": 1,
        }.items():
            found = arguments.get(name, plain)
            if (list(found) if isinstance(found, tuple) else found) != plain:
                return Front(fault=f"it has {name}={shown(found)}")
        if arguments.get("activation") not in _LINEAR:
            return Front(fault=f"it has the activation {_named(arguments['activation'])}")
        between = layers[first + 1 : second]
        padded = any(entry.kind == "ZeroPadding2D" for entry in between)
        padded |= layers[second].arguments.get("padding") != "valid"
        return Front(scaling(between, 3, statistics), padded)


def _affine(entry: Entry, channels: int, statistics: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    ones, zeros = [1.0] * channels, [0.0] * channels
    arguments = entry.arguments
    constant = _constant(entry.calls)
    match entry.kind:
        case "Rescaling":
            return _each(arguments.get("scale"), channels), _each(arguments.get("offset", 0.0), channels)
        case "Normalization" if not arguments.get("invert"):
            mean, variance = arguments.get("mean"), arguments.get("variance")
            if mean is None and len(statistics) == 2:
                mean, variance = (tensor.flatten().tolist() for tensor in statistics)
            if mean is not None and variance is not None:
                std = [max(max(v, 0.0) ** 0.5, 1e-7) for v in _each(variance, channels)]
                means = _each(mean, channels)
                return [1 / s for s in std], [-m / s for m, s in zip(means, std, strict=True)]
        case "TrueDivide" | "Divide" if constant:
            return [1 / constant] * channels, zeros
        case "Multiply" if constant:
            return [constant] * channels, zeros
        case "Subtract" if constant is not None:
            return ones, [-constant] * channels
        case "Add" if constant is not None:
            return ones, [constant] * channels
    raise DepthwiseError(
        f"{entry.kind} before the first convolution is no scaling that a bundle's preprocessing can hold: save the "
        f"network that stands behind it"
    )


def _each(value: Any, channels: int) -> list[float]:
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    values = value if isinstance(value, list) else [value] * channels
    if len(values) != channels:
        raise DepthwiseError(
            f"a scaling of {shown(value)} does not fit {channels} channels: save the network behind it"
        )
    return [_number(v) for v in values]


def _number(value: Any) -> float:
    try:
        return float(fit(value, _Number, "scaling"))
    except UsageError as error:
        sentence = str(error).rpartition(": ")[0]
        raise DepthwiseError(f"the Keras configuration has a {sentence}: save the model again") from None


def _constant(calls: Any) -> float | None:
    """The number in `x / 127.5`: the second argument of an operation's only call."""
    match calls:
        case [{"args": [_, int() | float() as number]}]:
            return _number(number)
    return None


@dataclass(frozen=True)
class Head:
    """What comes after the last map. fault: why it is not pooling and dense layers, in a clause; empty if it is that.

    flattens: the map is taken whole, not averaged; activation: the last, softmax, sigmoid or linear. Both are None
    without a configuration.
    """

    fault: str = ""
    flattens: bool | None = None
    activation: str | None = None

    @staticmethod
    def of(layers: list[Entry], config: Config) -> "Head":
        """The head of a network with these layers."""
        begin = next((i for i, entry in enumerate(layers) if entry.kind in _HEAD_BEGINS), len(layers))
        head = layers[begin:]
        if not head:
            return Head()
        activation = None
        for entry in head:
            if entry.kind == "Softmax":
                activation = "softmax"
            elif entry.kind in ("Dense", "Conv2D", "Activation"):
                activation = str(entry.arguments.get("activation") or "linear")
        return Head(_fault(head, config), head[0].kind in ("Flatten", "Dense"), activation)


def _named(value: Any) -> str:
    return value if isinstance(value, str) and len(value) < 60 else shown(value)


def _fault(head: list[Entry], config: Config) -> str:
    outputs = config.get("config", {}).get("output_layers", [])
    if isinstance(outputs, list) and len(outputs) > 1 and all(isinstance(output, list) for output in outputs):
        return f"the model has {len(outputs)} outputs"
    if head[0].kind not in ("GlobalAveragePooling2D", "Flatten"):
        return f"its head begins with {head[0].kind}"
    dense = [entry for entry in head if entry.kind == "Dense"]
    for entry in head[1:]:
        activation = entry.arguments.get("activation")
        if entry.kind == "Dense":
            allowed = ("softmax", "sigmoid", *_LINEAR) if entry is dense[-1] else ("relu",)
            if activation not in allowed:
                return f"a dense layer of its head has the activation {_named(activation)}"
        elif entry.kind == "Activation":
            if activation not in ("softmax", "sigmoid", *_LINEAR) or (dense and entry is not head[-1]):
                return f"its head has the activation {_named(activation)} on its own"
        elif entry.kind not in (*_HEAD_IDLE, "Conv2D", "Softmax"):
            return f"its head has a {entry.kind} layer"
    return ""
