"""What a run's convolutions are done by, where there is no GPU: nothing is measured, and what a run has is kept."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import RECIPE
from torch import nn

from depthwise.data import open_dataset
from depthwise.data.dataset import Dataset
from depthwise.errors import DepthwiseError, UsageError
from depthwise.gpu.calls import Shape
from depthwise.gpu.choice import FRAMEWORK, Choice, Choices
from depthwise.train.convolutions import WAIT, as_led, settled
from depthwise.train.files import RunFiles
from depthwise.train.following import follow
from depthwise.train.launch import started
from depthwise.train.options import Options
from depthwise.train.recipe import Recipe
from depthwise.train.record import read_run
from depthwise.train.resume import refuse_changes
from depthwise.train.together import wanted
from depthwise.train.world import ALONE, World

CHOICES = Choices(32, (Choice(Shape(8, 6, 6, 3, 1, 1, "bfloat16"), True, "faster", 2.0, 1.0),))
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def settle(
    root: Path, digits: Dataset, before: dict[str, Any] | None, device: torch.device, **changes: bool
) -> Choices:
    files, module, recipe = RunFiles(root / "run"), nn.Conv2d(1, 1, 3), replace(RECIPE, **changes)
    how = {"measure": True, "force": False}
    return settled(files, before, recipe, module, digits, device, ALONE, pytest.fail, **how)


def test_a_run_that_begins_on_a_cpu_measures_nothing(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHWISE_TRITON", "measure")
    assert settle(tmp_path, digits, None, CPU) is FRAMEWORK
    monkeypatch.setenv("DEPTHWISE_TRITON", "fast")
    with pytest.raises(UsageError, match="DEPTHWISE_TRITON=fast is no setting: take off or measure"):
        settle(tmp_path, digits, None, CPU)


def test_a_run_that_goes_on_keeps_its_choices_and_nothing_is_measured_again(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHWISE_TRITON", "measure")
    before = {"convolutions": CHOICES.to_json()}
    assert settle(tmp_path, digits, before, GPU) == CHOICES
    assert settle(tmp_path, digits, {}, GPU) is FRAMEWORK
    assert settle(tmp_path, digits, before, CPU) is FRAMEWORK
    assert settle(tmp_path, digits, before, GPU, compile=True) is FRAMEWORK
    assert as_led(before) == CHOICES


def test_where_triton_is_not_a_process_cannot_follow(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    before = {"convolutions": CHOICES.to_json()}
    assert settle(tmp_path, digits, before, GPU) is FRAMEWORK
    with pytest.raises(DepthwiseError, match="pip install triton"):
        as_led(before)


def test_another_triton_is_another_version(tmp_path: Path) -> None:
    data = {"fingerprint": "x"}
    before = {"data": data, "versions": {"jpeg": "", "triton": "3.8.0"}}
    with pytest.raises(DepthwiseError, match=r"versions\.triton: 3\.8\.0 -> None"):
        refuse_changes(RunFiles(tmp_path), before, {"data": data, "versions": {"jpeg": ""}})


def build(recipe: Recipe) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def one_that_follows(world: World) -> None:
    follow(open_dataset("digits"), build, world, options=Options(processes=2, device="cpu"))


def test_others_wait_while_process_0_measures(digits: Dataset) -> None:
    with started(2, one_that_follows, patience=60) as world:
        world.lead(WAIT)
        world.meet()
        world.lead("train", wanted(replace(RECIPE, virtual_shards=2), digits) | {"convolutions": None})
        world.lead("end", {})


def test_run_json_has_them(tmp_path: Path) -> None:
    data = {
        "spec": "x",
        "name": "x",
        "fingerprint": "",
        "classes": [],
        "channels": 1,
        "split_source": "",
        "counts": {},
    }
    run = {
        "format": 1,
        "recipe": RECIPE.to_json(),
        "versions": {},
        "data": {**data, "bad": 0},
        "cost": {"parameters": 1, "macs": 1, "input_shape": [1, 8, 8]},
        "command": [],
    }
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run | {"convolutions": CHOICES.to_json()}))
    assert Choices.from_json(read_run(file)["convolutions"]) == CHOICES
    file.write_text(json.dumps(run | {"convolutions": {"batch": 32, "choices": [{"triton": 1}]}}))
    with pytest.raises(DepthwiseError, match="cannot be read"):
        read_run(file)
