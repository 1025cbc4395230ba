"""What is measured of a run on its way, and that measuring it changes nothing."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import RECIPE, TINY
from torch import Tensor, nn
from torch.nn import functional as F

from depthwise.data import open_dataset
from depthwise.doctor.signals import SHARE, View, Weights, examine, moments, part_of, structure
from depthwise.models import create_model
from depthwise.train import session
from depthwise.train.run import Silent, train


def view(norms_learn: bool = True) -> View:
    def hits(output: Tensor, targets: Tensor) -> Tensor:
        return (output.argmax(1) == targets).sum()

    def answers(output: Tensor) -> int:
        return len(output.argmax(1).unique())

    return View(F.cross_entropy, hits, answers, torch.full((10,), 0.1).log(), torch.no_grad, norms_learn)


def network(model: str = "separable_vgg", **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    given = {"stem": "small", "width": 0.0625, **arguments}
    return create_model(model, num_classes=10, in_channels=1, **given)


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(16, 1, 16, 16), torch.arange(16) % 10


@pytest.mark.parametrize(
    "changes",
    [{}, {"precision": "bfloat16", "clip_norm": 1.0, "accumulate": 2, "averaging": 0.0}],
    ids=["averaged", "accumulated"],
)
def test_a_run_that_is_looked_at_ends_in_the_same_bits(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, epochs=1, **changes)
    states, losses = [], []
    for looked_at in (True, False):
        if not looked_at:
            monkeypatch.setattr(session, "moments", lambda *_: frozenset())
        torch.manual_seed(recipe.seed)
        module = create_model("xception", num_classes=10, in_channels=1, **TINY)
        out = tmp_path / str(looked_at)
        torch.manual_seed(7)
        train(recipe, module, open_dataset("digits"), out, watcher=Silent())
        states.append([tensor.clone() for tensor in (*module.state_dict().values(), torch.get_rng_state())])
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert any(line["kind"] == "health" for line in lines) == looked_at
        losses.append([(line["kind"], line["loss"]) for line in lines if line["kind"] != "health"])
        states[-1].append(torch.tensor(bytearray((out / "bundle/model.safetensors").read_bytes())))
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_looking_changes_nothing_of_the_network() -> None:
    module, (images, targets) = (
        network("xception", entry=(128,), middle=(128,), exit=(128, 256), dropout=0.5),
        batch(),
    )
    module.train()
    next(part for part in module.modules() if isinstance(part, nn.BatchNorm2d)).eval()
    before = [tensor.clone() for tensor in module.state_dict().values()]
    modes, state = [part.training for part in module.modules()], torch.get_rng_state()
    first = examine(module, images, targets, view())
    assert all(torch.equal(a, b) for a, b in zip(before, module.state_dict().values(), strict=True))
    assert modes == [part.training for part in module.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert examine(module, images, targets, view()) == first


def test_batch_norms_are_seen_with_either_statistics() -> None:
    module, (images, targets) = network(), batch()
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    norms[-1].running_mean.fill_(50)  # type: ignore[union-attr]
    reference = copy.deepcopy(module)
    with torch.no_grad():
        running = float(F.cross_entropy(reference.eval()(images), targets))
        own = float(F.cross_entropy(reference.train()(images), targets))
    found = examine(module, images, targets, view())
    assert found["eval_loss"] == pytest.approx(running)
    assert found["loss"] == pytest.approx(own)
    assert found["guess"] == pytest.approx(math.log(10))
    frozen = examine(module, images, targets, view(norms_learn=False))
    assert frozen["loss"] == frozen["eval_loss"] == found["eval_loss"]


def test_dead_relus_are_counted_by_part() -> None:
    module, (images, targets) = network(), batch()
    for norm in module.stages.group2.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.constant_(norm.bias, -100)
    found = examine(module, images, targets, view())
    assert found["dead.group2"] == 1
    assert found["dead.group1"] == 0
    assert 0 < found["dead"] < 1
    assert found["spread"] == 0
    assert found["answers"] == 1


def test_inputs_are_described() -> None:
    images, targets = batch()
    found = examine(network(), images * 3 + 5, targets, view())
    assert found["input_mean"] == pytest.approx(5, abs=0.2)
    assert found["input_std"] == pytest.approx(3, abs=0.2)
    assert found["input_difference"] > 1
    assert examine(network(), torch.ones_like(images), targets, view())["input_difference"] == 0


def test_movement_is_a_share_of_the_norm_by_part() -> None:
    module = network()
    weights = Weights(module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if part_of(name) == "group1":
                parameter.mul_(1.01)
    moved = weights.movement()
    assert moved["moved.group1"] == pytest.approx(0.01, rel=1e-3)
    assert moved["moved.classifier"] == moved["moved"] == 0
    assert 0 < moved["still"] < 1
    module.stages.requires_grad_(False)
    assert [*weights.movement()] == ["still", "moved", "moved.classifier"]


def test_what_the_network_is_made_of() -> None:
    module = network()
    module.requires_grad_(False)
    found = structure(module)
    assert (found["trained"], found["norms"], found["momentum"], found["towers"]) == (0, 13, 0.01, 0)
    assert found["layers"] == 13 + 12 + 1  # a separable convolution is two
    assert structure(network("vgg16")).get("momentum") is None
    towers = network("inception_v3", width=0.125, aux=True)
    assert structure(towers)["towers"] == pytest.approx(0.4, abs=0.2)


@pytest.mark.parametrize(
    ("total", "every", "size"), [(330, 3, 128), (10_000, 50, 32), (40, 1, 32), (1, 1, 8)]
)
def test_moments_take_a_hundredth_of_a_run(total: int, every: int, size: int) -> None:
    found = sorted(moments(total, every, size))
    assert found[0] == 1
    assert found[-1] == total
    assert all(step % every == 0 for step in found[1:-1])
    cost = 2 * min(16, size) / size
    assert cost * (len(found) - 2) <= SHARE * total
    assert len(found) < 40
