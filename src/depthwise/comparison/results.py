"""What an experiment has come to: the numbers of each arm, seed by seed, and what its claims are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

from depthwise.comparison.claims import Claim, Compared, Finding
from depthwise.comparison.experiment import Arm, Experiment
from depthwise.comparison.outcome import Metric, Outcome
from depthwise.comparison.plan import Asked
from depthwise.comparison.setting import CLOSE
from depthwise.comparison.speed import Taken
from depthwise.train.recipe import differences


@dataclass(frozen=True, eq=False)
class Results:
    """The outcomes of an experiment, whole or so far, and times that were taken."""

    experiment: Experiment
    asked: Asked
    outcomes: Sequence[Outcome]
    costs: Mapping[str, Mapping[str, int]]
    speed: Taken | None = None
    planned: int = 0
    of: dict[str, list[Outcome]] = field(init=False)

    def __post_init__(self) -> None:
        by_arm: dict[str, list[Outcome]] = {arm.name: [] for arm in self.experiment.arms}
        for outcome in self.outcomes:
            by_arm[outcome.arm].append(outcome)
        object.__setattr__(self, "of", by_arm)

    def scores(self, metric: Metric, arms: Sequence[str] = ()) -> dict[str, list[float]]:
        """The metric of each of `arms`, all unless given, of the seeds that all of them have finished."""
        names = arms or [*self.of]
        common = set.intersection(*({outcome.seed for outcome in self.of[name]} for name in names))
        return {
            name: [
                metric.of(outcome)
                for outcome in sorted(self.of[name], key=lambda o: o.seed)
                if outcome.seed in common
            ]
            for name in names
        }

    def findings(self) -> list[Finding]:
        """What the claims are worth."""
        return [self._judged(claim) for claim in self.experiment.claims]

    def _judged(self, claim: Claim) -> Finding:
        scores = self.scores(claim.metric, claim.arms)
        if all(scores.values()):
            return claim.judged(scores)
        missing = [name for name in claim.arms if not self.of[name]]
        none = f"no run of {', '.join(missing)}" if missing else "no seed of all its arms"
        return Finding(claim.text, claim.rule, "cannot be told", f"{none} has finished", claim.metric.key)

    def cost(self, arm: Arm) -> Mapping[str, int]:
        return self.costs[arm.name]

    def unmatched(self) -> list[str]:
        """Sentences on arms that lie more than 1% from the first of their group in what they are to have in common."""
        firsts: dict[str, Arm] = {}
        found = []
        for arm in self.experiment.arms:
            first = firsts.setdefault(arm.group, arm)
            by = self.experiment.budget_of(arm)
            if by not in ("parameters", "macs"):
                continue
            off = self.cost(arm)[by] / self.cost(first)[by] - 1
            if abs(off) > CLOSE:
                found.append(
                    f"{arm.name} has {abs(off):.1%} {'fewer' if off < 0 else 'more'} "
                    f"{'multiply-adds' if by == 'macs' else by} than {first.name}: no width comes closer"
                )
        return found

    def to_json(self) -> dict[str, Any]:
        """All of it, as plain values."""
        asked = asdict(self.asked)
        return {
            "experiment": self.asked.name,
            "scale": self.asked.scale,
            "question": self.experiment.question,
            "source": self.experiment.source,
            "data": {k: asked[k] for k in ("data", "fingerprint", "channels", "traits")},
            "seeds": self.asked.seeds,
            "runs": {"finished": len(self.outcomes), "planned": self.planned},
            "environment": dict(self.asked.environment),
            "matched": sorted({self.experiment.budget_of(arm) for arm in self.experiment.arms} - {""}),
            "unmatched": self.unmatched(),
            "recipe": self.experiment.arms[0].recipe.to_json(),
            "arms": [self._arm(arm) for arm in self.experiment.arms],
            "findings": [_finding(finding) for finding in self.findings()],
            "speed": self.speed and self.speed.to_json(),
            "notes": list(self.experiment.notes),
        }

    def _arm(self, arm: Arm) -> dict[str, Any]:
        outcomes = sorted(self.of[arm.name], key=lambda outcome: outcome.seed)
        first = self.experiment.arms[0].recipe.to_json()
        values = {
            metric.key: {outcome.seed: metric.of(outcome) for outcome in outcomes}
            for metric in self.experiment.metrics
        }
        return {
            "name": arm.name,
            "group": arm.group,
            "place": arm.place,
            "note": arm.note,
            "model": arm.recipe.model,
            "model_args": dict(arm.recipe.to_json()["model_args"]),
            "differs": [
                *differences(first, arm.recipe.to_json()),
                *([f"simulate: {arm.simulate.words}"] if arm.simulate else []),
            ],
            **self.cost(arm),
            "paper": dict(arm.paper),
            "scores": {
                key: {"by_seed": list(each.values()), "mean": fmean(each.values()), "sd": _spread(each)}
                for key, each in values.items()
                if each
            },
            "seeds": [outcome.seed for outcome in outcomes],
            "seconds": [round(outcome.seconds, 1) for outcome in outcomes],
            "runs": [outcome.out.name for outcome in outcomes],
        }


def _spread(values: Mapping[int, float]) -> float | None:
    return stdev(values.values()) if len(values) > 1 else None


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "claim": finding.claim,
        "rule": finding.rule,
        "verdict": finding.verdict,
        "sentence": finding.sentence,
        "metric": finding.metric,
        "compared": [_compared(each) for each in finding.compared],
        **({"details": dict(finding.details)} if finding.details else {}),
    }


def _compared(each: Compared) -> dict[str, Any]:
    paired = each.paired
    several = len(paired.differences) > 1
    return {
        "one": each.one,
        "other": each.other,
        "differences": list(paired.differences),
        "mean": paired.mean,
        "interval": list(paired.interval) if several else None,
        "bootstrap": list(paired.bootstrap) if several else None,
        "probability": paired.probability if several else None,
    }
