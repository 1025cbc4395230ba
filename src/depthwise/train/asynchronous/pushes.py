"""The log of an asynchronous run: a line of JSON for every push, from which the run can be done again."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from depthwise.bounds import Bounds, check
from depthwise.errors import DepthwiseError, UsageError, shown
from depthwise.writing import written_whole

FORMAT = 1

Count = Annotated[int, Bounds(0, 2**63 - 1)]
Written = Annotated[int, Bounds(1, 2**63 - 1)]


class Push(NamedTuple):
    """A gradient that a worker brought.

    batch: its place among those of the run, from 0. pulled: how many updates the weights had that it was taken at.
    written: how many they have with it; None: it was dropped. time: since the start; in a simulation, that in which an
    ordinary worker computes a batch is 1.
    """

    worker: int
    batch: int
    pulled: int
    written: int | None
    time: float

    @property
    def staleness(self) -> int:
        """The updates that came between the weights that it was taken at and its own; 0 of one that was dropped."""
        return self.written - 1 - self.pulled if self.written else 0


@dataclass(frozen=True)
class _Line:
    worker: Count
    batch: Count
    pulled: Count
    written: Written | None
    time: Annotated[float, Bounds(0, 1e15)]

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Head:
    """The first line of a log: what the run was.

    needed: gradients in an update. divide: the learning rate of each was divided by its staleness. recipe: as
    `Recipe.to_json` has it. fingerprint: of the data set. apart: each gradient of an update was taken and clipped by
    itself, as by real workers; not in logs of other runs.
    """

    format: int
    needed: Annotated[int, Bounds(1, 4096)]
    divide: bool
    recipe: dict[str, Any]
    fingerprint: str
    apart: bool = False

    def __post_init__(self) -> None:
        check(self)
        if self.format != FORMAT:
            raise UsageError(f"its format is {self.format}, not {FORMAT}")


@dataclass(frozen=True)
class Log:
    """A log as it was read, whose file had this SHA-256."""

    path: Path
    head: Head
    pushes: Sequence[Push]
    sha256: str


def read_log(path: Path) -> Log:
    """The log `path`; a last line that a kill cut off is left out.

    Raises DepthwiseError for one that is absent, damaged, or that no run can have written.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DepthwiseError(
            f"{path} cannot be read ({error.strerror}): name the pushes.jsonl of an asynchronous run"
        ) from None
    *lines, _ = content.decode(errors="replace").split("\n")
    number = 1
    try:
        head = Head(**_object(lines[0] if lines else ""))
        pushes = []
        checking = _Checking(head.needed)
        for line in lines[1:]:
            number += 1
            push = Push(*vars(_Line(**_object(line))).values())
            checking.add(push)
            pushes.append(push)
    except (DepthwiseError, ValueError, TypeError, RecursionError) as error:
        raise DepthwiseError(
            f"{path} is damaged in line {number} ({error}): name the pushes.jsonl of an asynchronous run"
        ) from None
    return Log(path, head, pushes, hashlib.sha256(content).hexdigest())


class _Checking:
    """Whether pushes are those of a run: versions follow each other, and no batch counts twice."""

    def __init__(self, needed: int) -> None:
        self._needed, self._counted = needed, 0
        self._batches: set[int] = set()

    def add(self, push: Push) -> None:
        if push.written is None:
            return
        version = self._counted // self._needed
        if push.written != version + 1 or push.pulled > version:
            raise UsageError(
                f"the update is number {push.written}, of weights with {push.pulled}, after {version} updates"
            )
        if self._needed > 1 and push.pulled < version:
            raise UsageError(f"a gradient of an update of {self._needed} was taken at older weights")
        if push.batch in self._batches:
            raise UsageError(f"batch {push.batch} counts twice")
        self._batches.add(push.batch)
        self._counted += 1


class PushLog:
    """A log as it is written, line by line; `num_lines` and `digest` are what a checkpoint knows of it."""

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self.path = path
        self._head = json.dumps({"format": FORMAT, **head}) + "\n"
        self.num_lines, self._digest = 0, hashlib.sha256()

    @property
    def digest(self) -> str:
        """SHA-256 of the lines, hexadecimal."""
        return self._digest.hexdigest()

    def add(self, pushes: Iterable[Push]) -> None:
        """Write a line for each; the first ones of a run begin the file anew."""
        if not self.num_lines:
            with written_whole(self.path) as file:
                file.write(self._head.encode())
        lines = [json.dumps(push._asdict()) + "\n" for push in pushes]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
        self.num_lines += len(lines)
        self._digest.update("".join(lines).encode())

    def restore(self, num_lines: int, digest: str) -> None:
        """Go back to the first `num_lines` lines, whose SHA-256 is `digest`.

        Raises DepthwiseError if the file has not got them.
        """
        self.num_lines, self._digest = 0, hashlib.sha256()
        if not num_lines:
            return
        head, *lines = _whole_lines(self.path)
        kept = "".join(lines[:num_lines])
        self._digest.update(kept.encode())
        if self.digest != digest:
            raise DepthwiseError(
                f"{self.path} is not what the run wrote, by its SHA-256 in the checkpoint: put the file back, or start "
                f"anew with --force"
            )
        with written_whole(self.path) as file:
            file.write((head + kept).encode())
        self.num_lines = num_lines


def _whole_lines(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DepthwiseError(
            f"{path} cannot be read ({error}): put the file back, or start anew with --force"
        ) from None
    *lines, _ = text.split("\n")
    return (line + "\n" for line in lines or [""])


def _object(line: str) -> dict[str, Any]:
    values = json.loads(line)
    if not isinstance(values, dict):
        raise UsageError(f"it is {shown(values)} and must be an object")
    return values
