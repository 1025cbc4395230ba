"""The training recipes by name: each a function from the plain facts of a data set to a whole run."""

from collections.abc import Callable

from depthwise.errors import unknown_name
from depthwise.recipes.inception_v3_imagenet import inception_v3_imagenet
from depthwise.recipes.small import small
from depthwise.recipes.traits import Traits
from depthwise.recipes.xception_imagenet import xception_imagenet
from depthwise.recipes.xception_jft import xception_jft
from depthwise.train.recipe import Recipe

RECIPES: dict[str, Callable[[Traits], Recipe]] = {
    "small": small,
    "xception-imagenet": xception_imagenet,
    "xception-jft": xception_jft,
    "inception-v3-imagenet": inception_v3_imagenet,
}

__all__ = ["RECIPES", "Traits", "find_recipe"]


def find_recipe(name: str | None) -> Callable[[Traits], Recipe]:
    """The recipe called `name`, "small" by default. Raises UsageError, naming the nearest, if there is none."""
    if name is None:
        return small
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]
