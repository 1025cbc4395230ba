"""All families against each other, at equal parameters, at equal multiply-adds and at equal measured time.

Papers compare their network with others as those were published, of other sizes and by other recipes. Here one recipe
trains all of them, brought to one budget each time; so this is how their blocks compare, not how each does at its best.
"""

from dataclasses import replace

from depthwise.comparison.claims import Best
from depthwise.comparison.experiment import Arm, Costs, Dots, Experiment, Speed
from depthwise.comparison.setting import Budget, Setting
from depthwise.experiments.spectrum import BATCH, BUDGETS, measured_time
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
FIRST = "Xception"
SHARE = 2  # of the scale's images: there are thirty arms


def family(setting: Setting) -> Experiment:
    """Ten families at three budgets, those of the scale's Xception."""
    base, metric = setting.recipe, setting.metric
    if not setting.is_paper:
        if base.samples:
            base = replace(base, samples=base.samples // SHARE)
        else:
            base = replace(base, epochs=base.epochs / SHARE)
    arms = []
    for by, group in BUDGETS.items():
        budget = measured_time(setting, base) if by == "milliseconds" else setting.cost(base)[by]
        for name, network in FAMILIES.items():
            recipe = base
            if name != FIRST:
                recipe = _brought(setting, setting.network(network, base), by, budget)
            arms.append(Arm(f"{name}, {group}", recipe, group))
    lines = {group: tuple(arm.name for arm in arms if arm.group == group) for group in BUDGETS.values()}
    return Experiment(
        question="Which family is best at equal parameters, at equal multiply-adds, and at equal time?",
        source="the papers of the families",
        arms=tuple(arms),
        claims=tuple(
            Best(f"At {group} Xception is the best.", names, (f"{FIRST}, {group}",), metric)
            for group, names in lines.items()
        ),
        metrics=(metric,),
        matched={group: by for by, group in BUDGETS.items()},
        figures=(
            Costs("Against parameters", "parameters", metric),
            Costs("Against multiply-adds", "macs", metric),
            Costs("Against measured time", "milliseconds", metric),
            Dots("Final accuracy", metric),
        ),
        speed=Speed(batch=BATCH, training=False),
    )


def _brought(setting: Setting, recipe: Recipe, by: Budget, budget: float) -> Recipe:
    if by == "milliseconds":
        return setting.in_time(recipe, budget, BATCH)
    return setting.matched(recipe, by, budget)
