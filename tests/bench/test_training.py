"""Trainings timed in turns: the loops do the same updates, and those of others train the same architectures."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from depthwise.analysis.cost import multiply_adds, training_multiply_adds
from depthwise.bench import LOOPS, bench_training
from depthwise.bench.peers import PLAIN, TIMM, TORCHVISION, own, peer
from depthwise.cli.app import run
from depthwise.errors import DepthwiseError

TINY: dict[str, Any] = {"stem": "small", "entry": [32], "middle": [], "exit": [48, 64], "num_classes": 10}


@pytest.mark.usefixtures("forked")
def test_every_loop_does_the_same_updates() -> None:
    # torch.compile takes a minute for the smallest network, and is one call.
    engines = [engine for engine in LOOPS if not engine.startswith("torch.compile")]
    comparison = bench_training("xception", TINY, (4, 3, 32, 32), engines=engines, threads=1, rounds=2)
    measured = {result.engine: result for result in comparison.engines}
    assert {result.absent for result in measured.values()} == {""}
    losses = {engine: result.losses for engine, result in measured.items()}
    assert losses["pytorch"][0] > losses["pytorch"][1] > losses["pytorch"][2]
    assert losses["depthwise fp32"] == pytest.approx(losses["pytorch"], rel=1e-5)
    for engine in ("depthwise bf16", "pytorch bf16"):
        assert losses[engine] == pytest.approx(losses["pytorch"], rel=1e-2)
    for precision in ("fp32", "bf16"):
        assert losses[f"depthwise {precision} recompute"] == losses[f"depthwise {precision}"]
    rows = {row["engine"]: row for row in comparison.to_json(1_000_000)["engines"]}
    for engine, row in rows.items():
        assert row["precision"] == LOOPS[engine].precision
        assert row["images_per_second"] == pytest.approx(4 * row["steps_per_second"])
        assert row["memory_mb"] > 0
        assert ("ours" in row) == (engine not in ("depthwise fp32", "depthwise bf16"))


@pytest.mark.usefixtures("forked")
def test_memory_is_the_most_of_an_update() -> None:
    # Maps of 64 channels and 96x96 pixels, twelve of which are 28 MB an image, beside 0.2 MB of weights.
    arguments = {**TINY, "entry": [64], "exit": [64] * 6}
    engines = ["pytorch", "depthwise fp32 recompute"]
    comparison = bench_training("xception", arguments, (2, 3, 96, 96), engines=engines, threads=1, rounds=2)
    plain, saving = (result.memory / 1e6 for result in comparison.engines if result.memory)
    assert 30 < saving < 0.9 * plain < 200


def test_peers_have_the_same_parameters_and_multiply_adds() -> None:
    for name in (*TIMM, *TORCHVISION):
        with torch.device("meta"):
            ours, theirs = (find(name, {"num_classes": 10}).build() for find in (own, peer))
        shape = (3, ours.input_size, ours.input_size)
        assert multiply_adds(ours, shape) == multiply_adds(theirs, shape), name
        sizes = (sum(p.numel() for p in network.parameters()) for network in (ours, theirs))
        assert len({*sizes}) == 1, name


@pytest.mark.parametrize(
    ("name", "arguments", "title"),
    [
        ("xception", {"in_channels": 1}, "timm's legacy_xception"),
        ("resnet50", {"in_channels": 3, "num_classes": 10}, "torchvision's resnet50"),
        ("resnet50", {"in_channels": 1}, PLAIN),
        ("xception", {"width": 0.5}, PLAIN),
        ("nin", {}, PLAIN),
    ],
)
def test_whoever_has_no_such_network_leaves_it_to_our_own(
    name: str, arguments: dict[str, Any], title: str
) -> None:
    assert peer(name, arguments).title == title


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        # Of the first layer the image's gradient is not taken.
        (lambda: nn.Conv2d(4, 6, 3, padding=1, bias=False), 2 * 64 * 4 * 6 * 9),
        (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), 2 * 64 * 4 * 9),
        (lambda: nn.Conv2d(4, 4, 3, padding=1, stride=2, groups=2), 2 * 16 * 4 * 2 * 9),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 10)), 2 * 256 * 10),
        (
            lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 1)),
            64 * (2 * 16 + 3 * 32),
        ),
    ],
)
def test_a_training_step_takes_three_times_the_forward_pass(
    layer: Callable[[], nn.Module], macs: int
) -> None:
    for device in ("cpu", "meta"):
        with torch.device(device):
            module = layer().train()
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        assert training_multiply_adds(module, (4, 8, 8)) == macs
        assert all(parameter.grad is None for parameter in module.parameters())
        if device == "cpu":
            assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


COMMAND = ["bench", "--train", "xception", "--size", "32", "--threads", "1", "--rounds", "2", "--batch", "2"]
SETTINGS = ["--set", *(f"{key}={value}".replace(" ", "") for key, value in TINY.items())]


@pytest.mark.usefixtures("forked")
def test_the_command_that_times_a_training(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    chart = tmp_path / "chart.html"
    command = [*COMMAND, "--engines", "depthwise bf16", "pytorch", "pytorch bf16", "--precision", "bf16"]
    assert run([*command, *SETTINGS, "--json", "--chart", str(chart)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["kind"], document["peer"], document["batch"]) == ("training", PLAIN, 2)
    rows = document["runs"][0]["engines"]
    assert [row["engine"] for row in rows] == ["depthwise bf16", "pytorch bf16"]
    assert 0 < rows[0]["share_of_peak"] < 1
    assert "training xception, images a second" in chart.read_text()
    assert run([*command[:-1], "fp32", *SETTINGS, "--sweep", "batch=1,2"]) == 0
    printed = capsys.readouterr().out
    assert "training xception" in printed
    assert "batch 1   batch 2" in printed
    assert run([*command, *SETTINGS]) == 0
    printed = capsys.readouterr().out
    assert "third loss" in printed
    assert f"pytorch and torch.compile train {PLAIN}" in printed


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--precision", "int8"], "--precision int8: no engine that is asked for has it"),
        (["--engines", "openvino", "--set", "stem=small"], "unknown engine 'openvino': use one of"),
        (["--set", "stem=small", "num_classes=0"], "num_classes=0 leaves nothing to train for"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*COMMAND, *options]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.usefixtures("forked")
def test_a_network_that_cannot_be_trained_is_told_of() -> None:
    with pytest.raises(DepthwiseError, match=r"depthwise fp32 does not run xception: .*minimum"):
        bench_training("xception", {}, (2, 3, 32, 32), engines=["depthwise fp32"], threads=1)
