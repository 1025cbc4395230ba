"""A training on shards that is killed again and again: real processes with data workers, and SIGKILL."""

import json
import os
import random
import signal
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.processes import Forked
from torch import Tensor

import depthwise
from depthwise.data import open_dataset
from depthwise.data.loader import Batch, Batches
from depthwise.data.pack import pack

EPOCHS = 2
SETTINGS: dict[str, Any] = {
    **{"model": "xception", "stem": "small", "width": 0.05},
    **{"entry": (128,), "middle": (128,), "exit": (128, 256)},
    "size": 8,
    "batch_size": 16,
    "epochs": EPOCHS,
    "averaging": 0.9,
    "eval_every": 0.8,
    "augment.crop": "resized",
    "augment.mixup": 0.2,
    "precision": "float32",
    "log_every": 7,
    "workers": 2,
    "checkpoint_steps": 2,
}
KILLS = 20


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of some 15 images, more than a window holds."""
    out = tmp_path_factory.mktemp("shards") / "digits"
    pack(open_dataset("digits"), out, shard_bytes=1500)
    return out


def begun(data: Path, out: Path, log: Path, *, resume: bool) -> Forked:
    return Forked(go, str(data), str(out), str(log), "resume" if resume else "start")


def go(data: str, out: str, log: str, how: str) -> None:
    """Train, writing the images of every batch that is trained on to `log`."""
    torch.set_num_threads(1)
    finish = Batches._finish

    def logged(self: Batches, task: Any, bad: Any, place: Tensor) -> Batch:
        batch = finish(self, task, bad, place)
        if self._filler.augment:
            with Path(log).open("a") as file:
                file.write(json.dumps([*task[:2], batch.indices.tolist()]) + "\n")
        return batch

    Batches._finish = logged
    if how == "resume":
        options = {name: SETTINGS[name] for name in ("workers", "checkpoint_steps")}
        depthwise.train(out=out, resume=True, **options)
    else:
        depthwise.train(data, out=out, **SETTINGS)


def killed(process: Forked, checkpoint: Path, chance: random.Random) -> bool:
    """Kill it at a random moment after it has written a checkpoint; whether it still ran."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    process.wait_for(lambda: checkpoint.exists() and checkpoint.stat().st_mtime_ns != before)
    time.sleep(chance.uniform(0, 0.05))
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its data workers with it
    return process.code() == -signal.SIGKILL


def outcome(out: Path) -> tuple[bytes, bytes, list[Any]]:
    """Weights, averaged weights, and metrics but for the clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    clock = {"seconds", "images_per_second"}
    weights = [
        (out / "bundle" / name).read_bytes() for name in ("model.safetensors", "model.raw.safetensors")
    ]
    return *weights, [{key: value for key, value in line.items() if key not in clock} for line in lines]


def test_twenty_kills_leave_the_same_bits_and_no_image_comes_twice_or_never(
    shards: Path, tmp_path: Path
) -> None:
    chance, log, out = random.Random(0), tmp_path / "log", tmp_path / "run"
    whole = begun(shards, tmp_path / "whole", tmp_path / "log of whole", resume=False)
    hits = 0
    for number in range(KILLS):
        process = begun(shards, out, log, resume=number > 0)
        hits += killed(process, out / "checkpoints/last.safetensors", chance)
    for process in (begun(shards, out, log, resume=True), whole):
        ended = process.wait()
        assert ended.returncode == 0, ended.stderr
    assert hits == KILLS, f"only {hits} of {KILLS} hit a running process: lengthen the run"
    assert outcome(out) == outcome(tmp_path / "whole")
    batches: dict[tuple[int, int], set[tuple[int, ...]]] = defaultdict(set)
    for line in log.read_text().splitlines():
        epoch, k, indices = json.loads(line)
        batches[epoch, k].add(tuple(indices))
    images = len(open_dataset(shards).splits["train"])
    assert batches.keys() == {(epoch, k) for epoch in range(EPOCHS) for k in range(images // 16)}
    assert all(len(again) == 1 for again in batches.values())  # what was killed and done again was the same
    for epoch in range(EPOCHS):
        found = [index for k in range(images // 16) for (again,) in [batches[epoch, k]] for index in again]
        assert len(set(found)) == len(found) == images // 16 * 16
