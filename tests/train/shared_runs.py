"""A run that any number of processes may share, as command lines, and what is compared of it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from tests import processes

SETTINGS = [
    *("stem=small", "width=0.05", "entry=(128,)", "middle=(128,)", "exit=(128,256)", "dropout=0.2"),
    *("size=8", "crop_fraction=1.0", "augment.mixup=0.2", "clip_norm=1", "virtual_shards=4", "accumulate=2"),
    *("batch_size=16", "epochs=9", "averaging=0.9", "log_every=3", "eval_every=2.5", "precision=float32"),
]
ONE_LABEL = (*SETTINGS, "class_weights=balanced", "label_smoothing=0.1")
MANY_LABELS = (*SETTINGS, "loss=focal")
CLOCK = {"seconds", "images_per_second"}


def begin(data: Path, out: Path, settings: Sequence[str], *more: str) -> list[str]:
    of_tables = ["--label-separator", ";"] if data.suffix == ".csv" else []
    words = ["train", "--out", str(out), "--data", str(data), *of_tables, "--model", "xception"]
    return [*words, "--workers", "0", *more, "--set", *settings]


def go_on(out: Path, size: int, *more: str) -> list[str]:
    return ["train", "--out", str(out), "--resume", "--processes", str(size), "--workers", "0", *more]


def finish(words: list[str]) -> None:
    done = processes.command(*words, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


def left(out: Path) -> tuple[dict[str, str], list[dict[str, object]]]:
    """The digests of all weights, and the lines of metrics without their clock."""
    names = ("model.safetensors", "model.raw.safetensors")
    weights = {name: hashlib.sha256((out / "bundle" / name).read_bytes()).hexdigest() for name in names}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return weights, [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]
