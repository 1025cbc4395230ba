"""What an experiment is built for: a scale's recipe for a data set, and networks brought to the same budget."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from depthwise.analysis.cost import multiply_adds
from depthwise.analysis.match import match
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
    says: str


SCALES = {
    scale.name: scale
    for scale in (
        Scale("mini", mini, FASHION_MNIST, "minutes: 0.17 million parameters, 180,000 images a run"),
        Scale("small", in_a_night, FASHION_MNIST, "a night: the recipe small"),
        Scale("paper", xception_imagenet, IMAGENET, "the paper's own: ImageNet at 299 pixels, its recipe"),
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

    channels: of the images. kept: widths that were
    found, by what for; whoever builds the experiment again hands them in, so that arms stay what they are.
    """

    scale: Scale
    traits: Traits
    channels: int = 3
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The scale's own, of Xception."""
        return self.scale.recipe(self.traits)

    @property
    def metric(self) -> Metric:
        """What runs are judged by: top-1, and of label sets MAP@100."""
        return MAP_AT_100 if self.traits.several else TOP1

    @property
    def is_paper(self) -> bool:
        return self.scale.name == "paper"

    def network(self, name: str, base: Recipe | None = None, **arguments: Any) -> Recipe:
        """`base` with another network, as small a stem as its own, at the size of its images; `arguments` of it."""
        base = base or self.recipe
        stem = {key: base.model_args[key] for key in ("stem",) if key in base.model_args}
        known = model_arguments(name)
        return replace(base, model=name, model_args={**{k: stem[k] for k in stem if k in known}, **arguments})

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

    def build(self, recipe: Recipe, **arguments: Any) -> nn.Module:
        """Its network for this data set."""
        given = {**recipe.model_args, **arguments}
        return create_model(
            recipe.model, num_classes=self.traits.num_classes, in_channels=self.channels, **given
        )

    def matched(self, recipe: Recipe, by: Budget, budget: float) -> Recipe:
        """`recipe` with its network as wide as the budget allows, of parameters or multiply-adds within 1% below it.

        Channels stay multiples of 8 where that comes as close. Where no width does, the nearest below is taken.
        """
        given = {key: value for key, value in recipe.model_args.items() if key != "width"}
        key = f"{recipe.model} {sorted(given.items())} {by}={budget:.9g} {recipe.preprocess.size}"
        if key not in self.kept:
            self.kept[key] = self._width(replace(recipe, model_args=given), by, budget)
        return replace(recipe, model_args={**given, "width": self.kept[key]})

    def _width(self, recipe: Recipe, by: Budget, budget: float) -> WidthFactor:
        """That which comes within 1% below the budget with channels in the largest steps, or else the closest."""
        found: list[tuple[float, WidthFactor]] = []
        refused: DepthwiseError | None = None
        for step in STEPS:
            try:
                one = match(
                    recipe.model,
                    **{str(by): budget},  # type: ignore[arg-type]
                    size=recipe.preprocess.size,
                    step=step,
                    num_classes=self.traits.num_classes,
                    in_channels=self.channels,
                    **recipe.model_args,
                )
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

    def in_time(self, recipe: Recipe, milliseconds: float, batch: int) -> Recipe:
        """`recipe` with its network as wide as `batch` images in so many milliseconds allow, measured here once."""
        given = {key: value for key, value in recipe.model_args.items() if key != "width"}
        key = f"{recipe.model} {sorted(given.items())} {milliseconds:.6g} ms for {batch}"
        if key not in self.kept:
            found = match(
                recipe.model,
                milliseconds=milliseconds,
                batch=batch,
                size=recipe.preprocess.size,
                num_classes=self.traits.num_classes,
                in_channels=self.channels,
                **given,
            )
            self.kept[key] = found.width
        return replace(recipe, model_args={**given, "width": self.kept[key]})
