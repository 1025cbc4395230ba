"""Training: what a recipe says (recipe), how it is carried out (loop), and what a run leaves behind (run, ending)."""

from depthwise.train.ending import Result
from depthwise.train.recipe import Recipe
from depthwise.train.run import Options, train

__all__ = ["Options", "Recipe", "Result", "train"]
