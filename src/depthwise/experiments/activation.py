"""Between depthwise and pointwise, nothing is better than ReLU or ELU (Chollet 2017, section 4.7, Figure 10).

Szegedy et al. found an activation to help inside Inception modules; the paper found the opposite for separable
convolutions, and guesses that it is lost in the shallow depth of one channel. Nothing else differs, and no arm has
other parameters.
"""

from depthwise.comparison.claims import Better
from depthwise.comparison.experiment import Arm, Curves, Dots, Experiment
from depthwise.comparison.setting import Setting

NONE, RELU, ELU = "none", "ReLU", "ELU"


def activation(setting: Setting) -> Experiment:
    """Xception with no, ReLU's and ELU's activation between the two halves of its convolutions."""
    base, metric = setting.recipe, setting.metric
    return Experiment(
        question="Does an activation between the depthwise and the pointwise convolution help?",
        source="Chollet 2017, section 4.7, Figure 10",
        arms=(
            Arm(NONE, base),
            Arm(RELU, setting.variant(base, conv="separable-relu")),
            Arm(ELU, setting.variant(base, conv="separable-elu")),
        ),
        matched="parameters",
        metrics=(metric,),
        claims=(
            Better("None is better than ReLU.", NONE, RELU, metric),
            Better("None is better than ELU.", NONE, ELU, metric),
            Better("ELU is better than ReLU.", ELU, RELU, metric),
        ),
        figures=(Curves("On the way", key=metric.key), Dots("Final accuracy", metric)),
    )
