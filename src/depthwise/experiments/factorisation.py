"""What became of the plain convolution, one idea at a time, each against what it replaced at equal parameters.

Two 3x3 for a 5x5, and a row and a column for a square (Szegedy 2016, section 3); a bottleneck for a 3x3, and 32 groups
in it (He 2016; Xie 2017: "cardinality"); the gate of squeeze-and-excitation (Hu 2018); mlpconv for maxout, and the mean
of maps for fully connected layers (Lin 2014).

Lin's networks have no batch norm: both learn at a tenth of the others' rate, with clipped gradients.
"""

from typing import Any

from depthwise.comparison.claims import Better
from depthwise.comparison.experiment import Arm, Costs, Dots, Experiment
from depthwise.comparison.setting import Setting, gentle

PARTS = 3  # a run has one of them of the scale's images: there are twelve arms, some slow for their size

# Arm: (network, its arguments); each pair of a claim differs in one thing.
CONVOLUTIONS = {
    "3x3": "regular",
    "5x5": "5x5",
    "two 3x3": "3x3-3x3-relu",
    "1x3 and 3x1": "1x3-3x1-relu",
    "bottleneck": "bottleneck-relu",
}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ResNet-50": ("resnet50", {}),
    "ResNet-50 in 32 groups": ("resnext50_32x4d", {}),
    "ResNet-50 with gates": ("se_resnet50", {"stride_in": "3x3", "pool": "symmetric"}),
    "mlpconv": ("nin", {}),
    "maxout": ("nin_maxout", {}),
    "fully connected": ("vgg16_bn", {}),
    "mean of maps": ("vgg16_bn", {"hidden": ()}),
}
WITHOUT_NORM = ("mlpconv", "maxout")
CLAIMS = (
    ("Two 3x3 are better than a 5x5.", "two 3x3", "5x5"),
    ("A row and a column are better than a square.", "1x3 and 3x1", "3x3"),
    ("A bottleneck is better than a 3x3.", "bottleneck", "3x3"),
    ("More groups are better than wider ones.", "ResNet-50 in 32 groups", "ResNet-50"),
    ("Squeeze-and-excitation helps.", "ResNet-50 with gates", "ResNet-50"),
    ("mlpconv is better than maxout.", "mlpconv", "maxout"),
    ("The mean of maps is better than fully connected layers.", "mean of maps", "fully connected"),
)


def factorisation(setting: Setting) -> Experiment:
    """Twelve networks of the scale's number of parameters."""
    base, metric = setting.shortened(PARTS), setting.metric
    budget = setting.cost(base)["parameters"]
    recipes = {name: setting.variant(base, conv=conv) for name, conv in CONVOLUTIONS.items()}
    recipes |= {name: setting.network(network, base, **given) for name, (network, given) in NETWORKS.items()}
    recipes |= {name: gentle(recipes[name]) for name in WITHOUT_NORM}
    return Experiment(
        question="Which of the ideas that led away from the plain convolution help, at equal parameters?",
        source="Szegedy 2016, He 2016, Xie 2017, Hu 2018, Lin 2014",
        arms=tuple(
            Arm(name, setting.matched(recipe, "parameters", budget)) for name, recipe in recipes.items()
        ),
        matched="parameters",
        claims=tuple(Better(text, better, worse, metric) for text, better, worse in CLAIMS),
        metrics=(metric,),
        figures=(Dots("Final accuracy", metric), Costs("Against multiply-adds", "macs", metric)),
    )
