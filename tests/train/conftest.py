from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from depthwise.data import open_dataset
from depthwise.data.dataset import Dataset
from depthwise.data.transform import Augment, Preprocess
from depthwise.models import create_model
from depthwise.train.loop import Trainer
from depthwise.train.optimizer import SGD, Linear
from depthwise.train.recipe import Recipe

TINY = {"stem": "small", "width": 0.05, "entry": [128], "middle": [128], "exit": [128, 256], "dropout": 0.2}

RECIPE = Recipe(
    name="test",
    model_args=TINY,
    preprocess=Preprocess((8, 8), crop_fraction=1.0),
    augment=Augment(crop="shift", shift=1, flip=False),
    epochs=2,
    batch_size=64,
    optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    schedule=Linear(warmup=5, unit="steps"),
    averaging=0.9,
    precision="float32",
    log_every=5,
)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return open_dataset("digits")


@pytest.fixture
def make_trainer(digits: Dataset) -> Callable[..., Trainer]:
    """make_trainer(field=value, ...) builds a Trainer of a tiny Xception on digits with RECIPE so changed."""

    def make(module: nn.Module | None = None, dataset: Dataset = digits, **changes: object) -> Trainer:
        recipe = replace(RECIPE, **changes)
        if module is None:
            torch.manual_seed(recipe.seed)
            module = create_model("xception", num_classes=10, in_channels=1, **recipe.model_args)
        return Trainer(recipe, module, dataset, device=torch.device("cpu"))

    return make
