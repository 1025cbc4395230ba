"""Engines timed in turns, with real processes and the engines that are installed."""

import json
from statistics import median

import pytest
import torch

from depthwise.bench import ENGINES, Measured, bench
from depthwise.bench import compare as compare_module
from depthwise.bench.engines import Engine
from depthwise.cli.app import run
from depthwise.errors import DepthwiseError, UsageError

TINY = {"stem": "small", "width": 0.125, "num_classes": 10}


def test_engines_agree_and_are_timed_in_every_round() -> None:
    engines = ["depthwise fp32", "depthwise bf16", "onnxruntime", "openvino", "openvino bf16"]
    results = bench("mobilenet_v1", TINY, (2, 3, 32, 32), engines=engines, threads=1, rounds=3)
    assert [result.engine for result in results] == ["pytorch", *engines]
    for result in results:
        assert not result.absent, result
        assert result.precision == ENGINES[result.engine].precision
        assert len(result.seconds) == 3
        assert min(result.seconds) > 0
        assert result.error <= {"fp32": 1e-4, "bf16": 0.1}[result.precision]
    assert results[0].error == 0


def test_what_is_not_there_or_does_not_run_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Engine("fp32", "no_such_engine", lambda network, x, threads: lambda x: x)
    monkeypatch.setitem(compare_module.ENGINES, "absent", absent)
    # A concatenation of parts that are not whole vectors has no compiled form.
    results = bench(
        "inception_v1", TINY, (1, 3, 32, 32), engines=["absent", "depthwise fp32"], threads=1, rounds=2
    )
    reasons = {result.engine: result.absent for result in results}
    assert reasons["pytorch"] == ""
    assert reasons["absent"] == "no_such_engine is not installed"
    assert "has no compiled form" in reasons["depthwise fp32"]


def test_a_wrong_request_is_named() -> None:
    with pytest.raises(UsageError, match="unknown engine 'openvion': use one of openvino"):
        bench("xception", TINY, (1, 3, 32, 32), engines=["openvion"], threads=1)
    with pytest.raises(
        DepthwiseError, match=r"PyTorch does not run xception: .*below this network's minimum"
    ):
        bench("xception", {}, (1, 3, 32, 32), engines=[], threads=1)


def test_ratios_compare_times_of_the_same_round() -> None:
    ours = Measured("depthwise fp32", "fp32", (1.0, 2.0, 4.0))
    theirs = Measured("openvino", "fp32", (3.0, 4.0, 4.0), error=1e-6)
    document = theirs.to_json(8, ours)
    assert document["milliseconds"] == 1e3 * median(theirs.seconds)
    assert document["images_per_second"] == 2.0
    assert (document["ours"], document["ours_lowest"], document["ours_highest"]) == (2.0, 1.0, 3.0)
    assert "ours" not in ours.to_json(8, ours)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "bench",
        "xception",
        "--size",
        "32",
        "--batch",
        "2",
        "--rounds",
        "2",
        "--threads",
        "1",
        "--engines",
    ]
    settings = ["--set", *(f"{key}={value}" for key, value in TINY.items())]
    assert run([*command, "depthwise fp32", *settings, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["shape"] == [2, 3, 32, 32]
    assert [row["engine"] for row in document["engines"]] == ["pytorch", "depthwise fp32"]
    assert document["engines"][0]["ours"] > 0
    assert run([*command, "depthwise fp32", "depthwise bf16", *settings]) == 0
    assert "ours is as fast by" in capsys.readouterr().out
    assert run(["bench", "separable"]) == 2
    assert run(["bench", "--rounds", "1"]) == 2
    assert torch.is_grad_enabled()
