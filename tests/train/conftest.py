from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.train.shared_runs import ONE_LABEL, begin, finish
from torch import nn

from depthwise.data import open_dataset
from depthwise.data.dataset import Dataset
from depthwise.data.export import export
from depthwise.data.transform import Augment, Preprocess
from depthwise.models import create_model
from depthwise.train.loop import Descent, Trainer
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

    def make(
        module: nn.Module | None = None,
        dataset: Dataset = digits,
        descent: Descent | None = None,
        **changes: object,
    ) -> Trainer:
        recipe = replace(RECIPE, **changes)
        if module is None:
            torch.manual_seed(recipe.seed)
            module = create_model("xception", num_classes=10, in_channels=1, **recipe.model_args)
        return Trainer(recipe, module, dataset, device=torch.device("cpu"), descent=descent)

    return make


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 images, one subfolder a class."""
    root = tmp_path_factory.mktemp("data") / "digits"
    digits = open_dataset("digits")
    export(digits.splits["test"], digits.classes, root, prefix="test", limit=200)
    return root


@pytest.fixture(scope="session")
def unbroken(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process comes to that is never stopped."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    finish(begin(folder, out, ONE_LABEL))
    return out
