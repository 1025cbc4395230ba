"""What finished runs came to, read from their directories, and what is measured of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthwise.errors import DepthwiseError
from depthwise.evaluate.curves import records
from depthwise.train.files import RunFiles
from depthwise.train.record import read_lines, read_run


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished run of an arm: evaluation.json, the lines of metrics.jsonl, and what run.json says of it."""

    out: Path
    arm: str
    seed: int
    evaluation: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    run: Mapping[str, Any]

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return int(self.run["cost"]["macs"])

    @property
    def seconds(self) -> float:
        """How long the training took, evaluations included."""
        return float(self.lines[-1]["seconds"])


@dataclass(frozen=True)
class Metric:
    """A number of a run. scale: what it is shown in, times; unit: of differences, so shown. resolution: of itself."""

    key: str
    name: str
    of: Callable[[Outcome], float]
    scale: float = 100.0
    unit: str = "points"
    higher_is_better: bool = True
    resolution: float = 1e-4

    def shown(self, value: float) -> str:
        """As in a table: 91.23% or 412."""
        return f"{value:.2%}" if self.scale == 100 else f"{value:,.4g}"

    def difference(self, value: float) -> str:
        """With its sign and unit: +0.42 points."""
        return f"{self.scale * value:+.2f} {self.unit}" if self.scale == 100 else f"{value:+,.4g} {self.unit}"


def evaluated(key: str, name: str) -> Metric:
    """A number of evaluation.json, a fraction."""
    return Metric(key, name, lambda outcome: float(outcome.evaluation[key]))


TOP1 = evaluated("top1", "top-1")
TOP5 = evaluated("top5", "top-5")
MAP_AT_100 = evaluated("map_at_100", "MAP@100")
MAP_OF_FOUND = evaluated("map_of_found", "MAP@100 over hits")


def read_outcome(out: Path, arm: str, seed: int) -> Outcome:
    """The finished run in `out`. Raises DepthwiseError for what is missing or damaged."""
    files = RunFiles(out)
    try:
        evaluation = json.loads(files.evaluation.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DepthwiseError(
            f"{files.evaluation} cannot be read ({error}): remove {out}, and run the experiment again"
        ) from None
    lines = list(records(read_lines(files.metrics)))
    return Outcome(out, arm, seed, evaluation, lines, read_run(files.run))
