"""What the report says where an image may have any number of labels, as plain values for the templates to lay out."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from depthwise.data.spread import evenly
from depthwise.data.targets import memberships
from depthwise.evaluate.curves import records
from depthwise.evaluate.label_metrics import (
    AT,
    K,
    LabelEvaluation,
    average_precision_at,
    best,
    truth_of,
    weighed,
)

DIGITS = 5  # after the point, of a ratio that a script shows as percent with one
MOST_RANKED = 4096  # images for which labels are ranked by how frequent they are
CHUNK = 256  # of them at a time: a row has as many numbers as there are labels
MOST_TOGETHER = 24  # labels whose company is counted
NUMBERED = 10  # labels; in a larger table a number no longer fits its cell
FEWEST = 10  # images with a label, before the company that it keeps is compared
MOST_DIFFERENCES = 10
ON_AT_FIRST = 6  # curves that are drawn before anybody asks for others


def headline(evaluation: LabelEvaluation, history: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the whole."""
    tests = [line for line in records(history) if line["kind"] == "test"]
    return {
        "images": evaluation.num_images,
        "labelled": evaluation.num_images - evaluation.num_unlabelled,
        "unlabelled": evaluation.num_unlabelled,
        "classes": evaluation.num_classes,
        "without": int((evaluation.per_label.support == 0).sum()),
        "map": evaluation.map_at_100,
        "map_of_found": evaluation.map_of_found,
        "macro_ap": evaluation.macro_ap,
        "micro_ap": evaluation.micro_ap,
        "micro_f1": evaluation.micro_f1,
        "macro_f1": evaluation.macro_f1,
        "at": AT,
        "precision_at": evaluation.precision_at,
        "recall_at": evaluation.recall_at,
        "loss": evaluation.loss if math.isfinite(evaluation.loss) else None,
        "weights": tests[-1].get("weights") if tests else None,
    }


def baseline(
    targets: Tensor,
    train: Sequence[int] | None,
    num_classes: int,
    absent_is_unknown: bool,
    weights: Tensor | None = None,
) -> dict[str, Any] | None:
    """MAP@100 of ranking labels by how frequent they are, the same for every image; None if no image has a label.

    targets: int64 [N, P], of which MOST_RANKED are taken evenly: `images` says how many, `all` whether that is every
    one. train: images of each label in training; without it (`known` is False) `targets` tell how frequent they are.
    absent_is_unknown, weights: as for the meters.
    """
    labelled = (targets >= 0).any(1).nonzero()[:, 0].tolist()
    if not labelled:
        return None
    if train is None:
        own = memberships(targets)[1]
        frequency = own[own < num_classes].bincount(minlength=num_classes)
    else:
        frequency = torch.tensor(train)
    chosen = targets[torch.tensor(evenly(labelled, MOST_RANKED))]
    found, counted = [], []
    for rows in chosen.split(CHUNK):
        truth = truth_of(rows, num_classes, absent_is_unknown)
        top = best(
            frequency.float().expand(truth.shape).masked_fill(truth < 0, -torch.inf), min(K, num_classes)
        )
        perfect, gains = weighed(rows, top, num_classes, weights)
        found.append(average_precision_at(truth.gather(1, top) == 1, perfect, gains)[0])
        counted.append(perfect > 0)
    return {
        "map": float(torch.cat(found)[torch.cat(counted)].mean()),
        "images": len(chosen),
        "all": len(chosen) == len(labelled),
        "known": train is not None,
    }


def columns(
    evaluation: LabelEvaluation, train: Sequence[int] | None, order: Sequence[int]
) -> list[list[Any]]:
    """Those of the table of labels beside their names, label order[k] in row k; None where there is no number."""
    numbers, said = evaluation.per_label, evaluation.said
    times_said = said[said >= 0].bincount(minlength=evaluation.num_classes)
    nothing, unsaid = numbers.support == 0, times_said == 0
    ratios = (
        numbers.average_precision,
        numbers.precision.masked_fill(unsaid, torch.nan),
        numbers.recall.masked_fill(nothing, torch.nan),
        numbers.f1.masked_fill(nothing & unsaid, torch.nan),
        evaluation.thresholds,
        numbers.best_threshold,
    )
    chosen = torch.tensor(order, dtype=torch.int64)
    found: list[list[Any]] = [[train[k] for k in order]] if train is not None else []
    found.append(numbers.support[chosen].long().tolist())
    for ratio in ratios:
        values = ratio[chosen].tolist()
        found.append([round(value, DIGITS) if math.isfinite(value) else None for value in values])
    return found


def precision_recall(evaluation: LabelEvaluation, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Of all pairs of an image and a label, and of the most frequent labels, each with the `ap` under it."""
    found: list[dict[str, Any]] = []
    for k, points in evaluation.curves.items():
        together = k < 0
        found.append(
            {
                "name": "all labels together" if together else classes[k],
                "together": together,
                "on": len(found) < ON_AT_FIRST,
                "recall": [round(recall, DIGITS) for recall, _ in points],
                "precision": [round(precision, DIGITS) for _, precision in points],
                "ap": round(
                    evaluation.micro_ap if together else float(evaluation.per_label.average_precision[k]),
                    DIGITS,
                ),
            }
        )
    return found


def together(evaluation: LabelEvaluation, targets: Tensor, said: Tensor) -> dict[str, Any] | None:
    """Of images with one of the MOST_TOGETHER most frequent labels, the share that has each other one, and the same of
    what was said; None for fewer than two labels.

    targets, said: int [N, P], rows of labels of the same N images. `differences`: the pairs whose shares lie furthest
    apart, where at least FEWEST images have the first label and are said to have it.
    """
    support = evaluation.per_label.support
    chosen = [k for k in support.argsort(descending=True, stable=True)[:MOST_TOGETHER].tolist() if support[k]]
    if len(chosen) < 2:
        return None
    true, called = (counted_together(rows, chosen, evaluation.num_classes) for rows in (targets, said))
    return {
        "labels": chosen,
        "true": true.tolist(),
        "said": called.tolist(),
        "differences": _differences(true, called, chosen),
        "numbered": len(chosen) <= NUMBERED,
        "images": len(targets),
        "all": len(targets) == evaluation.num_images,
        "cell_pixels": max(13, min(34, 330 // len(chosen))),
    }


def counted_together(rows: Tensor, chosen: Sequence[int], num_classes: int) -> Tensor:
    """int64 [C, C]: images that have both of two `chosen` labels, and on the diagonal those that have one."""
    place = torch.full((num_classes,), -1)
    place[torch.tensor(chosen)] = torch.arange(len(chosen))
    images, numbers = memberships(rows)
    known = numbers < num_classes
    images, places = images[known], place[numbers[known].long()]
    has = torch.zeros(len(rows), len(chosen))
    has[images[places >= 0], places[places >= 0]] = 1
    return (has.T @ has).long()  # exact: there are fewer images than float32 has whole numbers


def _differences(true: Tensor, said: Tensor, chosen: Sequence[int]) -> list[dict[str, Any]]:
    shares, told = (counts / counts.diagonal()[:, None].clamp(min=1) for counts in (true, said))
    apart = (told - shares).abs()
    enough = (true.diagonal() >= FEWEST) & (said.diagonal() >= FEWEST)
    apart[~enough] = 0
    apart.fill_diagonal_(0)
    found = []
    for place in apart.flatten().argsort(descending=True, stable=True)[:MOST_DIFFERENCES].tolist():
        i, j = divmod(place, len(chosen))
        if apart[i, j] >= 0.005:  # else both are the same percentage
            pair = {"label": chosen[i], "other": chosen[j]}
            found.append({**pair, "true": float(shares[i, j]), "said": float(told[i, j])})
    return found
