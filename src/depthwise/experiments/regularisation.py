"""What keeps a network from learning by heart: weight decay, dropout, label smoothing, an auxiliary tower, averaging.

The paper says that Inception V3's weight decay of 4e-5 was "quite suboptimal" for Xception, and takes 1e-5; dropout of
0.5 before the classifier on ImageNet; no auxiliary tower; Polyak averaging throughout (Chollet 2017, sections 4.3 and
4.4). Label smoothing is Inception V3's (Szegedy 2016, section 7). A short run learns little by heart.
"""

from dataclasses import replace

from depthwise.comparison.claims import Better
from depthwise.comparison.experiment import Arm, Dots, Experiment
from depthwise.comparison.setting import Setting

AS_IS = "L2 1e-5"
STRONG, OWN = "L2 4e-5", "L2 of the scale's recipe"
DROPOUT, NO_SMOOTHING, NO_AVERAGE = "dropout 0.5", "no label smoothing", "no averaging"
INCEPTION, TOWER = "Inception V3", "Inception V3 with its tower"


def regularisation(setting: Setting) -> Experiment:
    """Each of them switched on or off in Xception, the tower in Inception V3."""
    own, metric = setting.recipe, setting.metric
    base = replace(own, optimizer=replace(own.optimizer, weight_decay=1e-5), label_smoothing=0.1)
    base = setting.variant(base, dropout=0.0)
    inception = setting.matched(
        setting.network("inception_v3", base), "parameters", setting.cost(base)["parameters"]
    )
    recipes = {
        AS_IS: base,
        STRONG: replace(base, optimizer=replace(base.optimizer, weight_decay=4e-5)),
        OWN: replace(base, optimizer=own.optimizer),
        DROPOUT: setting.variant(base, dropout=0.5),
        NO_SMOOTHING: replace(base, label_smoothing=0.0),
        NO_AVERAGE: replace(base, averaging=0.0),
        INCEPTION: inception,
        TOWER: setting.variant(inception, aux=True),
    }
    if recipes[OWN] == base:
        del recipes[OWN]
    return Experiment(
        question="Which regularisation helps, and is a weight decay of 1e-5 better for Xception than 4e-5?",
        source="Chollet 2017, sections 4.3 and 4.4; Szegedy 2016, sections 4 and 7",
        arms=tuple(Arm(name, recipe) for name, recipe in recipes.items()),
        claims=(
            Better("A weight decay of 1e-5 is better than 4e-5.", AS_IS, STRONG, metric),
            Better("Dropout helps.", DROPOUT, AS_IS, metric),
            Better("Label smoothing helps.", AS_IS, NO_SMOOTHING, metric),
            Better("Averaging helps.", AS_IS, NO_AVERAGE, metric),
            Better("The auxiliary tower helps.", TOWER, INCEPTION, metric),
        ),
        metrics=(metric,),
        figures=(Dots("Final accuracy", metric),),
        needs="one label",
        notes=("The tower's own parameters are used in training alone",),
    )
