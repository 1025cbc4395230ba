"""A recipe says a whole training run in one frozen value: change a field with `dataclasses.replace`, nothing else."""

import ast
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from depthwise.data.transform import Augment, Preprocess
from depthwise.errors import DepthwiseError, UsageError, unknown_name
from depthwise.train.optimizer import (
    SGD,
    AdamW,
    Constant,
    Cosine,
    Linear,
    Optimizer,
    RMSprop,
    Schedule,
    StepDecay,
)

OPTIMIZERS: dict[str, type] = {"sgd": SGD, "adamw": AdamW, "rmsprop": RMSprop}
SCHEDULES: dict[str, type] = {"constant": Constant, "step": StepDecay, "cosine": Cosine, "linear": Linear}
PARTS: dict[str, dict[str, type]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augment": {"augment": Augment},
}
CHOICES = {"precision": ("auto", "float32", "bfloat16"), "class_weights": ("none", "balanced")}


@dataclass(frozen=True)
class Recipe:
    """A training run, whole. Units: epochs of the training part, pixels, fractions of the training set's images.

    name: the published recipe it came from. model, model_args: the network and its builder's arguments.
    size: the input's height and width; crop_fraction, interpolation, stretch, mean, std: see `Preprocess`.
    channels: None takes the data set's own.
    batch_size: images a forward pass; accumulate: passes an update. clip_norm: the gradient's largest norm, 0 = off.
    averaging: Polyak's decay, 0 = off. norm_momentum: batch norm's, in PyTorch's convention, None = the network's own.
    class_weights: "balanced" weighs each class's loss by the inverse of its share. freeze: only the classifier learns,
    and the backbone's batch norm stands still. precision: "auto" is bfloat16 where the processor computes in it.
    eval_every: epochs between evaluations of the raw and the averaged weights. log_every: updates a line of metrics,
    fewer where a run would have under 100 lines.
    """

    name: str
    model: str = "xception"
    model_args: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (299, 299)
    channels: int | None = None
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"
    stretch: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    augment: Augment = Augment()
    epochs: float = 10.0
    batch_size: int = 32
    accumulate: int = 1
    optimizer: Optimizer = SGD()
    schedule: Schedule = Constant()
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    class_weights: str = "none"
    averaging: float = 0.0
    norm_momentum: float | None = None
    freeze: bool = False
    precision: str = "auto"
    compile: bool = False
    eval_every: float = 1.0
    log_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.size, int):
            object.__setattr__(self, "size", (self.size, self.size))
        for name in ("batch_size", "accumulate", "log_every", "epochs", "eval_every"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name}={getattr(self, name)} must be above 0: give a larger number")
        for name in ("averaging", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)} must be at least 0 and below 1")
        for name in ("clip_norm", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name}={getattr(self, name)} must be at least 0")
        if self.norm_momentum is not None and not 0 < self.norm_momentum <= 1:
            raise UsageError(f"norm_momentum={self.norm_momentum} must be above 0 and at most 1")
        for name in ("lr", "weight_decay"):
            if getattr(self.optimizer, name) < 0:
                raise UsageError(f"optimizer.{name}={getattr(self.optimizer, name)} must be at least 0")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown_name(name, str(getattr(self, name)), known)

    def preprocess(self, channels: int) -> Preprocess:
        """How images of the data set, which have `channels`, are brought into the network."""
        return Preprocess(
            self.size,
            self.channels or channels,
            self.crop_fraction,
            self.interpolation,
            self.mean,
            self.std,
            self.stretch,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; each part that comes in several kinds names its own under "kind"."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for part, kinds in PARTS.items():
            kind = next(name for name, cls in kinds.items() if isinstance(values[part], cls))
            values[part] = {"kind": kind, **dataclasses.asdict(values[part])}
        return _plain(values)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Recipe":
        """Read what `to_json` gave. Raises UsageError for a field or kind that does not exist."""
        known = [f.name for f in dataclasses.fields(Recipe)]
        read: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise unknown_name("field of the recipe", name, known)
            if name in PARTS:
                value = _part(name, value)
            read[name] = tuple(value) if isinstance(value, list) else value
        return Recipe(**read)

    def override(self, settings: Iterable[str], model_arguments: Iterable[str] = ()) -> "Recipe":
        """The recipe with `key=value` settings applied.

        A key is a field (`epochs=4`), a part's field (`optimizer.lr=0.1`), a part (`optimizer=adamw` takes that kind's
        defaults), or one of the network's `model_arguments` (`width=0.25`). Values are written as Python literals; what
        is none is a text. Raises UsageError, naming the nearest keys, for one that does not exist.
        """
        recipe, model_arguments = self, tuple(model_arguments)
        for setting in settings:
            recipe = recipe._set(*parse_setting(setting), model_arguments)
        return recipe

    def _set(self, key: str, value: Any, model_arguments: tuple[str, ...]) -> "Recipe":
        fields = {f.name for f in dataclasses.fields(self)} - {"name", "model_args"}
        part, dot, inner = key.partition(".")
        if dot and part in PARTS:
            current = getattr(self, part)
            known = [f.name for f in dataclasses.fields(current)]
            if inner not in known:
                raise unknown_name(f"field of the {part}", inner, known)
            checked = _checked(current, inner, value, key)
            return dataclasses.replace(self, **{part: dataclasses.replace(current, **{inner: checked})})
        if key in PARTS:
            return dataclasses.replace(self, **{key: _part(key, {"kind": value})})
        if key in fields:
            return dataclasses.replace(self, **{key: _checked(self, key, value, key)})
        if key in model_arguments:
            return dataclasses.replace(self, model_args={**self.model_args, key: value})
        inner_names = [f"{p}.{f.name}" for p in PARTS for f in dataclasses.fields(getattr(self, p))]
        raise unknown_name("setting", key, [*fields, *inner_names, *model_arguments])


def parse_setting(setting: str) -> tuple[str, Any]:
    """Key and value of `key=value`, the value a Python literal, or else a text."""
    key, equals, text = setting.partition("=")
    if not equals:
        raise UsageError(f"setting {setting!r} has no '=': write key=value, for example epochs=4")
    return key.strip(), _value(text.strip())


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Where two JSON objects differ, as `key: old -> new`, nested keys with a dot."""
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a} -> {b}")
    return found


def _part(name: str, values: Any) -> Any:
    kinds = PARTS[name]
    values = dict(values)
    kind = str(values.pop("kind", ""))
    if kind not in kinds:
        raise unknown_name(f"kind of {name}", kind, kinds)
    known = [f.name for f in dataclasses.fields(kinds[kind])]
    for key in values:
        if key not in known:
            raise unknown_name(f"field of the {name}", key, known)
    return kinds[kind](**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _value(text: str) -> Any:
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _checked(owner: Any, name: str, value: Any, key: str) -> Any:
    """`value` as the field `name` of the dataclass `owner` takes it: a whole number will do for a float."""
    hint = get_type_hints(type(owner))[name]
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = tuple(
        str if get_origin(option) is Literal else get_origin(option) or option for option in options
    )
    if float in kinds and type(value) is int:
        return float(value)
    if tuple in kinds and isinstance(value, list):
        return tuple(value)
    if type(value) in kinds or (name == "size" and type(value) is int):
        return value
    wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
    raise UsageError(f"{key}={value!r} is no {wanted}: write for example {key}={getattr(owner, name)}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    raise DepthwiseError(f"{value!r} cannot be written into a recipe: use numbers, texts and tuples of them")
