"""The order of the two: "unimportant, in particular because these operations are meant to be used in a stacked setting"
(Chollet 2017, section 2).

An "extreme" Inception module begins with the pointwise convolution (Figure 4), a separable convolution with the
depthwise one. In a stack each follows the other either way. The two differ in parameters where channels grow, so the
second is brought to those of the first.
"""

from depthwise.comparison.claims import Alike
from depthwise.comparison.experiment import Arm, Curves, Dots, Experiment
from depthwise.comparison.setting import Setting

DEPTHWISE, POINTWISE = "depthwise first", "pointwise first"


def order(setting: Setting) -> Experiment:
    """Xception of separable convolutions, and of those that begin with the pointwise half."""
    base, metric = setting.recipe, setting.metric
    budget = setting.cost(base)["parameters"]
    other = setting.matched(setting.variant(base, conv="pointwise-first"), "parameters", budget)
    return Experiment(
        question="Does it matter whether the pointwise or the depthwise convolution comes first?",
        source="Chollet 2017, section 2",
        arms=(Arm(DEPTHWISE, base), Arm(POINTWISE, other)),
        matched="parameters",
        metrics=(metric,),
        claims=(Alike("The order makes no difference.", DEPTHWISE, POINTWISE, 0.005, metric),),
        figures=(Curves("On the way", key=metric.key), Dots("Final accuracy", metric)),
    )
