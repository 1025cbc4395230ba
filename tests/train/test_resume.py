"""Runs that are stopped in every way a run can be, against the run that never was: real processes, real signals."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests import processes

from depthwise.data import open_dataset
from depthwise.data.export import export

SETTINGS = [
    *("stem=small", "width=0.05", "entry=(128,)", "middle=(128,)", "exit=(128,256)", "dropout=0.2"),
    *("size=16", "crop_fraction=1.0", "augment.crop=resized", "augment.scale=(0.5,1.0)", "augment.mixup=0.2"),
    *("batch_size=16", "epochs=14", "averaging=0.9", "log_every=7", "eval_every=3.5", "precision=float32"),
]
KILLS = 20


def command(out: Path, *arguments: str, workers: int = 2) -> list[str]:
    base = ["train", "--out", str(out), "--workers", str(workers)]
    return [*base, "--checkpoint-steps", "2", *arguments]


def start(data: Path, out: Path, **options: int) -> list[str]:
    return command(out, "--data", str(data), "--model", "xception", "--set", *SETTINGS, **options)


def finish(arguments: list[str], code: int = 0) -> subprocess.CompletedProcess[str]:
    return checked(processes.command(*arguments), code)


def checked(done: subprocess.CompletedProcess[str], code: int) -> subprocess.CompletedProcess[str]:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def write(root: Path, limit: int) -> None:
    digits = open_dataset("digits")
    export(digits.splits["test"], digits.classes, root, prefix="test", limit=limit)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of some 200 real PNG files, one subfolder a class."""
    root = tmp_path_factory.mktemp("data") / "digits"
    write(root, 200)
    return root


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    finish(start(data, out))
    return out


def weights(out: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256((out / "bundle" / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "model.raw.safetensors")
    }


def metrics(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    clock = {"seconds", "images_per_second"}
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def interrupt(arguments: list[str], out: Path, number: int, chance: random.Random) -> bool:
    """Start, wait for a few new checkpoints and a random moment more, send the signal; whether it hit the run."""
    checkpoint = out / "checkpoints" / "last.safetensors"
    process = processes.start(*arguments)
    for _ in range(chance.randint(1, 2)):
        before = written(checkpoint)
        process.wait_for(lambda before=before: written(checkpoint) != before)
    time.sleep(chance.uniform(0, 0.03))
    if process.ended:
        return False
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal's Ctrl-C reaches the workers too
    else:
        os.kill(process.pid, number)
    done = process.wait(timeout=60)
    if number != signal.SIGKILL and done.returncode != 0:
        assert done.returncode == 130, done.stderr
        assert "nothing is lost; go on with: depthwise train --out" in done.stderr
        assert "Traceback" not in done.stderr
    return done.returncode != 0


def written(checkpoint: Path) -> int:
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0


def test_twenty_kills_leave_the_same_bits(data: Path, unbroken: Path, tmp_path: Path) -> None:
    """Weights, averaged weights and metrics equal to the unbroken run's after kill -9, Ctrl-C and SIGTERM."""
    chance = random.Random(0)
    out = tmp_path / "run"
    signals = [signal.SIGKILL] * (KILLS - 4) + [signal.SIGINT, signal.SIGTERM] * 2
    chance.shuffle(signals)
    arguments, hits = start(data, out), 0
    for number in signals:
        hits += interrupt(arguments, out, number, chance)
        arguments = command(out, "--resume")
    finish(arguments)
    assert hits == KILLS, f"only {hits} of {KILLS} signals hit a running process: lengthen the run"
    assert weights(out) == weights(unbroken)
    assert metrics(out) == metrics(unbroken)


def test_kills_leave_the_same_best(data: Path, tmp_path: Path) -> None:
    """The folder has a val part; what the evaluations select, and where they end the run, is as if never killed."""
    chance = random.Random(1)
    settings = [
        "--set",
        "epochs=40",
        "keep=best",
        "early_stop=3",
        "eval_every=0.5",
        "norm_momentum=0.5",
        "augment.mixup=0",
    ]
    whole, out = tmp_path / "whole", tmp_path / "run"
    finish([*start(data, whole), *settings])
    arguments, hits = [*start(data, out), *settings], 0
    for _ in range(3):
        hits += interrupt(arguments, out, signal.SIGKILL, chance)
        arguments = command(out, "--resume")
    finish(arguments)
    assert hits > 1
    kept = [json.loads((path / "run.json").read_text())["kept"] for path in (whole, out)]
    assert kept[0] == kept[1]
    bundles = [(path / "bundle/model.safetensors").read_bytes() for path in (whole, out)]
    assert bundles[0] == bundles[1]
    assert metrics(out) == metrics(whole)


def test_workers_do_not_change_a_bit(data: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    finish(start(data, out, workers=0))
    assert weights(out) == weights(unbroken)
    assert metrics(out) == metrics(unbroken)


def test_a_finished_run_resumed_stays_as_it_is(unbroken: Path) -> None:
    before = weights(unbroken), metrics(unbroken)
    finish(command(unbroken, "--resume"))
    assert (weights(unbroken), metrics(unbroken)) == before


def test_the_bundle_holds_the_average_and_the_raw_weights(unbroken: Path) -> None:
    averaged = load_file(unbroken / "bundle" / "model.safetensors")
    raw = load_file(unbroken / "bundle" / "model.raw.safetensors")
    assert averaged.keys() == raw.keys()
    assert not torch.equal(averaged["classifier.weight"], raw["classifier.weight"])


def test_a_full_disk_is_said_and_survived(data: Path, unbroken: Path, tmp_path: Path) -> None:
    """On a file system of 1.5 MB the run fails with one sentence; with room again it ends in the same bits."""
    out = tmp_path / "small" / "run"
    out.parent.mkdir()
    script = (
        f'mount -t tmpfs -o size=1500k tmpfs {out.parent} && "$@"; code=$?; mkdir -p {tmp_path}/kept && '
        f"cp -r {out} {tmp_path}/kept/ && exit $code"
    )
    isolated = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    program = [*isolated, sys.executable, "-m", "depthwise", *start(data, out, workers=0)]
    done = checked(subprocess.run(program, capture_output=True, text=True, timeout=600), code=1)
    assert "no space is left for" in done.stderr
    kept = tmp_path / "kept" / "run"
    assert not [path for path in kept.rglob("*") if path.name.endswith((".tmp", ".partial"))]
    finish(command(kept, "--resume"))
    assert weights(kept) == weights(unbroken)
    assert metrics(kept) == metrics(unbroken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--set", "optimizer.lr=0.5"], "recipe.optimizer.lr: 0.2 -> 0.5"),
        (["--seed", "7"], "recipe.seed: 0 -> 7"),
    ],
)
def test_a_changed_recipe_is_named(unbroken: Path, change: list[str], message: str) -> None:
    done = finish(command(unbroken, "--resume", *change), code=1)
    assert message in done.stderr
    assert "--resume --force" in done.stderr


def test_changed_data_is_named(data: Path, unbroken: Path, tmp_path: Path) -> None:
    other = tmp_path / "digits"
    write(other, 180)
    done = finish(command(unbroken, "--resume", "--data", str(other)), code=1)
    assert "data.fingerprint" in done.stderr


def test_a_run_is_not_overwritten_unasked(data: Path, unbroken: Path, tmp_path: Path) -> None:
    before = weights(unbroken)
    assert "holds a run already" in finish(start(data, unbroken), code=1).stderr
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    assert "exists and holds no run" in finish([*start(data, tmp_path / "letters"), "--force"], code=1).stderr
    assert (tmp_path / "letters" / "dear.txt").read_text() == "dear"
    assert weights(unbroken) == before


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    assert "holds no run to resume" in finish(command(tmp_path / "none", "--resume"), code=1).stderr
