"""The paper's tables, figures and open questions by name: one file each, whose docstring is the claim.

An experiment is a function from a `Setting`, the facts of a scale and a data set, to its arms, claims and figures.
"""

from collections.abc import Callable
from importlib import import_module
from inspect import getdoc
from types import MappingProxyType

from depthwise.comparison.experiment import Experiment
from depthwise.comparison.setting import Setting
from depthwise.errors import unknown_name
from depthwise.experiments.activation import activation
from depthwise.experiments.chance_plateau import chance_plateau
from depthwise.experiments.factorisation import factorisation
from depthwise.experiments.family import family
from depthwise.experiments.inception_to_xception import inception_to_xception
from depthwise.experiments.multipliers import multipliers
from depthwise.experiments.order import order
from depthwise.experiments.regularisation import regularisation
from depthwise.experiments.residual import residual
from depthwise.experiments.spectrum import spectrum
from depthwise.experiments.sync_async import sync_async
from depthwise.experiments.table1 import table1
from depthwise.experiments.table2 import table2
from depthwise.experiments.table3 import table3
from depthwise.experiments.training_profiles import training_profiles

Built = Callable[[Setting], Experiment]

EXPERIMENTS = MappingProxyType(
    {
        "table1": table1,
        "table2": table2,
        "table3": table3,
        "training-profiles": training_profiles,
        "residual": residual,
        "activation": activation,
        "order": order,
        "spectrum": spectrum,
        "inception-to-xception": inception_to_xception,
        "multipliers": multipliers,
        "family": family,
        "factorisation": factorisation,
        "regularisation": regularisation,
        "chance-plateau": chance_plateau,
        "sync-async": sync_async,
    }
)
"""Whoever adds one adds a file and a line here."""


def find_experiment(name: str) -> Built:
    """The experiment called `name`. Raises UsageError, naming the nearest, if there is none."""
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]


def claim(name: str) -> str:
    """What its file says of it."""
    return getdoc(import_module(find_experiment(name).__module__)) or ""
