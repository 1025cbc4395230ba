"""What an experiment is built for: a scale's recipe for a data set, and networks brought to the same budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from depthwise.analysis.cost import multiply_adds
from depthwise.analysis.match import REFINEMENTS, NoWidthError, latencies, match
from depthwise.comparison.outcome import MAP_AT_100, TOP1, Metric
from depthwise.data.transform import Augment, Preprocess
from depthwise.errors import DepthwiseError, unknown_name
from depthwise.layers import WidthFactor
from depthwise.models import create_model, model_arguments
from depthwise.recipes import Traits
from depthwise.recipes.small import TINY, photographs, small
from depthwise.recipes.xception_imagenet import xception_imagenet
from depthwise.train.optimizer import SGD, Linear
from depthwise.train.recipe import Recipe

Budget = Literal["parameters", "macs", "milliseconds"]

BATCH, PAPERS_BATCH = 32, 8
"""Images that are answered at once where time is the budget; so few of the paper's fill a machine."""

IMAGENET = Traits(num_train=1_281_167, num_classes=1000, height=375, width=500)
FASHION_MNIST = Traits(num_train=60_000, num_classes=10, height=28, width=28)

STEPS = (8, 4, 2, 1)
"""What channels are multiples of, the coarsest that will do."""

CLOSE = 0.01
"""Parameters and multiply-adds of what is compared differ by no more, where a network's arguments allow it."""

MINI_SAMPLES = 180_000


def mini(data: Traits) -> Recipe:
    """A minute of one core a run: 0.17 million parameters, 180,000 images of at most 64 pixels a side."""
    side = min(max(data.height, data.width, 24), TINY)
    small_images = max(data.height, data.width) <= TINY
    crop = Augment(crop="shift", shift=max(1, side // 14), flip=True)
    return Recipe(
        name="mini",
        model="xception",
        model_args={"stem": "small", "width": 0.125, "entry": (128, 256), "middle": (728, 728)},
        preprocess=Preprocess((side, side), crop_fraction=1.0),
        augment=crop if small_images else Augment(crop="resized", scale=(0.25, 1.0), flip=True),
        samples=MINI_SAMPLES,
        batch_size=128,
        optimizer=SGD(lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=Linear(warmup=MINI_SAMPLES // 6, unit="samples"),
        averaging=0.99,
        norm_momentum=0.1,
        label_smoothing=0.0 if data.several else 0.1,
        eval_every=MINI_SAMPLES // 6,
        eval_unit="samples",
        log_every=25,
    )


def in_a_night(data: Traits) -> Recipe:
    """The recipe of small sets and of photographs, whole."""
    return small(data) if max(data.height, data.width) <= TINY else photographs(data)


@dataclass(frozen=True)
class Scale:
    """How large experiments are: `recipe` of a data set's facts; `data`, those of the set that it was made for."""

    name: str
    recipe: Callable[[Traits], Recipe]
    data: Traits


SCALES = {
    scale.name: scale
    for scale in (
        Scale("mini", mini, FASHION_MNIST),
        Scale("small", in_a_night, FASHION_MNIST),
        Scale("paper", xception_imagenet, IMAGENET),
    )
}


def find_scale(name: str) -> Scale:
    """The scale called `name`. Raises UsageError, naming the nearest, if there is none."""
    if name not in SCALES:
        raise unknown_name("scale", name, SCALES)
    return SCALES[name]


@dataclass(frozen=True)
class Setting:
    """The facts that an experiment's arms follow from.

    channels: of the images. kept: what was found for budgets, by what for; whoever builds the experiment again hands
    it in, so that arms stay what they are. rough: so many images are answered at once where time is the budget, and few
    measurements say how wide networks are, as in a rehearsal; 0 where it is to be known as well as can be.
    """

    scale: Scale
    traits: Traits
    channels: int = 3
    kept: dict[str, Any] = field(default_factory=dict)
    rough: int = 0

    @property
    def recipe(self) -> Recipe:
        """The scale's own, of Xception."""
        return self.scale.recipe(self.traits)

    def shortened(self, parts: int, evaluations: int = 1) -> Recipe:
        """`recipe` with one of `parts` of its images, and so many `evaluations`: for arms that are many or slow.
        At the paper's scale it is whole."""
        whole = self.recipe
        if self.is_paper:
            return whole
        schedule = replace(whole.schedule, warmup=whole.schedule.warmup / parts)
        if whole.samples:
            samples = whole.samples // parts
            return replace(whole, samples=samples, eval_every=samples // evaluations, schedule=schedule)
        epochs = whole.epochs / parts
        return replace(whole, epochs=epochs, eval_every=epochs / evaluations, schedule=schedule)

    @property
    def metric(self) -> Metric:
        """What runs are judged by: top-1, and of label sets MAP@100."""
        return MAP_AT_100 if self.traits.several else TOP1

    @property
    def is_paper(self) -> bool:
        return self.scale.name == "paper"

    @property
    def batch(self) -> int:
        """Images that are answered at once where time is the budget."""
        return self.rough or (PAPERS_BATCH if self.is_paper else BATCH)

    def network(self, name: str, base: Recipe | None = None, **arguments: Any) -> Recipe:
        """`base` with another network, of its stem and its dropout, at the size of its images; `arguments` of it.

        Networks have defaults of their own for dropout, which would be a second thing to differ in.
        """
        base = base or self.recipe
        shared: dict[str, Any] = {"dropout": 0.0, **base.model_args}
        known = model_arguments(name)
        taken = {key: value for key, value in shared.items() if key in ("stem", "dropout") and key in known}
        return replace(base, model=name, model_args={**taken, **arguments})

    def variant(self, base: Recipe | None = None, **arguments: Any) -> Recipe:
        """`base` with other `arguments` of its network."""
        base = base or self.recipe
        return replace(base, model_args={**base.model_args, **arguments})

    def cost(self, recipe: Recipe) -> dict[str, int]:
        """Its network's "parameters" and "macs" for this data set."""
        with torch.device("meta"):
            module = self.build(recipe)
        shape = recipe.preprocess.for_channels(self.channels).shape
        parameters = sum(p.numel() for p in module.parameters())
        return {"parameters": parameters, "macs": multiply_adds(module, shape)}

    def build(self, recipe: Recipe) -> nn.Module:
        """Its network for this data set."""
        return create_model(recipe.model, **self._facts, **recipe.model_args)

    @property
    def _facts(self) -> dict[str, int]:
        return {"num_classes": self.traits.num_classes, "in_channels": self.channels}

    def budget(self, recipe: Recipe, by: Budget) -> float:
        """What its network takes; milliseconds are those of an answer for a `batch`, measured here once."""
        if by != "milliseconds":
            return self.cost(recipe)[by]
        key = f"milliseconds of {self._called(recipe)}"
        if key not in self.kept:
            images = torch.zeros(self.batch, *recipe.preprocess.for_channels(self.channels).shape)
            self.kept[key] = round(latencies([self.build(recipe)], images)[0], 3)
        return float(self.kept[key])

    def matched(self, recipe: Recipe, by: Budget, budget: float) -> Recipe:
        """`recipe` with its network as wide as the budget allows, of parameters or multiply-adds within 1% below it.

        Channels stay multiples of 8 where that comes as close. Where no width does, the nearest below is taken.
        Milliseconds are measured here, once, as in `budget`. Raises NoWidthError where the narrowest takes more.
        """
        given = {key: value for key, value in recipe.model_args.items() if key != "width"}
        recipe = replace(recipe, model_args=given)
        key = f"{self._called(recipe)} {by}={budget:.9g}"
        if key not in self.kept:
            steps = STEPS[:1] if by == "milliseconds" else STEPS
            try:
                self.kept[key] = self._width(recipe, by, budget, steps)
            except NoWidthError:
                self.kept[key] = None
                raise
        if self.kept[key] is None:
            raise NoWidthError(f"no width of {recipe.model} has {budget:,.9g} {by}: choose a larger budget")
        return replace(recipe, model_args={**given, "width": self.kept[key]})

    def _called(self, recipe: Recipe) -> str:
        return f"{recipe.model} {sorted(recipe.model_args.items())} {recipe.preprocess.size}"

    def _width(self, recipe: Recipe, by: Budget, budget: float, steps: Sequence[int]) -> WidthFactor:
        """That which comes within 1% below the budget with channels in the first of `steps`, or else the closest."""
        found: list[tuple[float, WidthFactor]] = []
        refused: DepthwiseError | None = None
        wanted: dict[str, Any] = {
            by: budget,
            "batch": self.batch,
            "refinements": 0 if self.rough else REFINEMENTS,
            "size": recipe.preprocess.size,
            **self._facts,
        }
        for step in steps:
            try:
                one = match(recipe.model, step=step, **wanted, **recipe.model_args)
            except DepthwiseError as error:  # segments that do not divide channels in such steps, for one
                refused = refused or error
                continue
            reached = getattr(one, by) / budget
            found.append((reached, one.width))
            if reached >= 1 - CLOSE:
                break
        if not found and refused:
            raise refused
        return max(found, key=lambda pair: pair[0])[1]


def gentle(recipe: Recipe) -> Recipe:
    """The same at a tenth of the learning rate and with clipped gradients: what networks without batch norm need."""
    return replace(recipe, optimizer=replace(recipe.optimizer, lr=recipe.optimizer.lr / 10), clip_norm=1.0)
