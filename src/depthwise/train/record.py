"""What a run's files say, read back: run.json held to its declared shape, metrics.jsonl to the checkpoint's word."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from depthwise.bounds import Bounds, Length, check, fit
from depthwise.data.columns import Columns
from depthwise.data.image import Decoding
from depthwise.errors import DepthwiseError, UsageError, shown
from depthwise.gpu.choice import Choices
from depthwise.tasks import DEFAULT as SINGLE_LABEL
from depthwise.train.budget import Budget
from depthwise.train.recipe import Recipe

FORMAT = 1

T = TypeVar("T")
Count = Annotated[int, Bounds(0, 2**63 - 1)]
Texts = Annotated[tuple[str, ...], Length(0, 10**7)]


@dataclass(frozen=True)
class Resumed:
    """One time that the run went on: by which command, when (ISO 8601), from which step, with what changed."""

    command: Texts
    time: str
    step: Count
    changed: Texts = ()

    def __post_init__(self) -> None:
        check(self, "resumes")


@dataclass(frozen=True)
class _Data:
    spec: str
    name: str
    fingerprint: str
    classes: Texts
    channels: Count
    split_source: str
    counts: dict[str, Any]
    bad: Count
    seed: int | None = None
    nested: bool = False
    ignored: Texts = ()
    decoding: dict[str, Any] | None = None
    columns: dict[str, Any] | None = None
    task: str = SINGLE_LABEL

    def __post_init__(self) -> None:
        check(self, "data")
        Decoding.from_json(self.decoding or {})
        Columns.from_json(self.columns or {})
        for name, counts in self.counts.items():
            fit(counts, Annotated[tuple[Count, ...], Length(0, 10**7)], f"data.counts.{name}")


@dataclass(frozen=True)
class _Cost:
    parameters: Count
    macs: Count
    input_shape: tuple[Count, Count, Count]

    def __post_init__(self) -> None:
        check(self, "cost")


@dataclass(frozen=True)
class _Run:
    """What run.json must hold; what else it holds, a newer version may know."""

    format: int
    recipe: dict[str, Any]
    versions: dict[str, Any]
    data: dict[str, Any]
    cost: dict[str, Any]
    command: Texts
    resumes: tuple[Any, ...] = ()
    budget: dict[str, Any] | None = None
    asynchronous: dict[str, Any] | None = None
    convolutions: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check(self)
        if self.format != FORMAT:
            raise UsageError(f"its format is {self.format}, not {FORMAT}")
        Recipe.from_json(self.recipe)
        for name, version in self.versions.items():
            fit(version, str, f"versions.{name}")
        _shaped(_Data, self.data, "data")
        _shaped(_Cost, self.cost, "cost")
        for resumed in self.resumes:
            _shaped(Resumed, resumed, "resumes")
        if self.budget is not None:
            Budget.from_json(self.budget)
        Choices.from_json(self.convolutions)


@dataclass(frozen=True)
class _Line:
    """A line of metrics.jsonl; what else it holds are numbers that only the curves show."""

    kind: str
    step: Count
    epoch: Annotated[float, Bounds(0, 1e12)]
    samples: Count
    seconds: Annotated[float, Bounds(0, 1e15)]
    split: str = ""
    weights: str = ""

    def __post_init__(self) -> None:
        check(self)


def read_run(path: Path) -> dict[str, Any]:
    """What the run.json `path` says, whole. Raises DepthwiseError, which names it, for all that is not as declared."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        _shaped(_Run, values, "the run")
    except OSError as error:
        _unreadable(path, error.strerror or str(error))
    except (DepthwiseError, ValueError, RecursionError) as error:
        _unreadable(path, str(error))
    result: dict[str, Any] = values
    # In the form of today's version, whichever wrote it.
    return {**result, "recipe": Recipe.from_json(result["recipe"]).to_json()}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that a kill cut off is left out.

    Raises DepthwiseError for one that is damaged.
    """
    text = _read(path)
    *whole, _ = text.split("\n")
    return [_line(path, number, line) for number, line in enumerate(whole, 1)]


def known_lines(path: Path, count: int, digest: str) -> str:
    """The first `count` lines of a metrics.jsonl as they stand, which are those that a checkpoint knows.

    digest: their SHA-256, or "" from an older version. Raises DepthwiseError if they are not all there, or changed.
    """
    *whole, _ = _read(path).split("\n")
    if len(whole) < count:
        raise DepthwiseError(
            f"{path} has {len(whole)} whole lines and its checkpoint knows of {count}: put the file back, or start "
            f"anew with --force"
        )
    for number, line in enumerate(whole[:count], 1):
        _line(path, number, line)
    text = "".join(line + "\n" for line in whole[:count])
    if digest and digest != hashlib.sha256(text.encode()).hexdigest():
        raise DepthwiseError(
            f"{path} is not what the run wrote, by its SHA-256 in the checkpoint: put the file back, or start anew "
            f"with --force"
        )
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, ValueError) as error:
        _unreadable(path, str(error))


def _line(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
        _shaped(_Line, line, "the line")
        for name, value in line.items():
            if not isinstance(value, str | int | float | None) or (
                type(value) is int and abs(value) >= 2**63
            ):
                raise UsageError(f"{name}={shown(value)} must be a number of its kind, a text or null")
    except (DepthwiseError, ValueError, RecursionError) as error:
        raise DepthwiseError(
            f"{path} is damaged in line {number} ({error}): put the file back, or start anew with --force"
        ) from None
    result: dict[str, Any] = line
    return result


def _shaped(kind: type[T], values: Any, name: str) -> T:
    """The dataclass `kind` from what JSON gave; fields that it does not know are passed over."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{name} is {shown(values)} and must be an object")
    known = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    for field_name, default in known.items():
        if field_name not in values and default is MISSING:
            raise UsageError(f"{name} has no {field_name!r}")
    return kind(**{key: value for key, value in values.items() if key in known})


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number that JSON has")


def _unreadable(path: Path, reason: str) -> NoReturn:
    raise DepthwiseError(f"{path} cannot be read ({reason}): put the file back, or start anew with --force")
