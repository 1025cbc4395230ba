"""Train, compare and ship depthwise-separable image classifiers: the public names, each loaded on first use."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthwise.analysis.cost import cost as cost
    from depthwise.analysis.match import match as match
    from depthwise.data import Augment as Augment
    from depthwise.data import Columns as Columns
    from depthwise.data import Dataset as Dataset
    from depthwise.data import Preprocess as Preprocess
    from depthwise.data import open_dataset as open_dataset
    from depthwise.errors import DepthwiseError as DepthwiseError
    from depthwise.experiments.own import compare as compare
    from depthwise.infer import Prediction as Prediction
    from depthwise.infer import Predictor as Predictor
    from depthwise.infer.ops import separable_conv2d as separable_conv2d
    from depthwise.job import Job as Job
    from depthwise.models import create_model as create_model
    from depthwise.models import list_models as list_models
    from depthwise.recipes import RECIPES as RECIPES
    from depthwise.ship.compiling import compile as compile
    from depthwise.ship.exporting import export as export
    from depthwise.ship.importing import import_weights as import_weights
    from depthwise.ship.load import load as load
    from depthwise.ship.measuring import evaluate as evaluate
    from depthwise.train.recipe import Recipe as Recipe
    from depthwise.training import train as train

    __version__: str

_HOMES = {
    "Augment": "depthwise.data",
    "Columns": "depthwise.data",
    "Dataset": "depthwise.data",
    "DepthwiseError": "depthwise.errors",
    "Job": "depthwise.job",
    "Prediction": "depthwise.infer",
    "Predictor": "depthwise.infer",
    "Preprocess": "depthwise.data",
    "RECIPES": "depthwise.recipes",
    "Recipe": "depthwise.train.recipe",
    "compare": "depthwise.experiments.own",
    "compile": "depthwise.ship.compiling",
    "cost": "depthwise.analysis.cost",
    "create_model": "depthwise.models",
    "evaluate": "depthwise.ship.measuring",
    "export": "depthwise.ship.exporting",
    "import_weights": "depthwise.ship.importing",
    "list_models": "depthwise.models",
    "load": "depthwise.ship.load",
    "match": "depthwise.analysis.match",
    "open_dataset": "depthwise.data",
    "separable_conv2d": "depthwise.infer.ops",
    "train": "depthwise.training",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("depthwise")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'depthwise' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Python binds an imported submodule to its package: `depthwise.train` must stay the function even so."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
