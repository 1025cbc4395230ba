"""A source that the project knows nothing of: a million images that are computed when they are asked for."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import depthwise
from depthwise.data import Dataset, open_dataset
from depthwise.data.dataset import Reader
from depthwise.data.image import UnreadableImageError
from depthwise.job import Run
from depthwise.recipes import Traits

CLASSES = ("left", "right", "nowhere")
SETTINGS: dict[str, Any] = {
    "model": "mobilenet_v1",
    "width": 0.1,
    "size": 16,
    "batch_size": 50,
    "schedule": "constant",
    "eval_every": 0.001,
    "augment.crop": "none",
    "augment.flip": False,
    "averaging": 0.0,
    "norm_momentum": 0.3,
    "checkpoint_minutes": 0,
}
EPOCHS = 0.001  # of 20,000 updates


@dataclass(frozen=True)
class Spots:
    """`count` grey images from number `first` on: noise, with a bright half on the side that its class names."""

    first: int
    count: int

    @property
    def blocks(self) -> tuple[int, ...]:
        return (self.count,)

    @property
    def reader(self) -> Reader:
        return spot

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> int:
        return self.first + index

    def targets(self, indices: Tensor) -> Tensor:
        return (self.first + indices) % 3

    def image(self, index: int) -> Tensor:
        return spot(self.key(index))

    def name(self, index: int) -> str:
        return f"spot {self.key(index)}"


def spot(number: int) -> Tensor:
    if number == 2_000_007:
        raise UnreadableImageError(f"spot {number}", "it is not there")
    image = torch.randint(
        0, 100, (1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(number)
    )
    side = number % 3
    if side < 2:
        image[..., 8 * side : 8 * side + 8] += 150
    return image


def spots() -> Dataset:
    splits = {"train": Spots(0, 1_000_000), "val": Spots(1_000_000, 300), "test": Spots(2_000_000, 300)}
    return Dataset("spots", CLASSES, splits, 1, fingerprint="spots, first edition", split_source="by number")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "whole"
    return depthwise.train(spots(), out=out, epochs=2 * EPOCHS, workers=1, **SETTINGS)


def test_it_opens_at_once() -> None:
    began = time.perf_counter()
    dataset = open_dataset(spots())
    assert len(dataset.splits["train"]) == 1_000_000
    assert depthwise.RECIPES["small"](Traits.of(dataset)).epochs
    assert time.perf_counter() - began < 1


def test_it_trains_and_reports(whole: Run) -> None:
    assert whole.result.step == 40
    assert whole.evaluation.num_images == 299
    assert whole.evaluation.top1 > 0.8
    page = (whole.out / "report.html").read_text("utf-8")
    assert "spots" in page


def test_a_run_that_stopped_half_way_ends_in_the_same_bits(whole: Run, tmp_path: Path) -> None:
    half = depthwise.train(spots(), out=tmp_path / "run", epochs=EPOCHS, workers=0, **SETTINGS)
    again = half.resume(epochs=2 * EPOCHS)
    assert again.result.step == whole.result.step
    weights = "bundle/model.safetensors"
    assert (again.out / weights).read_bytes() == (whole.out / weights).read_bytes()


def test_it_is_evaluated_and_predicted(whole: Run, tmp_path: Path) -> None:
    evaluation = depthwise.evaluate(whole.out, spots(), report=tmp_path / "page.html", workers=0)
    assert evaluation.top1 == whole.evaluation.top1
    assert "spots" in (tmp_path / "page.html").read_text("utf-8")
    image = spot(12_345_679)
    assert whole.predictor(image).classes[0] == CLASSES[12_345_679 % 3]
