"""Where between a regular and a depthwise convolution the best point lies, which the paper leaves open.

The number of independent channel segments that the spatial convolution works on is the parameter of "a discrete
spectrum" (Chollet 2017, section 1): 1 is a regular convolution, one a channel is depthwise, an Inception module has 3
or 4. "There is no reason to believe that depthwise separable convolutions are optimal" (section 5). Others found:
depthwise worse than wider groups, and the best width growing with cost (RegNet, Radosavovic 2020, section 4); more
groups better at equal cost (ResNeXt, Xie 2017, Table 3); depthwise losing until the network is widened (ConvNeXt, Liu
2022, section 2.3).

A spatial convolution in segments and then a 1x1, in the place of all convolutions but the stem's, at equal
parameters, at equal multiply-adds and at equal measured time: three budgets, three answers. Segments are 1, 2, 4, 8,
and channels by 8, 4, 2 and 1, which every network can be cut into whose channels are multiples of 8.
"""

from depthwise.comparison.budgets import MATCHED, at_each, best_at_each
from depthwise.comparison.experiment import Experiment, Lines, Speed
from depthwise.comparison.setting import CLOSE, Budget, Setting
from depthwise.layers import scale_width
from depthwise.train.recipe import Recipe

CONVOLUTIONS = (
    "segments-1",
    "segments-2",
    "segments-4",
    "segments-8",
    "segments-of-8",
    "segments-of-4",
    "segments-of-2",
    "separable",
)
SEPARABLE = CONVOLUTIONS[-1]
PARTS = 3  # a run has one of them of the scale's images: there are 22 different arms
MIDDLE = 728  # channels by which segments of a number of channels are counted
EXIT, MOST_EXIT = 2048, 16_384


def spectrum(setting: Setting) -> Experiment:
    """Eight points of the spectrum at three budgets; the separable one is the scale's own network in each."""
    base, metric = setting.shortened(PARTS), setting.metric

    def brought(conv: str, by: Budget, budget: float) -> Recipe:
        if conv == SEPARABLE:
            return base
        recipe = setting.matched(setting.variant(base, conv=conv), by, budget)
        return recipe if by == "milliseconds" else _filled(setting, recipe, by, budget)

    def segments(conv: str, recipe: Recipe) -> float:
        """How many there are in the middle flow."""
        kind, _, number = conv.rpartition("-")
        channels = scale_width(MIDDLE, recipe.model_args.get("width", 1.0))
        if kind == "segments":
            return int(number)
        return channels / int(number) if kind == "segments-of" else channels

    arms, notes = at_each(setting, base, CONVOLUTIONS, brought, segments)
    return Experiment(
        question="Where between a regular and a depthwise convolution does the best point lie?",
        source="Chollet 2017, sections 1 and 5",
        arms=arms,
        claims=best_at_each(arms, SEPARABLE, "At {} the depthwise end is the best.", metric),
        metrics=(metric,),
        matched=MATCHED,
        figures=(Lines("Accuracy against segments", "segments in the middle flow", metric, log=True),),
        speed=Speed(batch=setting.batch),
        notes=(
            "RegNet: depthwise worse than wider groups, the best group width grows with cost. ResNeXt: more groups are "
            "better at equal cost. ConvNeXt: depthwise loses until widened",
            *notes,
        ),
    )


def _filled(setting: Setting, recipe: Recipe, by: Budget, budget: float) -> Recipe:
    """`recipe`, its last convolution wider until the budget is met: segments leave widths no finer steps."""
    exit_ = tuple(recipe.model_args.get("exit", (1024, 1536, EXIT)))

    def wider(channels: int) -> Recipe:
        return setting.variant(recipe, exit=(*exit_[:-1], channels))

    low, high = EXIT, MOST_EXIT
    if setting.cost(recipe)[by] >= (1 - CLOSE) * budget:
        return recipe
    while high - low > 8:
        middle = (low + high) // 2
        low, high = (middle, high) if setting.cost(wider(middle))[by] <= budget else (low, middle)
    return wider(low)
