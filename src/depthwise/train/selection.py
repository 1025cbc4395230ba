"""What a run's evaluations decide, if the recipe lets them: when it ends, and which weights the bundle gets.

The validation part alone has a say in it, never the test part. The score is the task's headline number there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from depthwise.data.dataset import Dataset
from depthwise.errors import UsageError
from depthwise.evaluate.meters import Headline
from depthwise.train.recipe import Recipe
from depthwise.words import number_of


@dataclass(frozen=True)
class Best:
    """The best score yet, 0 to 1: that of the `weights` ("raw" or "averaged") after update `step`."""

    step: int
    weights: str
    score: float

    def to_json(self, key: str) -> dict[str, Any]:
        """As files have it, the score under its `key` in the evaluation's numbers."""
        return {"step": self.step, "weights": self.weights, key: self.score}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Best":
        """Read what `to_json` gave. Raises ValueError if something else is there."""
        (score,) = (value for name, value in values.items() if name not in ("step", "weights"))
        return Best(values["step"], values["weights"], score)


@dataclass(frozen=True)
class Scores:
    """What the evaluations came to: the best one, and how many have come since without a better."""

    best: Best | None = None
    stale: int = 0

    def after(self, step: int, scores: dict[str, float], recipe: Recipe) -> "Scores":
        """With the evaluation at `step`, where the kinds of weights reached `scores`. Of equals the earlier stays."""
        kind = max(candidates(recipe), key=lambda kind: scores[kind])
        if self.best is not None and scores[kind] <= self.best.score:
            return Scores(self.best, self.stale + 1)
        return Scores(Best(step, kind, scores[kind]))


def candidates(recipe: Recipe) -> tuple[str, ...]:
    """The kinds of weights that the bundle may get; of two that score alike, the first does."""
    if not recipe.averaging or recipe.keep == "last":
        return ("raw",)
    return ("averaged", "raw") if recipe.keep == "best" else ("averaged",)


def check_selection(recipe: Recipe, dataset: Dataset) -> None:
    """Raise UsageError where the recipe selects by validation and `dataset` has no part for that but the test part."""
    asked = [f"early_stop={recipe.early_stop}"] * (recipe.early_stop > 0) + ["keep=best"] * (
        recipe.keep == "best"
    )
    if asked and "val" not in dataset.splits:
        raise UsageError(
            f"{' and '.join(asked)} would select by the test part, whose figure would then say too much, for "
            f"{dataset.name} has no val part: add one (train/, val/ and test/ folders), or leave "
            f"{' and '.join(asked)} out"
        )


def is_enough(recipe: Recipe, scores: Scores) -> bool:
    """Whether the evaluations say that more updates would not help."""
    return 0 < recipe.early_stop <= scores.stale


def ended_early(recipe: Recipe, headline: Headline, scores: Scores, step: int, total_steps: int) -> str:
    """Why the run ended at `step`, if the evaluations ended it before its last step, else ""."""
    if scores.best is None or step >= total_steps or not is_enough(recipe, scores):
        return ""
    count = number_of(scores.stale, "evaluation")
    return (
        f"Training ended at step {step:,} of {total_steps:,}: {count} in a row found no better {headline.name} on "
        f"the val part than {scores.best.score:.2%} at step {scores.best.step:,}."
    )


def told(
    recipe: Recipe, headline: Headline, scores: Scores, *, step: int, total_steps: int, split: str
) -> str:
    """What was selected, for the report, where the final figure is measured on the part `split`; "" if nothing was."""
    best, sentences = scores.best, [ended_early(recipe, headline, scores, step, total_steps)]
    if recipe.keep == "best" and best:
        sentences.append(
            f"The weights are the {best.weights} ones of step {best.step:,}, the best on the val part."
        )
    if not any(sentences):
        return ""
    if split == "val":
        sentences.append(
            "This was selected by the val part, so the figure, measured on it too, is optimistic."
        )
    else:
        sentences.append(f"The {split} part had no say in it.")
    return " ".join(filter(None, sentences))
