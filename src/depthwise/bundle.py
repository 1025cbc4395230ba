"""The bundle: a folder with a network's weights and all that is needed to use them; nothing in it can run code.

`config.json` names the network and its arguments, the classes and the preprocessing, and has the SHA-256 of each of the
other files under "digests", which is checked on reading where it is there. `model.safetensors` holds
the weights, the averaged ones if the training averaged; `model.raw.safetensors`, if present, the unaveraged ones;
`roundings.safetensors`, if it is compiled in int8, how its products are rounded. The folder `examples`, if there
is one, has pictures to try the network on, see `examples.py`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from depthwise.bounds import Bounds, Length, OneOf, check, fit
from depthwise.data.transform import Preprocess
from depthwise.errors import DepthwiseError, shown
from depthwise.examples import example_files
from depthwise.places import CONFIG as CONFIG
from depthwise.places import find_bundle, previous
from depthwise.reading import parse_json, read_regular
from depthwise.tasks import DEFAULT as SINGLE_LABEL
from depthwise.tasks import Task, find_task
from depthwise.writing import named, reserved, written_folder

FORMAT_VERSION = 1
WEIGHTS, RAW_WEIGHTS = "model.safetensors", "model.raw.safetensors"
ROUNDINGS = "roundings.safetensors"
DIGESTS = "digests"
T = TypeVar("T")

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
"""What a bundle's tensors may be; safetensors knows others, of 4 bits for example, that PyTorch cannot convert."""

Error = Annotated[float, Bounds(0, 1e6)]
Times = Annotated[float, Bounds(0, 1e6)]
Fraction = Annotated[float, Bounds(0, 1)]
COMPILED: dict[str, Any] = {
    "precision": Annotated[str, OneOf("fp32", "bf16", "int8")],
    "engine": Annotated[str, OneOf("native", "openvino", "onnxruntime", "torch")],
    "asked": Annotated[str, OneOf("fp32", "bf16", "int8")],
    "why_not": Annotated[str, Length(0, 10_000)],
    "error": Error,
    "milliseconds": Annotated[float, Bounds(0, 1e9)],
    "speedup": Times | None,
    "speedup_range": tuple[Times, Times],
    "layers": Annotated[Sequence[dict[str, Any]], Length(0, 100_000)],
    "num_images": Annotated[int, Bounds(0, 2**40)],
    "accuracy": tuple[Fraction, Fraction],
    "agreement": Fraction,
}
"""What `compiled` of a config may say, by its name there; what else it has nobody reads."""


@dataclass(frozen=True)
class BundleConfig:
    """What `config.json` says: the network `model` built with `model_args`, what goes in and what comes out.

    A backbone, whose model_args say num_classes=0, has no classes. `task` is what is asked of an image, by its name in
    `tasks.TASKS`, with `task_args`, thresholds for example. `training` is a summary for people (data,
    recipe, accuracy), in which an evaluation looks whether it was on the data set at hand. `compiled` says in which
    precision the network is to be run by which engine, {"precision": "bf16", "engine": "native"}, and what that was
    measured to cost; None leaves it to PyTorch.
    """

    model: Annotated[str, Length(1, 200)]
    classes: Annotated[tuple[Annotated[str, Length(0, 1000)], ...], Length(0, 1_000_000)]
    preprocess: Preprocess
    model_args: dict[str, Any] = field(default_factory=dict)
    task: Annotated[str, Length(1, 200)] = SINGLE_LABEL
    task_args: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    compiled: dict[str, Any] | None = None
    format_version: Annotated[int, Bounds(1, FORMAT_VERSION)] = FORMAT_VERSION

    def __post_init__(self) -> None:
        check(self)
        self.build_task()
        for key, value in (self.compiled or {}).items():
            if key in COMPILED:
                fit(value, COMPILED[key], f"compiled.{key}")

    def build_task(self) -> Task:
        """What is asked of an image."""
        return find_task(self.task, self.classes, self.task_args)

    def to_json(self) -> dict[str, Any]:
        """The content of `config.json`, as plain values."""
        task_args = {"task_args": self.task_args} if self.task_args else {}
        compiled = {} if self.compiled is None else {"compiled": self.compiled}
        return {
            "format_version": self.format_version,
            "model": self.model,
            "model_args": self.model_args,
            "classes": list(self.classes),
            "task": self.task,
            **task_args,
            "preprocess": self.preprocess.to_json(),
            "training": self.training,
            **compiled,
        }

    @classmethod
    def from_json(cls, values: Any) -> "BundleConfig":
        """Read what `to_json` gave. Raises DepthwiseError for what is missing, malformed or newer than this code."""
        if not isinstance(values, dict):
            raise DepthwiseError(
                "this is no JSON object, and a bundle's config is one: write the bundle anew"
            )
        version = values.get("format_version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise DepthwiseError(
                f"format_version is {shown(version)} and must be a whole number from 1 up: write the bundle anew"
            )
        if version > FORMAT_VERSION:
            raise DepthwiseError(
                f"format_version {shown(version)} is newer than this depthwise, which reads {FORMAT_VERSION}: update it"
            )
        classes = _field(values, "classes", list)
        model_args = _field(values, "model_args", dict)
        backbone = model_args.get("num_classes") == 0
        if bool(classes) == backbone or not all(isinstance(name, str) for name in classes):
            raise DepthwiseError(
                "the field 'classes' must be a list of at least one name, and empty for a backbone: write the "
                "bundle anew"
            )
        return cls(
            model=_field(values, "model", str),
            classes=tuple(classes),
            preprocess=_preprocess(_field(values, "preprocess", dict)),
            model_args=model_args,
            task=_field(values, "task", str),
            task_args=_field(values, "task_args", dict) if "task_args" in values else {},
            training=_field(values, "training", dict),
            compiled=_field(values, "compiled", dict) if "compiled" in values else None,
            format_version=version,
        )


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle as read from the folder `path`: its config and its weights by their name in the network.

    roundings: of one that is compiled in int8, see infer/quantize.py; else None.
    """

    config: BundleConfig
    weights: dict[str, Tensor]
    path: Path
    roundings: dict[str, Tensor] | None = None


def write_bundle(
    path: str | os.PathLike[str],
    config: BundleConfig,
    weights: Mapping[str, Tensor],
    raw: Mapping[str, Tensor] | None = None,
    *,
    roundings: Mapping[str, Tensor] | None = None,
    examples_of: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write the bundle folder `path`: completely or not at all, whenever the process is killed.

    examples_of: the bundle whose example pictures this one has, too; it may be the one that is replaced.

    An existing bundle stays readable until the new one is complete, and is replaced only with `overwrite`;
    anything else that exists under the name is left alone.

    Raises:
        DepthwiseError: `path` exists and may not be replaced, or cannot be written.
        OSError: no space is left (see `disk_full`), with `path` as its name.
    """
    path = Path(path).resolve()
    files = {WEIGHTS: weights} | ({} if raw is None else {RAW_WEIGHTS: raw})
    files |= {} if roundings is None else {ROUNDINGS: roundings}
    try:
        with written_folder(path) as partial:
            _restore_previous(path)
            _refuse_existing(path, overwrite=overwrite)
            digests = {name: _write(partial / name, _pack(tensors)) for name, tensors in files.items()}
            if examples_of is not None:
                _copy_examples(examples_of, partial)
            values = {**config.to_json(), DIGESTS: digests}
            _write(partial / CONFIG, (json.dumps(values, indent=2) + "\n").encode())
            _replace(path, partial)
    except OSError as error:
        raise named(error, path) from error


@contextmanager
def kept_free(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[None]:
    """Nobody else writes the bundle `path` during this `with`: for long work that ends in `write_bundle`.

    Raises, before the work, what `write_bundle` would after it.
    """
    path = Path(path).resolve()
    with ExitStack() as stack:
        try:
            stack.enter_context(reserved(path))
            _restore_previous(path)
        except OSError as error:
            raise named(error, path) from error
        _refuse_existing(path, overwrite=overwrite)
        yield


def read_bundle(path: str | os.PathLike[str], *, raw: bool = False) -> Bundle:
    """Read the bundle folder `path`, or that of the run directory `path`; `raw` takes the unaveraged weights.

    Raises DepthwiseError, naming the file, for whatever is missing, broken or made by a newer version.
    """
    folder = find_bundle(path)
    try:
        values = parse_json(read_regular(folder / CONFIG))
        config, digests = BundleConfig.from_json(values), _digests(values)
    except DepthwiseError as error:
        raise DepthwiseError(f"{folder / CONFIG}: {error}") from None
    except ValueError as error:
        raise DepthwiseError(f"{folder / CONFIG} is not JSON ({error}): write the bundle anew") from None
    except OSError as error:
        raise DepthwiseError(f"{folder / CONFIG} cannot be read: {error.strerror}") from None
    file = folder / (RAW_WEIGHTS if raw else WEIGHTS)
    weights = _read_weights(file, digests)
    for name, tensor in weights.items():
        if fault := weight_fault(name, tensor):
            raise DepthwiseError(
                f"{file}: {name} {fault}: copy the bundle again, or train anew with a lower learning rate"
            )
    in_bytes = config.compiled is not None and config.compiled.get("precision") == "int8"
    return Bundle(config, weights, folder, _read_weights(folder / ROUNDINGS, digests) if in_bytes else None)


def _restore_previous(path: Path) -> None:
    """Give the bundle its name back that a process took from it which was killed before its successor had it."""
    if not os.path.lexists(path) and (previous(path) / CONFIG).is_file():
        previous(path).rename(path)


def is_replaceable(path: Path) -> bool:
    """Whether `write_bundle` would overwrite what is at `path`: a bundle, or nothing."""
    return not os.path.lexists(path) or (path / CONFIG).is_file()


def _refuse_existing(path: Path, *, overwrite: bool) -> None:
    if is_replaceable(path) if overwrite else not os.path.lexists(path):
        return
    if overwrite:
        raise DepthwiseError(
            f"{path} is not a bundle and is not overwritten: choose another name or remove it"
        )
    raise DepthwiseError(
        f"{path} exists and is not overwritten: choose another name, or replace it with --force"
    )


def _replace(path: Path, new: Path) -> None:
    # A folder cannot be renamed onto another. `find_bundle` knows the name the old one has in between.
    if path.exists():
        shutil.rmtree(previous(path), ignore_errors=True)
        path.rename(previous(path))
    new.rename(path)
    shutil.rmtree(previous(path), ignore_errors=True)


def _write(path: Path, content: bytes) -> str:
    """Write the file and return the digest of its content."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


def _copy_examples(bundle: Path, to: Path) -> None:
    for file in example_files(bundle):
        place = to / file.relative_to(bundle)
        place.parent.mkdir(parents=True, exist_ok=True)
        _write(place, read_regular(file))


def _pack(weights: Mapping[str, Tensor]) -> bytes:
    # safetensors wants each tensor dense and in memory of its own. Its save_file would let nobody else read the file.
    dense = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    return safetensors.torch.save(dense, metadata={"format": "pt"})


def _read_weights(path: Path, digests: Mapping[str, str]) -> dict[str, Tensor]:
    if not path.is_file():
        raise DepthwiseError(f"{path} is missing: the bundle is incomplete, copy it again or write it anew")
    try:
        # Reading it once brings it into memory, from where the tensors come.
        if path.name in digests and digests[path.name] != digest(path):
            raise DepthwiseError(
                f"{path} is damaged (its SHA-256 is not the one in {CONFIG}): copy it again or write it anew, or, if "
                f"it was changed on purpose, remove {DIGESTS!r} from {path.with_name(CONFIG)}"
            )
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise DepthwiseError(f"{path} is damaged ({error}): copy it again or write it anew") from None


def weight_fault(name: str, tensor: Tensor) -> str | None:
    """What no network can compute with in its tensor `name`, for a sentence; None if it can."""
    if tensor.dtype not in DTYPES:
        return f"is {str(tensor.dtype).removeprefix('torch.')}, in which no network here computes"
    # As float32, which the network computes in: larger numbers are infinite there.
    if not (tensor.float() if tensor.is_floating_point() else tensor).isfinite().all():
        return "is not finite"
    if name.rpartition(".")[2] in ("running_var", "num_batches_tracked") and (tensor < 0).any():
        return f"goes down to {float(tensor.min()):g} and must be at least 0"
    return None


def digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(values: dict[str, Any]) -> dict[str, str]:
    """What is said of the files' content; nothing in a bundle that is older, or somebody else's."""
    digests = _field(values, DIGESTS, dict) if DIGESTS in values else {}
    if not all(isinstance(value, str) for value in digests.values()):
        raise DepthwiseError(
            f"the field {DIGESTS!r} must hold strings: write the bundle anew, or remove the field"
        )
    return digests


def _field(values: dict[str, Any], name: str, kind: type[T]) -> T:
    if name not in values:
        raise DepthwiseError(f"the field {name!r} is missing: write the bundle anew")
    value = values[name]
    if not isinstance(value, kind):
        raise DepthwiseError(f"the field {name!r} must be a JSON {_JSON_KINDS[kind]}: write the bundle anew")
    return value


_JSON_KINDS: dict[type, str] = {str: "string", list: "array", dict: "object"}


def _preprocess(values: dict[str, Any]) -> Preprocess:
    try:
        return Preprocess.from_json(values)
    except (DepthwiseError, KeyError, TypeError, ValueError) as error:
        raise DepthwiseError(
            f"the field 'preprocess' is malformed ({error}): write the bundle anew"
        ) from None
