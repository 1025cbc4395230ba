"""A recipe says a whole training run in one frozen value: change a field with `dataclasses.replace`, nothing else."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from depthwise.bounds import Bounds, Length, OneOf, check, fit, parse_setting
from depthwise.data.transform import Augment, Preprocess
from depthwise.errors import DepthwiseError, UsageError, shown, unknown_name
from depthwise.tasks.losses import LOSSES, Loss, Plain
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
    Unit,
)

OPTIMIZERS: dict[str, type] = {"sgd": SGD, "adamw": AdamW, "rmsprop": RMSprop}
SCHEDULES: dict[str, type] = {"constant": Constant, "step": StepDecay, "cosine": Cosine, "linear": Linear}
PARTS: dict[str, dict[str, type]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augment": {"augment": Augment},
    "loss": LOSSES,
    "preprocess": {"preprocess": Preprocess},
}
SHORT = {field.name: f"preprocess.{field.name}" for field in dataclasses.fields(Preprocess)}
"""What settings may call fields of the preprocessing, and recipes of an older version did."""

Name = Annotated[str, Length(1, 200)]
Count = Annotated[int, Bounds(1, 1_000_000)]
Share = Annotated[float, Bounds(0, 1, below=True)]

MAX_EPOCHS = MAX_EVALUATIONS = 100_000


@dataclass(frozen=True)
class Recipe:
    """A training run, whole. Units: epochs of the training part, fractions of the training set's images.

    epochs: its length; samples: its length in images instead, of a set of which nobody sees the end, 0 = by epochs.

    name: the published recipe it came from. model, model_args: the network and its builder's arguments.
    preprocess: how images go into the network; its channels None takes the data set's own.
    batch_size: images a forward pass; accumulate: passes an update. virtual_shards: parts, a power of two, that each
    pass is cut into, which as many processes may share, or fewer, to the same bits; batch norm sees a part at a time.
    0 = as many as there are processes when the run begins, rounded up. reduction: how the parts' gradients are added,
    "tree" in one order whatever the processes, "all-reduce" by the framework, whose bits depend on them.
    clip_norm: the gradient's largest norm, 0 = off.
    averaging: Polyak's decay, 0 = off. norm_momentum: batch norm's, in PyTorch's convention, None = the network's own.
    loss: "cross-entropy", and for images of any number of labels "focal" or "asymmetric", see `tasks/losses.py`.
    class_weights: "balanced" weighs each class's loss by the inverse of its share. freeze: only the classifier learns,
    and the backbone's batch norm stands still. precision: "auto" is bfloat16 where the processor computes in it.
    recompute: keep for the backward pass what the network's blocks are given, and compute what is in them again there:
    less memory, more time, the same bits (Chen 2016, arXiv 1604.06174).
    early_stop: the run ends after so many evaluations in a row without a better top-1 on the val part, 0 = off.
    keep: the weights that the bundle holds: "averaged" or "last", those of the last update, "auto" the former where the
    recipe averages; "best", the raw or averaged ones of the evaluation with the highest top-1 on the val part, of
    equals the earlier. eval_every: epochs, or what eval_unit says, between evaluations of the raw and the averaged
    weights. log_every: updates a line of metrics, fewer where a run would have under 100 lines.
    """

    name: Name
    model: Name = "xception"
    model_args: dict[str, Any] = field(default_factory=dict)
    preprocess: Preprocess = Preprocess()
    augment: Augment = Augment()
    epochs: Annotated[float, Bounds(0, MAX_EPOCHS, above=True)] = 10.0
    samples: Annotated[int, Bounds(0, 10**15)] = 0
    batch_size: Count = 32
    accumulate: Count = 1
    virtual_shards: Annotated[int, Bounds(0, 4096)] = 0
    reduction: Annotated[str, OneOf("tree", "all-reduce")] = "tree"
    optimizer: Optimizer = SGD()
    schedule: Schedule = Constant()
    clip_norm: Annotated[float, Bounds(0, 1e6)] = 0.0
    loss: Loss = Plain()
    label_smoothing: Share = 0.0
    class_weights: Annotated[str, OneOf("none", "balanced")] = "none"
    averaging: Share = 0.0
    norm_momentum: Annotated[float, Bounds(0, 1, above=True)] | None = None
    freeze: bool = False
    precision: Annotated[str, OneOf("auto", "float32", "bfloat16")] = "auto"
    compile: bool = False
    recompute: bool = False
    early_stop: Annotated[int, Bounds(0, 1_000_000)] = 0
    keep: Annotated[str, OneOf("auto", "best", "last", "averaged")] = "auto"
    eval_every: Annotated[float, Bounds(0.001, 1e15)] = 1.0
    eval_unit: Unit = "epochs"
    log_every: Count = 50
    seed: Annotated[int, Bounds(0, 2**63 - 1)] = 0

    def __post_init__(self) -> None:
        check(self)
        if self.keep == "averaged" and not self.averaging:
            raise UsageError(
                "keep=averaged needs an average, and averaging is 0: set for example averaging=0.998"
            )
        if self.recompute and self.compile:
            raise UsageError(
                "recompute=true does nothing under compile=true, for torch.compile chooses what is kept: leave one out"
            )
        if self.virtual_shards & (self.virtual_shards - 1):
            raise UsageError(
                f"virtual_shards={self.virtual_shards} is no power of two: take {1 << self.virtual_shards.bit_length()}"
            )
        if not self.samples and self.eval_unit == "epochs":
            self.check_evaluations(self.epochs / self.eval_every)

    def check_evaluations(self, number: float) -> None:
        """Raise UsageError for more evaluations than a run may have."""
        if number > MAX_EVALUATIONS:
            length = f"samples={self.samples}" if self.samples else f"epochs={self.epochs:g}"
            unit = "" if self.eval_unit == "epochs" else f" {self.eval_unit}"
            raise UsageError(
                f"{length} with eval_every={self.eval_every:g}{unit} are more than {MAX_EVALUATIONS:,} evaluations: "
                f"give a larger eval_every"
            )

    def total_steps(self, steps_per_epoch: int, samples_per_step: int) -> int:
        """The updates of the whole run."""
        steps = self.samples / samples_per_step if self.samples else self.epochs * steps_per_epoch
        return max(1, round(steps))

    def to_json(self) -> dict[str, Any]:
        """Plain values; each part that comes in several kinds names its own under "kind"."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for part, kinds in PARTS.items():
            kind = next(name for name, cls in kinds.items() if isinstance(values[part], cls))
            values[part] = {"kind": kind, **dataclasses.asdict(values[part])}
        return _plain(values)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Recipe":
        """Read what `to_json` gave, or an older version's. Raises UsageError for an unknown field or kind."""
        known = [f.name for f in dataclasses.fields(Recipe)]
        given = dict(fit(values, dict[str, Any], "recipe"))
        if "preprocess" not in given:
            flat = {name: given.pop(name) for name in SHORT if name in given}
            given["preprocess"] = {"kind": "preprocess", **flat}
        read: dict[str, Any] = {}
        for name, value in given.items():
            if name not in known:
                raise unknown_name("field of the recipe", name, known)
            read[name] = _part(name, value) if name in PARTS else value
        if "name" not in read:
            raise UsageError("the recipe has no name: give it the field 'name'")
        return Recipe(**read)

    def override(self, settings: Iterable[str], model_arguments: Iterable[str] = ()) -> "Recipe":
        """As `with_settings`, from texts `key=value`: a value is a Python literal (`width=0.25`), or else a text."""
        return self.with_settings(map(parse_setting, settings), model_arguments)

    def with_settings(
        self, settings: Iterable[tuple[str, Any]], model_arguments: Iterable[str] = ()
    ) -> "Recipe":
        """The recipe with `settings`, pairs of a key and a value, applied one after another.

        A key is a field (epochs), a part's field (optimizer.lr; of the preprocessing size will do), a part (optimizer,
        whose value adamw takes that kind's defaults), or one of the network's `model_arguments` (width). Raises
        UsageError, naming the nearest keys, for a key that does not exist.
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        parts = {part: (type(values[part]), dict(vars(values[part]))) for part in PARTS}
        arguments = tuple(model_arguments)
        settings = list(settings)
        names = [key for key, _ in settings]
        check_settings(names, arguments)
        if "epochs" in names and "samples" in names:
            raise UsageError("epochs and samples are both the length of the run: give one of them")
        if "epochs" in names:
            values["samples"] = 0
        for key, value in settings:
            part, dot, inner = SHORT.get(key, key).partition(".")
            if dot and part in PARTS:
                _known(part, inner, parts[part][0])
                square = (part, inner) == ("preprocess", "size") and type(value) is int
                parts[part][1][inner] = (value, value) if square else value
            elif key in PARTS:
                parts[key] = _kind(key, value), {}
            elif key in _FIELDS:
                values[key] = value
            else:
                values["model_args"] = {**values["model_args"], key: value}
        # All at once: two settings may fit each other, and one of them not the value that the other replaces.
        return Recipe(**{**values, **{part: kind(**given) for part, (kind, given) in parts.items()}})


_FIELDS = {f.name for f in dataclasses.fields(Recipe)} - {"name", "model_args", *PARTS}


def check_settings(keys: Iterable[str], model_arguments: Iterable[str]) -> None:
    """Raise UsageError, naming the nearest, for a key that `with_settings` knows for no kind of the recipe's parts."""
    inner = {
        part: {field.name for kind in kinds.values() for field in dataclasses.fields(kind)}
        for part, kinds in PARTS.items()
    }
    dotted = {f"{part}.{name}" for part, names in inner.items() for name in names}
    known = {*_FIELDS, *PARTS, *SHORT, *dotted - {*SHORT.values()}, *model_arguments}
    for key in keys:
        part, dot, name = key.partition(".")
        if key in known | dotted:
            continue
        if dot and part in PARTS:
            raise unknown_name(f"field of the {part}", name, inner[part])
        raise unknown_name("setting", key, known)


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
    given = dict(fit(values, dict[str, Any], name))
    kind = _kind(name, given.pop("kind", ""))
    for key in given:
        _known(name, key, kind)
    return kind(**given)


def _kind(part: str, name: Any) -> type:
    if not isinstance(name, str) or name not in PARTS[part]:
        raise unknown_name(f"kind of {part}", name if isinstance(name, str) else shown(name), PARTS[part])
    return PARTS[part][name]


def _known(part: str, name: str, kind: type) -> None:
    known = [f.name for f in dataclasses.fields(kind)]
    if name not in known:
        raise unknown_name(f"field of the {part}", name, known)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    raise DepthwiseError(
        f"{shown(value)} cannot be written into a recipe: use numbers, texts and tuples of them"
    )
