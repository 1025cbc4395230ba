"""Residual connections: "absolutely essential in helping with convergence" (Chollet 2017, section 4.6, Figure 9).

The paper trained Xception without them by the same settings: slower, and worse in the end. It says, too, that a
network after VGG of separable convolutions, without any, beat Inception V3 on JFT at equal parameters: residual
connections help, and are not what separable convolutions are made of. Arms have equal parameters.
"""

from depthwise.comparison.claims import Better
from depthwise.comparison.experiment import Arm, Curves, Dots, Experiment
from depthwise.comparison.setting import Setting

WITH, WITHOUT, VGG, INCEPTION = "residual", "no residual", "separable VGG", "Inception V3"


def residual(setting: Setting) -> Experiment:
    """Xception with and without residual connections, the separable VGG, and Inception V3."""
    base, metric = setting.recipe, setting.metric
    budget = setting.cost(base)["parameters"]
    others = {
        WITHOUT: setting.variant(base, residual=False),
        VGG: setting.network("separable_vgg", base),
        INCEPTION: setting.network("inception_v3", base),
    }
    arms = {WITH: base} | {
        name: setting.matched(recipe, "parameters", budget) for name, recipe in others.items()
    }
    return Experiment(
        question="Do residual connections help Xception to converge, and are they essential to separable convolutions?",
        source="Chollet 2017, section 4.6, Figure 9",
        arms=tuple(Arm(name, recipe) for name, recipe in arms.items()),
        matched="parameters",
        metrics=(metric,),
        claims=(
            Better("Xception is better with residual connections than without.", WITH, WITHOUT, metric),
            Better("Without any, separable convolutions still beat Inception V3.", VGG, INCEPTION, metric),
        ),
        figures=(
            Curves(
                "On the way, with and without residual connections", key=metric.key, arms=(WITH, WITHOUT, VGG)
            ),
            Dots("Final accuracy", metric),
        ),
    )
