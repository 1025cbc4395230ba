"""A run's records (the lines of `metrics.jsonl`) as curves to draw.

A resumed run writes again what it had already written after its last checkpoint: the later record holds.
A loss that is not a number leaves a gap in its curve and is counted, never hidden.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, median
from typing import Any

MOST_POINTS = 1500  # a curve of more has several points a pixel
AXES = ("step", "epoch", "seconds")
VALUES = ("loss", "accuracy", "top5", "lr", "rate")
KINDS = ("train", "eval", "test")


def finite(value: Any) -> float | None:
    """`value` as a float, or None where it is missing, no number, or not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def curves(history: Iterable[dict[str, Any]], key: str = "top1") -> list[dict[str, Any]]:
    """One curve for training, one for each split and kind of weights evaluated on the way, one for the last test.

    Each is `{"kind", "split", "weights", "name"}` and equally long lists: the axes `step`, `epoch` and `seconds`
    (never falling) and the values `loss`, `accuracy`, `top5`, `lr` and `rate` (images a second), None where there
    is none. The accuracy of an evaluation is its headline number, `key` in the records. Long ones are thinned: each
    point is the mean of `every` records. `loss_mean` and `accuracy_mean` of a long training curve are running means.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records(history):
        if record["kind"] == "test":  # the last one is the result
            groups = {key: lines for key, lines in groups.items() if key[0] != "test"}
        groups.setdefault(_series(record), []).append(record)
    return [
        _curve(series, lines, key)
        for series, lines in sorted(groups.items(), key=lambda item: _order(item[0]))
    ]


def records(history: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records that hold: those that a resumed run wrote again are dropped, and `seconds` never falls."""
    kept: list[dict[str, Any]] = []
    last: dict[tuple[str, ...], float] = {}
    offset = clock = 0.0
    for line in history:
        step = finite(line.get("step"))
        if line.get("kind") not in KINDS or step is None:
            continue
        key, training = _series(line), line["kind"] == "train"
        if step <= last.get(key, -math.inf):
            kept = [r for r in kept if r["step"] < step or not (training or _series(r) == key)]
            last = {_series(r): r["step"] for r in kept}
            clock = max((r["seconds"] for r in kept if r["kind"] == "train" and r["seconds"]), default=0.0)
        seconds = finite(line.get("seconds"))
        if seconds is not None:
            # Only training tells that the clock began anew: an evaluation may be stamped a little early.
            if training and seconds + offset < clock:
                offset = clock
            seconds += offset
            clock = max(clock, seconds) if training else clock
        kept.append({**line, "step": step, "seconds": seconds})
        last[key] = step
    return kept


def summary(history: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """How long the training was: steps, epochs, seconds, samples (None if unknown), median images a second, and
    how many records hold a loss that is not finite, with the step of the first."""
    lines = records(history)
    trained = [r for r in lines if r["kind"] == "train"]
    broken = [r for r in lines if "loss" in r and finite(r["loss"]) is None]
    rates = [rate for r in trained if (rate := finite(r.get("images_per_second")))]

    def most(field: str) -> float | None:
        return max((v for r in lines if (v := finite(r.get(field))) is not None), default=None)

    return {
        "steps": most("step"),
        "epochs": most("epoch"),
        "seconds": most("seconds"),
        "samples": most("samples"),
        "rate": median(rates) if rates else None,
        "num_losses": sum("loss" in r for r in lines),
        "num_broken": len(broken),
        "first_broken": broken[0]["step"] if broken else None,
    }


def _series(record: dict[str, Any]) -> tuple[str, ...]:
    if record["kind"] == "train":
        return ("train", "", "")
    return (record["kind"], str(record.get("split", "")), str(record.get("weights", "")))


def _order(key: tuple[str, ...]) -> tuple[Any, ...]:
    return (KINDS.index(key[0]), key[1], key[2] != "raw", key[2])


def _curve(series: tuple[str, ...], lines: list[dict[str, Any]], key: str) -> dict[str, Any]:
    kind, split, weights = series
    fields = {"rate": "images_per_second"} if kind == "train" else {"accuracy": key}
    every = math.ceil(len(lines) / MOST_POINTS)
    chunks = [lines[i : i + every] for i in range(0, len(lines), every)]
    name = {"train": "train", "eval": f"{split}, {weights}", "test": f"{split}, final"}[kind]
    curve: dict[str, Any] = {"kind": kind, "split": split, "weights": weights, "name": name, "every": every}
    for axis in AXES:
        curve[axis] = [finite(chunk[-1].get(axis)) for chunk in chunks]
    for value in VALUES:
        field = fields.get(value, value)
        curve[value] = [_mean([finite(line.get(field)) for line in chunk]) for chunk in chunks]
    if kind == "train" and len(chunks) >= 60:
        curve["window"] = 2 * (len(chunks) // 60) + 1
        for value in ("loss", "accuracy"):
            curve[f"{value}_mean"] = _running_mean(curve[value], curve["window"])
    return curve


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if known else None


def _running_mean(values: Sequence[float | None], window: int) -> list[float | None]:
    half = window // 2
    return [_mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
