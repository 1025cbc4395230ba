"""Engines timed in turns, with real processes and the engines that are installed."""

import json
import os
import signal
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from statistics import median

import pytest
import torch
from tests import processes

from depthwise.bench import ENGINES, Comparison, Measured, bench, swept
from depthwise.bench import compare as compare_module
from depthwise.bench.engines import Contender
from depthwise.cli.app import run
from depthwise.cli.bench import _print_run
from depthwise.errors import DepthwiseError, UsageError
from depthwise.models import create_model
from depthwise.native.library import library

TINY = {"stem": "small", "width": 0.125, "num_classes": 10}


@pytest.mark.usefixtures("forked")
def test_engines_agree_and_are_timed_in_every_round() -> None:
    engines = ["depthwise bf16", "depthwise int8", "onnxruntime int8"]
    engines += ["openvino bf16", "openvino int8 throughput"]
    # Few layers, for engines that take long over each.
    arguments = {"stem": "small", "entry": [32], "middle": [], "exit": [48, 64], "num_classes": 10}
    comparison = bench("xception", arguments, (2, 3, 32, 32), engines=engines, threads=1, rounds=3)
    results = comparison.engines
    assert [result.engine for result in results] == ["pytorch", *engines]
    for result in results:
        assert not result.absent, result
        assert result.precision == ENGINES[result.engine].precision
        assert len(result.seconds) == 3
        assert min(result.seconds) > 0
    assert results[0].error == 0
    assert all(result.error > 0 for result in results[1:])
    assert {name: len(rates) for name, rates in comparison.roofline.items()} == dict.fromkeys(
        ("fp32", "bf16", "int8", "memory"), 3
    )


@pytest.mark.usefixtures("forked")
def test_memory_is_that_of_the_network() -> None:
    # 80 MB of weights, most in the classifier, beside which an image of 32x32 takes next to nothing.
    arguments = {"stem": "small", "num_classes": 16384}
    engines = ["depthwise fp32", "depthwise bf16"]
    comparison = bench("mobilenet_v1", arguments, (1, 3, 32, 32), engines=engines, threads=1, rounds=2)
    weights = 4 * sum(p.numel() for p in create_model("mobilenet_v1", **arguments).parameters())
    taken = {measured.engine: measured.memory / weights for measured in comparison.engines}
    assert 0.9 < taken["pytorch"] < 1.5
    # The compiled network holds its own weights and no others.
    assert 0.9 < taken["depthwise fp32"] < 1.5
    assert 0.4 < taken["depthwise bf16"] < 1.0


def test_what_is_not_there_or_does_not_run_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Contender("fp32", "no_such_engine", lambda network, x, threads: lambda x: x)
    monkeypatch.setitem(compare_module.ENGINES, "absent", absent)
    # Kernels that are switched off run no network, and have no peak.
    monkeypatch.setenv("DEPTHWISE_NATIVE", "off")
    comparison = bench(
        "mobilenet_v1", TINY, (1, 3, 32, 32), engines=["absent", "depthwise fp32"], threads=1, rounds=2
    )
    reasons = {result.engine: result.absent for result in comparison.engines}
    assert reasons["pytorch"] == ""
    assert reasons["absent"] == "no_such_engine is not installed"
    assert "native kernels cannot run here" in reasons["depthwise fp32"]
    assert comparison.roofline == {}
    row = comparison.to_json(1)["engines"][0]
    assert row["images_per_second"] > 0
    assert row["share_of_peak"] is None


@pytest.mark.usefixtures("forked")
def test_an_engine_that_dies_is_left_out_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = []
    ask = compare_module._Worker.ask

    def killing(worker: compare_module._Worker, line: str) -> object:
        if not line and worker._job.get("engine") == "depthwise fp32":
            turns.append(line)
            if len(turns) == 2:
                os.kill(worker._process.pid, signal.SIGKILL)
        return ask(worker, line)

    monkeypatch.setattr(compare_module._Worker, "ask", killing)
    comparison = bench("mobilenet_v1", TINY, (1, 3, 32, 32), engines=["depthwise fp32"], threads=1, rounds=3)
    pytorch, dead = comparison.engines
    assert len(pytorch.seconds) == 3
    assert dead.absent == "its process ended with code -9"
    assert "milliseconds" not in comparison.to_json(1)["engines"][1]


@pytest.mark.usefixtures("forked")
def test_a_wrong_request_is_named() -> None:
    with pytest.raises(UsageError, match="unknown engine 'openvion': use one of openvino"):
        bench("xception", TINY, (1, 3, 32, 32), engines=["openvion"], threads=1)
    with pytest.raises(
        DepthwiseError, match=r"pytorch does not run xception: .*below this network's minimum"
    ):
        bench("xception", {}, (1, 3, 32, 32), engines=[], threads=1)


def test_the_error_tells_rounding_from_another_network() -> None:
    logits, others = torch.randn(2, 4, 1000, generator=torch.Generator().manual_seed(0))
    # A classifier's bias that is the same for all says nothing of the network.
    assert compare_module._error(10 + others, 10 + logits) == pytest.approx(2**0.5, rel=0.05)
    assert compare_module._error(logits + 0.1 * others, logits) == pytest.approx(0.1, rel=0.05)
    assert max(compare_module.TOLERANCE.values()) < 1


def test_ratios_compare_times_of_the_same_round() -> None:
    ours = Measured("depthwise fp32", "fp32", (1.0, 2.0, 4.0), memory=2_000_000)
    theirs = Measured("openvino", "fp32", (3.0, 4.0, 4.0), error=1e-6)
    lone = Measured("openvino bf16", "bf16", (2.0, 2.0, 2.0))
    peaks = {"fp32": (30e9, 32e9, 31e9), "memory": (5e9, 6e9, 4e9)}
    document = Comparison(8, 2, (ours, theirs, lone), peaks).to_json(4_000_000_000)
    mine, row, other = document["engines"]
    assert row["milliseconds"] == 1e3 * median(theirs.seconds)
    assert row["images_per_second"] == 2.0
    assert (row["ours"], row["ours_lowest"], row["ours_highest"]) == (2.0, 1.0, 3.0)
    assert row["p10"] >= 1e3 * min(theirs.seconds)
    # 8 images of 4 GMAC in 4 s, where 32 GMAC/s were the most.
    assert (row["gmacs_per_second"], row["share_of_peak"], row["memory_mb"]) == (8.0, 0.25, None)
    assert "ours" not in mine
    assert mine["memory_mb"] == 2.0
    assert "ours" not in other
    assert other["share_of_peak"] is None
    assert document["peak_gmacs_per_second"] == {"fp32": 32.0}
    assert document["memory_gb_per_second"] == 6.0


def test_rounds_too_far_apart_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    ours = Measured("depthwise fp32", "fp32", (1.0,) * 4)
    theirs = Measured("openvino", "fp32", (2.0, 300.0, 2.0, 344.0))
    run_document = Comparison(1, 2, (ours, theirs)).to_json(1_000_000)
    row = run_document["engines"][1]
    assert (row["ours"], row["ours_lowest"], row["ours_highest"]) == (None, 2.0, 344.0)
    document = {"kind": "inference", "peer": "", "network": "xception", "image": [3, 32, 32], "rounds": 4}
    _print_run(document, run_document)
    printed = capsys.readouterr().out
    assert "too noisy (2.00 to 344.00)" in printed
    assert "measure again on a quiet machine" in printed


COMMAND = ["bench", "xception", "--size", "32", "--threads", "1"]
SETTINGS = ["--set", *(f"{key}={value}" for key, value in TINY.items())]


@pytest.mark.usefixtures("forked")
def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "bench.json"
    command = [
        *COMMAND,
        "--rounds",
        "2",
        "--batch",
        "2",
        "--out",
        str(out),
        "--engines",
        "depthwise fp32",
        *SETTINGS,
    ]
    assert run([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == document
    assert (document["image"], document["rounds"]) == ([3, 32, 32], 2)
    assert document["machine"]["versions"]["torch"] == version("torch")
    assert document["machine"]["kernels"] == library.path
    (measured,) = document["runs"]
    assert (measured["batch"], measured["threads"]) == (2, 1)
    assert [row["engine"] for row in measured["engines"]] == ["pytorch", "depthwise fp32"]
    pytorch = measured["engines"][0]
    assert 0 < pytorch["ours_lowest"] <= pytorch["ours_highest"]
    assert 0 < measured["engines"][1]["share_of_peak"] < 1
    assert run(command) == 1
    assert "bench.json exists and is not overwritten" in capsys.readouterr().err
    assert run([*command, "--force"]) == 0
    printed = capsys.readouterr().out
    assert "ours is as fast by" in printed
    assert "measured peak, GMAC/s: fp32" in printed
    assert torch.is_grad_enabled()


@pytest.mark.usefixtures("forked")
def test_a_sweep_measures_each_point_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, chart = tmp_path / "sweep.json", tmp_path / "sweep.html"
    sweep = ["--sweep", "batch=1,3", "threads=1,2", "--engines", "pytorch", "--rounds", "2"]
    assert run([*COMMAND, *sweep, "--out", str(out), "--chart", str(chart), *SETTINGS]) == 0
    printed = capsys.readouterr().out
    assert "batch 1   batch 3" in printed
    assert "threads 1   threads 2" in printed
    document = json.loads(out.read_text())
    assert [(r["batch"], r["threads"]) for r in document["runs"]] == [(1, 1), (3, 1), (1, 2)]
    assert [r["batch"] for r in swept(document, "batch")] == [1, 3]
    assert [r["threads"] for r in swept(document, "threads")] == [1, 2]
    assert "images a second by threads" in chart.read_text().lower()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["separable"], "is a kind of layer"),
        (["--rounds", "1"], "--rounds=1 must be at least 2"),
        (["--batch", "0"], "--batch=0 must be at least 1"),
        (["--threads", "1024"], "1024 threads are more than this machine's"),
        (["--sweep", "threads=1,1000"], "1000 threads are more than this machine's"),
        (["--sweep", "bach=1,2"], "unknown sweep 'bach': use one of batch, threads"),
        (
            ["--train", "--engines", "nobody's"],
            "use one of depthwise bf16, depthwise bf16 recompute, depthwise fp32",
        ),
        (["--sweep", "batch=1,0"], "give numbers from 1 on, for example batch=1,2,4"),
        (["--sweep", "batch"], "give numbers from 1 on"),
    ],
)
def test_wrong_usage_is_a_sentence(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *options]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--chart"])
def test_a_file_that_cannot_be_written_is_named_before_anything_is_measured(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    # Measuring an unknown engine would be refused with another sentence.
    assert run(["bench", "--engines", "none", option, str(tmp_path / "file" / "bench")]) == 1
    assert "cannot be written (" in capsys.readouterr().err


def test_interrupted_it_leaves_no_process() -> None:
    command = [*COMMAND, "--engines", "openvino", "--rounds", "10000", *SETTINGS]
    process = processes.start(*command, BENCH_TEST=str(os.getpid()))

    def started() -> set[int]:
        mark = f"BENCH_TEST={os.getpid()}".encode()
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(int(folder.name))
        return found

    process.wait_for(lambda: len(started()) >= 2, every=0.1)
    assert len(started()) >= 2, process.printed
    os.kill(process.pid, signal.SIGINT)
    done = process.wait(timeout=60)
    assert done.returncode == 130
    assert done.stderr == "interrupted: nothing is half written, give the command again\n"
    assert started() == set()
