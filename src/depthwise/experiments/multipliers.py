"""MobileNet's width and resolution multipliers trade accuracy for cost smoothly (Howard 2017, Tables 6 and 7).

On ImageNet MobileNet V1 falls from 70.6% over 68.4, 63.7 to 50.6 at width 1, 0.75, 0.5 and 0.25, and over 69.1, 67.2 to
64.4 at 192, 160 and 128 pixels instead of 224. Cost falls with about the square of either.
"""

from dataclasses import replace
from itertools import pairwise

from depthwise.comparison.claims import Better
from depthwise.comparison.experiment import Arm, Costs, Experiment, Speed
from depthwise.comparison.setting import Setting

WIDTHS = {1.0: 0.706, 0.75: 0.684, 0.5: 0.637, 0.25: 0.506}
SIDES = {192: 0.691, 160: 0.672, 128: 0.644}
WHOLE = 224
PARTS = 3  # a run has one of them of the scale's images, for networks are four times as large
LARGER = 4  # times the scale's parameters, so that a quarter of the width is still a network


def multipliers(setting: Setting) -> Experiment:
    """Four widths at the whole size, and three more sizes at the whole width."""
    base, metric = setting.shortened(PARTS), setting.metric
    recipe = setting.network("mobilenet_v1", base)
    factor = 1.0
    if not setting.is_paper:
        width = setting.matched(recipe, "parameters", LARGER * setting.cost(base)["parameters"]).model_args[
            "width"
        ]
        factor = width if isinstance(width, float) else width[0]
    side = 224 if setting.is_paper else base.preprocess.size[0]

    def arm(width: float, resolution: float, name: str, paper: float) -> Arm:
        size = round(side * resolution)
        sized = replace(recipe, preprocess=replace(recipe.preprocess, size=(size, size)))
        return Arm(name, setting.variant(sized, width=width * factor), paper={"top1": paper})

    by_width = [arm(width, 1.0, f"width {width:g}", paper) for width, paper in WIDTHS.items()]
    by_side = [
        arm(1.0, pixels / WHOLE, f"{round(side * pixels / WHOLE)} pixels", paper)
        for pixels, paper in SIDES.items()
    ]
    names = [arm.name for arm in by_width], [by_width[0].name, *(arm.name for arm in by_side)]
    return Experiment(
        question="What do MobileNet's width and resolution multipliers cost in accuracy, and bring in time?",
        source="Howard 2017, section 4.2, Tables 6 and 7",
        arms=tuple(by_width + by_side),
        claims=tuple(
            Better(f"{more} is better than {less}.", more, less, metric)
            for line in names
            for more, less in pairwise(line)
        ),
        metrics=(metric,),
        figures=(
            Costs("Against multiply-adds", "macs", metric),
            Costs("Against measured time", "milliseconds", metric),
        ),
        speed=Speed(batch=1, rounds=31, training=False),
    )
