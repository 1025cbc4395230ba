"""Xception is ahead of Inception V3 all the way through training (Chollet 2017, Figures 6, 7 and 8).

The figures draw accuracy (and MAP@100 on JFT) against gradient steps. Here they are drawn against seconds of training
and multiply-adds spent, too: a network that learns more in a step may have had the dearer step.
"""

from dataclasses import replace

from depthwise.comparison.claims import Better
from depthwise.comparison.experiment import Arm, Curves, Dots, Experiment
from depthwise.comparison.outcome import Metric, Outcome
from depthwise.comparison.setting import Setting

XCEPTION, INCEPTION = "Xception", "Inception V3"
FINER = 2  # evaluations for each of the scale's


def training_profiles(setting: Setting) -> Experiment:
    """Both networks at equal parameters, evaluated often."""
    base = replace(setting.recipe, eval_every=setting.recipe.eval_every / FINER)
    metric = setting.metric
    budget = setting.cost(base)["parameters"]
    other = setting.matched(setting.network("inception_v3", base), "parameters", budget)

    def on_the_way(outcome: Outcome) -> float:
        values = [
            line[metric.key] for line in outcome.lines if line["kind"] == "eval" and line["weights"] == "raw"
        ]
        return sum(values) / len(values)

    whole_way = Metric(f"{metric.key}_on_the_way", f"{metric.name}, mean of all evaluations", on_the_way)
    return Experiment(
        question="Is Xception ahead of Inception V3 all the way through training?",
        source="Chollet 2017, Figures 6 to 8",
        arms=(Arm(XCEPTION, base), Arm(INCEPTION, other)),
        matched="parameters",
        claims=(
            Better("Xception is better in the end.", XCEPTION, INCEPTION, metric),
            Better(
                "Xception is better on the way, by the mean of all evaluations.",
                XCEPTION,
                INCEPTION,
                whole_way,
            ),
        ),
        metrics=(metric, whole_way),
        figures=(
            Curves("Against updates", key=metric.key),
            Curves("Against seconds of training", "seconds", key=metric.key),
            Curves("Against multiply-adds spent", "macs", key=metric.key),
            Dots("In the end", metric),
        ),
    )
