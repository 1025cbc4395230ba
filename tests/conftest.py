"""What tests of several parts stand on."""

from pathlib import Path

import pytest
import torch

from depthwise.bundle import BundleConfig, write_bundle
from depthwise.data import Preprocess
from depthwise.models import create_model

TINY = {"stem": "small", "width": 0.05, "entry": [128], "middle": [128], "exit": [128, 256]}
CLASSES = ("cat", "dog", "naïve 猫")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a small Xception with random weights, for colour pictures of three classes; not to be changed."""
    path = tmp_path_factory.mktemp("tiny") / "bundle"
    torch.manual_seed(0)
    module = create_model("xception", num_classes=len(CLASSES), in_channels=3, **TINY)
    # Probabilities neither all alike nor 0 and 1.
    torch.nn.init.normal_(module.classifier.weight, std=0.05)
    config = BundleConfig(
        model="xception", classes=CLASSES, preprocess=Preprocess((32, 32), channels=3), model_args=TINY
    )
    write_bundle(path, config, module.state_dict())
    return path
