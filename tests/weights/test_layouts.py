"""Every entry of the tables names exactly the peer's modules; the networks' own tests compare what they compute."""

import inspect
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from depthwise.models import create_model
from depthwise.weights import LAYOUTS
from depthwise.weights.layout import COUNTER


def build(project: str, architecture: str) -> nn.Module:
    if project == "timm":
        return timm.create_model(architecture)
    builder: Any = getattr(models, architecture)
    return (
        builder(init_weights=False) if "init_weights" in inspect.signature(builder).parameters else builder()
    )


ENTRIES = [(project, architecture) for project, layouts in LAYOUTS.items() for architecture in layouts]


@pytest.mark.parametrize(("project", "architecture"), ENTRIES)
def test_the_tensors_are_the_peers_and_no_others(project: str, architecture: str) -> None:
    layout = LAYOUTS[project][architecture]
    with torch.device("meta"):
        theirs = build(project, architecture).state_dict()
        # As before PyTorch 0.4.1: without the counts of updates.
        translation = layout.translate({name: t for name, t in theirs.items() if COUNTER not in name})
        ours = create_model(layout.model, **translation.arguments).state_dict()
    assert {name: t.shape for name, t in translation.weights.items()} == {k: t.shape for k, t in ours.items()}
    assert translation.arguments["num_classes"] == 1000
    assert not translation.foreign_head
    assert not translation.notes


def test_timms_own_senet154() -> None:
    """Its deep stem and the place of its strides, which the others do not have."""
    theirs = timm.create_model("senet154", num_classes=5).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    translation = LAYOUTS["timm"]["senet154"].translate(theirs.state_dict())
    ours = create_model("senet154", **translation.arguments).eval()
    ours.load_state_dict(translation.weights)
    x = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        expected = theirs(x)
        assert (ours(x) - expected).abs().max() < 1e-4 * expected.abs().max()
