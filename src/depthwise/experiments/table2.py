"""On JFT, many labels an image, Xception beats Inception V3 by more: 6.70 against 6.36 MAP@100 without, and 6.78
against 6.50 with two fully connected layers of 4,096 (Chollet 2017, section 4.5.1, Table 2).

JFT is Google's own, and FastEval14k's weights and formula are not published: the paper's numbers stand beside ours as
they are, and their scale is no claim of ours.
"""

from depthwise.comparison.claims import Better
from depthwise.comparison.experiment import Arm, Curves, Dots, Experiment
from depthwise.comparison.outcome import MAP_AT_100, MAP_OF_FOUND
from depthwise.comparison.setting import Setting
from depthwise.recipes import xception_jft

XCEPTION, INCEPTION = "Xception", "Inception V3"
XCEPTION_FC, INCEPTION_FC = "Xception, two FC", "Inception V3, two FC"
WIDTHS = (4096, 4096)
PARTS = 3  # a run has one of them of the scale's images, for most sets of many labels have larger ones


def table2(setting: Setting) -> Experiment:
    """Both networks, with and without hidden layers before the classifier; each pair of equal parameters."""
    base = xception_jft(setting.traits) if setting.is_paper else setting.shortened(PARTS, evaluations=3)
    without = {**base.model_args, "fully_connected": ()}
    recipes = {
        XCEPTION: setting.variant(base, **without),
        INCEPTION: setting.network("inception_v3", base),
        XCEPTION_FC: setting.variant(base, fully_connected=WIDTHS),
        INCEPTION_FC: setting.network("inception_v3", base, fully_connected=WIDTHS),
    }
    if not setting.is_paper:
        for own, other in ((XCEPTION, INCEPTION), (XCEPTION_FC, INCEPTION_FC)):
            budget = setting.cost(recipes[own])["parameters"]
            recipes[other] = setting.matched(recipes[other], "parameters", budget)
    paper = {XCEPTION: 0.0670, INCEPTION: 0.0636, XCEPTION_FC: 0.0678, INCEPTION_FC: 0.0650}
    with_fc = (XCEPTION_FC, INCEPTION_FC)
    return Experiment(
        question="Is Xception better than Inception V3 on images of many labels, with FC layers and without?",
        source="Chollet 2017, section 4.5.1, Table 2",
        arms=tuple(
            Arm(name, recipe, "two FC" if name in with_fc else "no FC", paper={MAP_AT_100.key: paper[name]})
            for name, recipe in recipes.items()
        ),
        matched="" if setting.is_paper else "parameters",
        claims=(
            Better("Without FC layers Xception is better.", XCEPTION, INCEPTION, MAP_AT_100),
            Better("With FC layers Xception is better.", XCEPTION_FC, INCEPTION_FC, MAP_AT_100),
            Better("FC layers help Xception.", XCEPTION_FC, XCEPTION, MAP_AT_100),
            Better("FC layers help Inception V3.", INCEPTION_FC, INCEPTION, MAP_AT_100),
        ),
        metrics=(MAP_AT_100, MAP_OF_FOUND),
        figures=(
            Dots("MAP@100", MAP_AT_100),
            Curves("MAP@100 on the way", key=MAP_AT_100.key),
        ),
        needs="several labels",
    )
