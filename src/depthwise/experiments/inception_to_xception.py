"""From an Inception module to a separable convolution in four steps (Chollet 2017, section 1, Figures 1 to 4).

A canonical module (Figure 1) is simplified to towers of one kind (Figure 2), which are one large 1x1 and a spatial
convolution on 3 or 4 segments (Figure 3, equal to Figure 2 to the last bit of arithmetic), and with a segment for each
channel the "extreme" module (Figure 4), which is a separable convolution but for the order. Each stands in the place of
every convolution of the same network, with nothing between its halves, at equal parameters.
"""

from depthwise.comparison.claims import Best, Better
from depthwise.comparison.experiment import Arm, Costs, Curves, Dots, Experiment
from depthwise.comparison.setting import Setting

MODULE, TOWERS, EXTREME, SEPARABLE = (
    "Figure 1: module",
    "Figures 2, 3: 4 towers",
    "Figure 4: extreme",
    "separable convolution",
)
CONVOLUTIONS = {MODULE: "inception", TOWERS: "towers-4", EXTREME: "pointwise-first"}


def inception_to_xception(setting: Setting) -> Experiment:
    """The four in one network."""
    base, metric = setting.recipe, setting.metric
    budget = setting.cost(base)["parameters"]
    arms = {
        name: setting.matched(setting.variant(base, conv=conv), "parameters", budget)
        for name, conv in CONVOLUTIONS.items()
    }
    names = (*arms, SEPARABLE)
    return Experiment(
        question="What does each step from an Inception module to a separable convolution bring?",
        source="Chollet 2017, section 1, Figures 1 to 4",
        arms=(Arm(SEPARABLE, base), *(Arm(name, recipe) for name, recipe in arms.items())),
        matched="parameters",
        claims=(
            Better("A segment for each channel is better than 4 towers.", EXTREME, TOWERS, metric),
            Better("Towers of one kind are better than the canonical module.", TOWERS, MODULE, metric),
            Best("The end of the road is its best point.", names, (SEPARABLE, EXTREME), metric),
        ),
        metrics=(metric,),
        figures=(
            Dots("Final accuracy", metric),
            Curves("On the way", key=metric.key),
            Costs("Against multiply-adds", "macs", metric),
        ),
    )
