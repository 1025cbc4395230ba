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
from depthwise.experiments.order import order
from depthwise.experiments.residual import residual

Built = Callable[[Setting], Experiment]

EXPERIMENTS = MappingProxyType(
    {
        "residual": residual,
        "activation": activation,
        "order": order,
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
