"""What each section of the report says: plain values worked out from an evaluation, for the template to lay out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from unicodedata import combining

import torch
from torch import Tensor

from depthwise.evaluate.curves import curves, finite, records, summary
from depthwise.evaluate.metrics import ClassEvaluation, counted_pairs

WHOLE_MATRIX = 40  # classes; of more, the REDUCED_MATRIX that are most often confused are drawn
REDUCED_MATRIX = 24
NUMBERED_MATRIX = 24  # classes; in a larger matrix a number no longer fits its cell
MOST_PAIRS = 12
BINS = 10
COVERAGE_STEPS = 100
ZERO_WIDTH_JOINER = "\u200d"


def headline(evaluation: ClassEvaluation, history: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The result, how far chance alone could move it, and what saying always the same class would reach."""
    n, wrong = evaluation.num_images, evaluation.num_wrong
    low, high = wilson_interval(n - wrong, n)
    tests = [line for line in records(history) if line["kind"] == "test"]
    near = None if evaluation.top5 is None else round(evaluation.top5 * n) - (n - wrong)
    return {
        "images": n,
        "wrong": wrong,
        "right": n - wrong,
        "near": near,
        "far": wrong - (near or 0),
        "top1": evaluation.top1,
        "top5": evaluation.top5,
        "loss": finite(evaluation.loss),
        "calibration_error": finite(evaluation.calibration_error),
        "low": low,
        "high": high,
        "guessing": math.log(evaluation.num_classes),
        "baseline": float(evaluation.per_class.support.max()) / n,
        "weights": tests[-1].get("weights") if tests else None,
    }


def wilson_interval(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% score interval of a proportion (Wilson 1927): it stays within 0 and 1, and holds near both."""
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def learning(history: Iterable[dict[str, Any]], key: str) -> dict[str, Any]:
    """The curves, what they come to in words, and the evaluations as a table; `key` names their headline number."""
    lines = list(history)
    drawn = curves(lines, key)
    evaluations = [line for line in records(lines) if line["kind"] != "train"]
    return {
        "curves": drawn,
        "summary": summary(lines),
        "top5": any("top5" in line for line in evaluations),
        "averaged": any(line.get("weights") == "averaged" for line in evaluations),
        "loss_note": _extreme(drawn, "loss", min, "{:.4f}"),
        "accuracy_note": _extreme(drawn, "accuracy", max, "{:.2%}"),
        "evaluations": [
            {k: line.get(k) for k in ("kind", "split", "weights")}
            | {k: finite(line.get(k)) for k in ("step", "epoch", "seconds", "loss", "top5")}
            | {"score": finite(line.get(key))}
            for line in evaluations
        ],
    }


def staleness(asynchronous: Mapping[str, Any]) -> dict[str, Any]:
    """How an asynchronous run went, in numbers: of the gradients that counted, and of their staleness."""
    pairs = list(zip(asynchronous["staleness"], asynchronous["gradients"], strict=True))
    counted = sum(gradients for _, gradients in pairs)
    return {
        "how": asynchronous["how"],
        "counted": counted,
        "dropped": asynchronous["dropped"],
        "mean": sum(stale * gradients for stale, gradients in pairs) / max(1, counted),
        "most": max(asynchronous["staleness"], default=0),
    }


def _extreme(drawn: Sequence[dict[str, Any]], value: str, pick: Any, form: str) -> str | None:
    """The best point of the evaluation curves: "best 0.1423 (test, averaged) at step 900, last 0.1500"."""
    points = [
        (v, step, curve["name"])
        for curve in drawn
        if curve["kind"] == "eval"
        for v, step in zip(curve[value], curve["step"], strict=True)
        if v is not None
    ]
    if not points:
        return None
    # Of equals the earlier one, and of one step the average, as `keep=best` takes them.
    points.sort(key=lambda point: (point[1], "averaged" not in point[2]))
    best, step, name = pick(points, key=lambda point: point[0])
    return f"best {form.format(best)} ({name}) at step {step:,.0f}"


def matrix(evaluation: ClassEvaluation, classes: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix as rows of cells; of many classes, only those that are most often confused.

    A cell holds its count, its share of the row's class, and `heat`, 0 to 1. With a reduced matrix each row ends
    with `other`, the images called something that is not shown, so that the row still adds up.
    """
    whole = len(classes) <= WHOLE_MATRIX
    chosen = list(range(len(classes))) if whole else _most_confused(evaluation)
    part = evaluation.confusion_of(torch.tensor(chosen, dtype=torch.int64)).tolist()
    support = evaluation.per_class.support[chosen].long().tolist()
    rows = []
    for i, (index, counts, total) in enumerate(zip(chosen, part, support, strict=True)):
        cells = []
        for j, count in enumerate(counts):
            share = count / total if total else 0.0
            # The power lets a confusion of one in a hundred be seen beside one of one in two; what is right stays
            # paler than what is worst, for the eye should go to the mistakes.
            heat = 0.7 * share if i == j else share**0.4
            cells.append({"count": count, "share": share, "heat": heat, "right": i == j})
        rows.append({"name": classes[index], "support": total, "cells": cells, "other": total - sum(counts)})
    return {
        "names": [classes[index] for index in chosen],
        "short": all(len(classes[index]) <= 3 for index in chosen),
        "rows": rows,
        "whole": whole,
        "numbered": len(chosen) <= NUMBERED_MATRIX,
        "cell_pixels": min(52, 500 // max(1, len(chosen)))
        if len(chosen) <= 14
        else min(40, 880 // (len(chosen) + 1)),
    }


def _most_confused(evaluation: ClassEvaluation) -> list[int]:
    wrong = evaluation.predicted != evaluation.labels
    are, were_called = evaluation.labels[wrong], evaluation.predicted[wrong]
    one_way, other_way = torch.cat([are, were_called]), torch.cat([were_called, are])
    either_way = counted_pairs(one_way, other_way, evaluation.num_classes)
    chosen: list[int] = []
    for true, said, _ in either_way:
        new = [c for c in (true, said) if c not in chosen]
        if len(chosen) + len(new) <= REDUCED_MATRIX:
            chosen += new
        if len(chosen) == REDUCED_MATRIX:
            break
    return sorted(chosen)


def confused_pairs(evaluation: ClassEvaluation, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The most frequent confusions, with each one's share of the true class's images."""
    return [
        {
            "true": classes[true],
            "said": classes[said],
            "count": count,
            "share": count / float(evaluation.per_class.support[true]),
        }
        for true, said, count in evaluation.confused[:MOST_PAIRS]
    ]


def per_class(evaluation: ClassEvaluation, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each class: its ratios (None where there is nothing to divide by) and what it is mistaken for."""
    numbers, called = evaluation.per_class, evaluation.said.tolist()
    worst: dict[int, tuple[int, int]] = {}
    for true, said, count in evaluation.confused:
        worst.setdefault(true, (said, count))
    rows = []
    for k, name in enumerate(classes):
        support = int(numbers.support[k])
        mistaken_for, mistaken_count = worst.get(k, (None, 0))
        rows.append(
            {
                "name": name,
                "support": support,
                "precision": float(numbers.precision[k]) if called[k] else None,
                "recall": float(numbers.recall[k]) if support else None,
                "f1": float(numbers.f1[k]) if support or called[k] else None,
                "mistaken_for": None if mistaken_for is None else classes[mistaken_for],
                "mistaken_count": mistaken_count,
            }
        )
    return rows


def certainty(evaluation: ClassEvaluation) -> dict[str, Any] | None:
    """How far the network's own certainty can be trusted; None when its probabilities are not finite.

    `bins`: BINS equal steps of certainty that hold images, each with its number of `images`, mean `confidence`,
    `accuracy` and the 95% interval of that, `lowest` to `highest`. `coverage`: for growing parts of all images
    (`share`), the surest first, the `accuracy` on them and how sure the least sure of them is (`threshold`).
    """
    if not evaluation.probability.isfinite().all():
        return None
    sure = evaluation.probability.double()
    right = (evaluation.predicted == evaluation.labels).double()
    place = (sure * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
    return {
        "bins": [_bin(sure[place == k], right[place == k]) for k in place.unique().tolist()],
        "coverage": _coverage(sure, right),
    }


def _bin(sure: Tensor, right: Tensor) -> dict[str, Any]:
    low, high = wilson_interval(int(right.sum()), len(right))
    return {
        "images": len(right),
        "confidence": float(sure.mean()),
        "accuracy": float(right.mean()),
        "lowest": low,
        "highest": high,
    }


def _coverage(sure: Tensor, right: Tensor) -> list[dict[str, float]]:
    order = sure.argsort(descending=True, stable=True)
    hits, n = right[order].cumsum(0), len(right)
    answered = sorted({max(1, round(n * k / COVERAGE_STEPS)) for k in range(1, COVERAGE_STEPS + 1)})
    return [
        {"share": m / n, "accuracy": float(hits[m - 1]) / m, "threshold": float(sure[order[m - 1]])}
        for m in answered
    ]


def class_counts(counts: dict[str, list[int]], classes: Sequence[str]) -> dict[str, Any]:
    """Images of each class in each split, also as a share of the split's largest class; totals; how uneven it is."""
    splits = list(counts)
    largest = {split: max(numbers, default=0) or 1 for split, numbers in counts.items()}
    main = max(splits, key=lambda split: sum(counts[split]), default="")
    return {
        "splits": splits,
        "totals": {split: sum(counts[split]) for split in splits},
        "main": main,
        "fewest": min(counts.get(main, []), default=0),
        "most": max(counts.get(main, []), default=0),
        "rows": [
            {"name": name, "counts": [(counts[s][k], counts[s][k] / largest[s]) for s in splits]}
            for k, name in enumerate(classes)
        ],
    }


def duration(seconds: float) -> str:
    """45 s; 12 min 3 s; 3 h 12 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"


def magnitude(number: float) -> str:
    """8.36 billion; 22.9 million; 656."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"


def cut_path(name: str) -> tuple[str, str]:
    """A path as its folders, with the stroke, and its own name, which a narrow place should show whole."""
    folders, stroke, own = name.rpartition("/")
    return folders + stroke, own


def cut_name(name: str, last: int = 5) -> tuple[str, str]:
    """A name as what may be cut off and its last characters, which tell names of a kind apart."""
    if len(name) <= 2 * last:
        return "", name
    place = len(name) - last
    while place > 0 and (combining(name[place]) or name[place - 1] == ZERO_WIDTH_JOINER):
        place -= 1
    return name[:place], name[place:]
