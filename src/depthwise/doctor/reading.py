"""A run's files as a Case, and what comes of it for who asks afterwards."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from depthwise.doctor.case import Case
from depthwise.doctor.causes import Finding, diagnose
from depthwise.errors import DepthwiseError
from depthwise.tasks import find_task
from depthwise.train.files import RunFiles
from depthwise.train.record import read_lines, read_run
from depthwise.words import number_of


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a run, the likeliest first, and what that is based on."""

    case: Case
    findings: tuple[Finding, ...]

    @property
    def basis(self) -> str:
        """What was looked at."""
        case = self.case
        seen = number_of(len(case.readings), "look at the network", "looks at the network")
        measured = number_of(len(case.scores), "evaluation")
        return f"{case.step:,} of {case.total_steps:,} updates, {seen}, {measured}"

    @property
    def health(self) -> str:
        """How a run stands in which no cause was found."""
        case = self.case
        if not case.trained:
            return "nothing to judge by: no update is done yet"
        scores = [score for _, score in case.scores]
        images = case.num_images or 1
        if not case.settled:
            when = "too short" if case.ended else "too early"
            verdict = f"{when} to say whether it learns; what can be seen at the start is in order"
        elif scores and case.task == "single-label" and not case.above_chance(max(scores), images):
            verdict = "no cause was found, yet evaluation is no better than guessing"
        else:
            verdict = "nothing seems to be wrong"
        guessing = f", where guessing gives {case.guess:.3f}" if case.guess else ""
        reached = f"; at best {max(scores):.2%} {case.headline.name} in evaluation" if scores else ""
        without = "" if case.readings else "; its version kept no signals, so only losses were looked at"
        loss = f"the loss went from {case.trained[0]['loss']:.3f} to {case.trained[-1]['loss']:.3f}"
        return f"{verdict}: {loss}{guessing}{reached}{without}"

    def to_json(self) -> dict[str, Any]:
        """As `depthwise doctor --json` has it."""
        return {
            "run": str(self.case.root),
            "step": self.case.step,
            "total_steps": self.case.total_steps,
            "looks": len(self.case.readings),
            "evaluations": len(self.case.scores),
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine_run(root: Path) -> Diagnosis:
    """What is wrong with the run in `root`, by its files alone.

    Raises DepthwiseError if there is none, or one of its files is damaged.
    """
    files = RunFiles(root)
    if not files.run.is_file():
        raise DepthwiseError(
            f"{root} holds no run, there is no {files.run.name} in it: name the directory of one"
        )
    run = read_run(files.run)
    data = run["data"]
    task = find_task(data.get("task", "single-label"), data["classes"])
    case = Case(
        root=root,
        recipe=run["recipe"],
        counts=data["counts"]["train"],
        task=task.name,
        headline=task.headline,
        lines=read_lines(files.metrics),
    )
    return Diagnosis(case, tuple(diagnose(case)))
