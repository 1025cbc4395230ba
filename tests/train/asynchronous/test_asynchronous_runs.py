"""`depthwise train --simulate` and `--replay`: a run directory like any other, killed and repeated."""

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from tests import processes

import depthwise
from depthwise.train.run import Silent

NETWORK = ("stem=small", "width=0.05", "entry=(128,)", "middle=(128,)", "exit=(128,256)", "dropout=0.2")
SETTINGS = (
    *NETWORK,
    "size=8",
    "batch_size=32",
    "epochs=4",
    "averaging=0.9",
    "precision=float32",
    "log_every=5",
)
SIMULATION = ("workers=6", "speed=lognormal", "slow=3", "bound=9")


def begun(out: Path, *arguments: str) -> processes.Forked:
    where = ("--data", "digits", "--out", str(out), "--checkpoint-steps", "9")
    return processes.start("train", *where, *arguments, OMP_NUM_THREADS="1")


def simulated(out: Path) -> processes.Forked:
    return begun(out, "--model", "xception", "--set", *SETTINGS, "--simulate", *SIMULATION)


def checked(process: processes.Forked, code: int = 0) -> str:
    ended = process.wait()
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


def outcome(out: Path) -> tuple[Any, ...]:
    """Weights, averaged weights, pushes but for the head, metrics but for the clock."""
    weights = [out / "bundle" / name for name in ("model.safetensors", "model.raw.safetensors")]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    clock = {"seconds", "images_per_second"}
    return (
        *(hashlib.sha256(path.read_bytes()).hexdigest() for path in weights),
        (out / "pushes.jsonl").read_text().split("\n", 1)[1],
        [{key: value for key, value in line.items() if key not in clock} for line in lines],
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "whole"
    checked(simulated(out))
    return out


def test_killed_at_any_moment_it_goes_on_to_the_same_bits(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = simulated(out)
    for lines in (25, 90):
        log = out / "pushes.jsonl"
        process.wait_for(lambda log=log, lines=lines: log.exists() and log.read_text().count("\n") > lines)
        os.kill(process.pid, signal.SIGKILL)
        assert process.code() == -signal.SIGKILL
        process = processes.start("train", "--resume", "--out", str(out), OMP_NUM_THREADS="1")
    checked(process)
    assert outcome(out) == outcome(whole)


def test_its_log_repeats_it_elsewhere(whole: Path, tmp_path: Path) -> None:
    checked(begun(tmp_path / "again", "--replay", str(whole / "pushes.jsonl")))
    assert outcome(tmp_path / "again") == outcome(whole)
    run = json.loads((tmp_path / "again/run.json").read_text())
    assert run["asynchronous"]["replay"]["log"] == str(whole / "pushes.jsonl")
    said = checked(begun(tmp_path / "other", "--replay", str(whole / "pushes.jsonl"), "--seed", "3"), code=2)
    assert "--replay takes recipe and network from the log: leave --recipe, --model and settings out" in said


def test_what_it_leaves_says_how_stale_gradients_were(whole: Path, browser: Browser) -> None:
    run = json.loads((whole / "run.json").read_text())
    assert (
        run["asynchronous"]["simulate"] | {"workers": 6, "slow": 3.0, "bound": 9}
        == run["asynchronous"]["simulate"]
    )
    pushes = [json.loads(line) for line in (whole / "pushes.jsonl").read_text().splitlines()[1:]]
    counted = [push for push in pushes if push["written"]]
    stale = [push["written"] - 1 - push["pulled"] for push in counted]
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert trained[-1]["staleness"] == pytest.approx(
        sum(stale[trained[-2]["step"] :]) / (len(stale) - trained[-2]["step"])
    )
    assert trained[-1]["time"] == counted[-1]["time"]
    page = browser.new_page()
    page.goto(f"file://{whole / 'report.html'}")
    section = page.locator("#workers")
    assert "made-up workers: workers=6 speed=lognormal slow=3.0 bound=9" in section.inner_text()
    bars = page.locator("#chart-staleness .bars .point")
    bars.first.wait_for(state="attached")
    assert bars.count() == len({*stale})
    page.close()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--simulate", "workers=2", "--minutes", "1"), "--minutes measures synchronous updates"),
        (("--simulate", "workers=2", "--resume"), "--resume takes the run in --out as it is"),
        (
            ("--simulate", "workers=2", "--replay", "x"),
            "--replay does a run again as it was: leave --simulate out",
        ),
        (("--simulate", "workers=2", "--processes", "2"), "led by one process"),
        (("--simulate", "workers=2", "--set", "virtual_shards=2"), "virtual_shards=2 cut an update's batch"),
    ],
)
def test_what_asynchronous_runs_cannot_have_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in checked(begun(tmp_path / "run", *arguments), code=2)


def test_a_longer_run_has_other_pushes(whole: Path) -> None:
    said = checked(processes.start("train", "--resume", "--out", str(whole), "--epochs", "5"), code=1)
    assert "the order of an asynchronous run's pushes depends on how many there are" in said


def test_what_was_made_up_resumes_in_python_too(tmp_path: Path) -> None:
    settings = {"epochs": 0.2, "width": 0.05, "middle": (), "size": 16, "stem": "small"}
    run = depthwise.train(
        "digits", out=tmp_path / "run", simulate={"workers": 2}, workers=0, watcher=Silent(), **settings
    )
    assert run.resume(watcher=Silent()).evaluation.top1 == run.evaluation.top1
