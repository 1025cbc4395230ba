"""Bundles of each kind, and one server of them all."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from tests.conftest import CLASSES, TINY
from tests.serve.serving import serving

from depthwise import compile
from depthwise.bundle import BundleConfig, write_bundle
from depthwise.data import Preprocess
from depthwise.models import create_model


@pytest.fixture(scope="session")
def tags_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of any number of labels an image, for grey pictures."""
    path = tmp_path_factory.mktemp("tags") / "bundle"
    torch.manual_seed(1)
    module = create_model("xception", num_classes=len(CLASSES), in_channels=1, **TINY)
    torch.nn.init.normal_(module.classifier.weight, std=0.05)
    preprocess = Preprocess((32, 32), channels=1)
    config = BundleConfig("xception", CLASSES, preprocess, TINY, task="multi-label")
    write_bundle(path, config, module.state_dict())
    return path


@pytest.fixture(scope="session")
def compiled_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "fast"
    compile(tiny_bundle, out=path, precision="bf16")
    return path


@pytest.fixture(scope="session")
def bundles(tiny_bundle: Path, tags_bundle: Path, compiled_bundle: Path) -> dict[str, Path]:
    """By the names that the server has them by; its default is the first."""
    return {"tiny": tiny_bundle, "tags": tags_bundle, "fast": compiled_bundle}


@pytest.fixture(scope="session")
def client(bundles: dict[str, Path]) -> Iterator[httpx.Client]:
    """Of a server with all `bundles` and small limits."""
    limits = {"--max-bytes": 100_000, "--max-pixels": 40_000, "--max-images": 3, "--seconds": 2}
    options = [str(part) for option in limits.items() for part in option]
    with serving(*(f"{name}={path}" for name, path in bundles.items()), *options) as (client, _):
        yield client
