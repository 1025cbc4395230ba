"""A module that a public function is given comes back with its modes, statistics, flags and places, also on error."""

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import RECIPE
from torch import Tensor, nn

from depthwise import Predictor, compile, cost, evaluate
from depthwise.analysis.cost import multiply_adds
from depthwise.analysis.match import latencies
from depthwise.analysis.regular import regular_twin
from depthwise.data import ArraySplit, Batches, Preprocess, open_dataset
from depthwise.draw import draw
from depthwise.models import create_model
from depthwise.modes import in_mode, in_place
from depthwise.train.average import PolyakAverage
from depthwise.train.run import train

SHAPE = (3, 16, 16)
CLASSES = ("a", "b")
PREPROCESS = Preprocess(SHAPE[1:], channels=3)


class Owned(nn.Module):
    """A training module with a batch norm that is frozen, a dropout that is awake, and a `fault` if it should fail."""

    def __init__(self, fault: Callable[[nn.Module], bool] = lambda module: False) -> None:
        super().__init__()
        self.fault = fault
        parts = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)]
        self.body = nn.Sequential(*parts, nn.BatchNorm2d(8))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, len(CLASSES))
        )
        self.classifier = self.head[-1]

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.body(x))
        if self.fault(self):
            raise ValueError("it fails")
        return y


def frozen_in_training(module: nn.Module) -> nn.Module:
    module.train()
    module.body[1].eval().requires_grad_(False)
    return module


def awake_in_evaluation(module: nn.Module) -> nn.Module:
    module.eval()
    module.head[2].train()
    module.body[4].train()
    module.body[0].weight.requires_grad_(False)
    return module


OWNERS = [frozen_in_training, awake_in_evaluation]


def standing(module: nn.Module) -> dict[str, Any]:
    """All of it that its owner could miss, but for the values of its tensors."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    parts = dict(module.named_modules())
    return {
        "modes": {name: part.training for name, part in parts.items()},
        "attributes": {name: sorted(vars(part)) for name, part in parts.items()},
        "hooks": {
            name: len(part._forward_hooks) + len(part._forward_pre_hooks) for name, part in parts.items()
        },
        "tensors": {name: id(tensor) for name, tensor in tensors.items()},
        "places": {name: (t.dtype, t.device, t.stride(), t.requires_grad) for name, t in tensors.items()},
    }


def batches() -> Batches:
    images = torch.randint(256, (4, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = ArraySplit(images, torch.tensor([0, 1, 0, 1]), "test")
    return Batches(split, PREPROCESS, batch_size=4)


def compiled(**options: Any) -> Callable[[nn.Module], object]:
    return lambda module: compile(module, torch.zeros(1, *SHAPE), **options)


USES: dict[str, Callable[[nn.Module], object]] = {
    "compile": compiled(engine="native"),
    "compile int8": compiled(engine="native", precision="int8", calibration=torch.randn(4, *SHAPE)),
    "compile for torch": compiled(engine="torch"),
    "compile for onnxruntime": compiled(engine="onnxruntime"),
    "compile for openvino": compiled(engine="openvino"),
    "cost": lambda module: cost(module, SHAPE),
    "multiply_adds": lambda module: multiply_adds(module, SHAPE),
    "regular_twin": lambda module: regular_twin(module, SHAPE),
    "draw": lambda module: draw(module, SHAPE),
    "latencies": lambda module: latencies([module, module], torch.zeros(1, *SHAPE), rounds=1),
    "evaluate": lambda module: evaluate(module, batches(), num_classes=len(CLASSES)),
    "Predictor": lambda module: Predictor(module, PREPROCESS, CLASSES)(torch.zeros(SHAPE, dtype=torch.uint8)),
    "PolyakAverage": lambda module: PolyakAverage(module, 0.9),
}


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("use", USES)
def test_a_module_is_left_as_it_was(use: str, owner: Callable[[nn.Module], nn.Module]) -> None:
    module = owner(Owned())
    before, values = standing(module), copy.deepcopy(module.state_dict())
    USES[use](module)
    assert standing(module) == before
    assert all(torch.equal(value, values[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("when", ["in evaluation", "in training"])
@pytest.mark.parametrize("use", USES)
def test_a_module_that_fails_is_left_as_it_was(
    use: str, when: str, owner: Callable[[nn.Module], nn.Module]
) -> None:
    module = owner(Owned(lambda module: module.training == (when == "in training")))
    before, values = standing(module), copy.deepcopy(module.state_dict())
    with suppress(Exception):
        USES[use](module)
    assert standing(module) == before
    assert all(torch.equal(value, values[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("fails", [False, True])
def test_training_moves_the_weights_alone(tmp_path: Path, fails: bool) -> None:
    module = create_model("xception", num_classes=10, in_channels=1, **RECIPE.model_args)
    for part in (module.stages[1], module.dropout):
        part.eval()
    before, values = standing(module), copy.deepcopy(module.state_dict())
    if fails:
        module.classifier.register_forward_hook(lambda *_: 1 / 0)
        before["hooks"]["classifier"] = 1
    recipe = replace(RECIPE, epochs=0.1, freeze=True, averaging=0.0)
    with suppress(ZeroDivisionError):
        train(recipe, module, open_dataset("digits"), tmp_path / "run")
    assert standing(module) == before
    assert torch.equal(module.classifier.weight, values["classifier.weight"]) == fails


class Merging(nn.Module):
    """As adapters do that are added to the weights for evaluation: its own `train` does the work."""

    merged = False

    def train(self, mode: bool = True) -> "Merging":
        self.merged = not mode
        return super().train(mode)


def test_a_part_that_does_more_than_note_its_mode_undoes_it() -> None:
    module = nn.Sequential(Merging(), nn.Dropout())
    with in_mode(module, training=False):
        assert module[0].merged
    assert (module[0].merged, module.training, module[0].training) == (False, True, True)


def test_layouts_come_back_with_the_values_of_the_moment() -> None:
    module = nn.Conv2d(3, 4, 3)
    stride = module.weight.stride()
    with in_place(module):
        nn.init.ones_(module.to(memory_format=torch.channels_last).weight)
        assert module.weight.stride() != stride
    assert module.weight.stride() == stride
    assert torch.equal(module.weight, torch.ones_like(module.weight))
