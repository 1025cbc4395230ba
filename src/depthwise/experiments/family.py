"""All families against each other, at equal parameters, at equal multiply-adds and at equal measured time.

Papers compare their network with others as those were published, of other sizes and by other recipes. Here one recipe
trains all of them, brought to one budget each time; so this is how their blocks compare, not how each does at its best.
Network in Network has no batch norm: it learns at a tenth of the others' rate, with clipped gradients.
"""

from depthwise.comparison.budgets import MATCHED, at_each, best_at_each
from depthwise.comparison.experiment import Costs, Dots, Experiment, Speed
from depthwise.comparison.setting import Budget, Setting, gentle
from depthwise.train.recipe import Recipe

FAMILIES = {
    "Xception": "xception",
    "MobileNet V1": "mobilenet_v1",
    "MobileNet V2": "mobilenet_v2",
    "Inception V1": "inception_v1",
    "Inception V3": "inception_v3",
    "ResNet-50": "resnet50",
    "ResNeXt-50": "resnext50_32x4d",
    "SE-ResNet-50": "se_resnet50",
    "VGG-16": "vgg16_bn",
    "NIN": "nin",
}
FIRST, WITHOUT_NORM = "Xception", "NIN"
PARTS = 3  # a run has one of them of the scale's images: there are thirty arms


def family(setting: Setting) -> Experiment:
    """Ten families at three budgets, those of the scale's Xception."""
    base, metric = setting.shortened(PARTS), setting.metric

    def brought(name: str, by: Budget, budget: float) -> Recipe:
        if name == FIRST:
            return base
        recipe = setting.matched(setting.network(FAMILIES[name], base), by, budget)
        return gentle(recipe) if name == WITHOUT_NORM else recipe

    arms, notes = at_each(setting, base, [*FAMILIES], brought)
    return Experiment(
        question="Which family is best at equal parameters, at equal multiply-adds, and at equal time?",
        source="the papers of the families",
        arms=arms,
        claims=best_at_each(arms, FIRST, "At {} Xception is the best.", metric),
        metrics=(metric,),
        matched=MATCHED,
        figures=(
            Costs("Against parameters", "parameters", metric),
            Costs("Against multiply-adds", "macs", metric),
            Costs("Against measured time", "milliseconds", metric),
            Dots("Final accuracy", metric),
        ),
        speed=Speed(batch=setting.batch, training=False),
        notes=notes,
    )
