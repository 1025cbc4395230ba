"""Every network of the catalogue, narrow, and the ResNets shallow too: more blocks of a kind show nothing new."""

import inspect
from typing import Any

import torch
from torch import Tensor

from depthwise.models import CATALOGUE, create_model
from depthwise.models.network import Network

SHALLOW = {"depths": (1, 2, 1, 1)}

AUXILIARY: dict[str, tuple[str, ...]] = {
    "inception_v1": ("mixed4a", "mixed4d"),
    "inception_v2": ("mixed3c", "mixed4e"),
    "inception_v3": ("mixed6",),
    "inception_v3_table3": ("mixed6",),
    "inception_v4": ("mixed6",),
    "inception_resnet_v2": ("mixed6",),
}
"""The towers of the networks that have some."""

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in CATALOGUE),
    *((name, {"aux": True}) for name in AUXILIARY),
    ("inception_v3", {"count_padding": False}),
    *(("xception", {"conv": conv}) for conv in ("regular", "segments-4", "separable-relu", "towers-4")),
    ("xception", {"residual": False}),
]


def takes(name: str, argument: str) -> bool:
    """Whether the network has that argument."""
    return argument in inspect.signature(CATALOGUE[name].builder).parameters


def narrow(name: str, **arguments: Any) -> Network:
    """The network for 7 classes with an eighth of its channels, drawn from the same seed each time."""
    torch.manual_seed(0)
    shallow = SHALLOW if takes(name, "depths") else {}
    return create_model(name, **{"num_classes": 7, "width": 0.125, **shallow, **arguments})


def outputs(result: Any) -> tuple[Tensor, ...]:
    """The logits, and the towers' after them."""
    return result if isinstance(result, tuple) else (result,)
