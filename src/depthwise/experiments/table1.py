"""Xception beats Inception V3, ResNet-152 and VGG-16 on ImageNet: 0.790 top-1 (Chollet 2017, section 4.5.1, Table 1).

The paper compares networks as published, of 138, 60, 24 and 23 million parameters. At a smaller scale each is as many
times smaller as Xception is there, so that they stand to each other as in the paper. VGG-16 has batch norm here: by one
recipe for all, it does not train without.
"""

from depthwise.comparison.claims import Better
from depthwise.comparison.experiment import Arm, Curves, Dots, Experiment
from depthwise.comparison.outcome import TOP1, TOP5
from depthwise.comparison.setting import Setting
from depthwise.models import CATALOGUE

XCEPTION, INCEPTION, RESNET, VGG = "Xception", "Inception V3", "ResNet-152", "VGG-16"
NETWORKS = {INCEPTION: "inception_v3", RESNET: "resnet152", VGG: "vgg16_bn"}
PARTS = 2  # a run has one of them of the scale's images, for VGG-16 and ResNet-152 are large
PAPER = {
    XCEPTION: {"top1": 0.790, "top5": 0.945},
    INCEPTION: {"top1": 0.782, "top5": 0.941},
    RESNET: {"top1": 0.770, "top5": 0.933},
    VGG: {"top1": 0.715, "top5": 0.901},
}


def table1(setting: Setting) -> Experiment:
    """The four networks, in the proportions of their published sizes."""
    base = setting.shortened(PARTS, evaluations=3)
    recipes = {XCEPTION: base}
    share = setting.cost(base)["parameters"] / CATALOGUE["xception"].parameters
    for name, network in NETWORKS.items():
        recipe = setting.network(network, base)
        if not setting.is_paper:
            recipe = setting.matched(recipe, "parameters", share * CATALOGUE[network].parameters)
        recipes[name] = recipe
    return Experiment(
        question="Is Xception better than Inception V3, ResNet-152 and VGG-16 on images of one label each?",
        source="Chollet 2017, section 4.5.1, Table 1",
        arms=tuple(Arm(name, recipe, paper=PAPER[name]) for name, recipe in recipes.items()),
        claims=(
            Better("Xception is better than Inception V3.", XCEPTION, INCEPTION),
            Better("Inception V3 is better than ResNet-152.", INCEPTION, RESNET),
            Better("ResNet-152 is better than VGG-16.", RESNET, VGG),
        ),
        metrics=(TOP1, TOP5),
        figures=(Dots("Top-1"), Curves("Accuracy on the way")),
        needs="one label",
        notes=("Sizes stand to each other as the published ones, so arms differ in parameters",),
    )
