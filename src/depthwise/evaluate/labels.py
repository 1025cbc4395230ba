"""What a report shows where an image may have any number of labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from depthwise.data.dataset import Split
from depthwise.data.spread import evenly
from depthwise.data.targets import memberships
from depthwise.errors import DepthwiseError
from depthwise.evaluate import label_sections
from depthwise.evaluate.label_metrics import Doubt, LabelEvaluation
from depthwise.evaluate.order import natural_order
from depthwise.evaluate.pictures import Picture, Veil, picture, veil
from depthwise.evaluate.report import Page, ReportData, Section, rendered
from depthwise.heat import Heat, Look

PIXELS = 224
MOST_DOUBTS = 12  # pictures of wrong labels, and as many of missed ones
MOST_NAMED = 5  # labels beside a picture
MOST_LOOKED_AT = 2**16  # images whose labels are counted together


@dataclass(frozen=True, eq=False)
class Doubted:
    """An image (uint8 [C, H, W]) with the `label` that the network was wrong about, and the label's probability.

    true, said: the image's labels that the network knows, and those said of it; num_unknown: its other labels. heat:
    where the network looked for the `label`.
    """

    name: str
    image: Tensor
    label: int
    probability: float
    true: tuple[int, ...]
    said: tuple[int, ...]
    num_unknown: int
    heat: Heat | None = None


@dataclass(frozen=True, eq=False)
class LabelFindings:
    """The labels of up to MOST_LOOKED_AT images, evenly chosen of those evaluated, and pictures of the worst doubts.

    targets: int64 [N, P], rows of labels; said: int32 [N, S], rows of those said.
    """

    targets: Tensor
    said: Tensor
    wrong: Sequence[Doubted]
    missed: Sequence[Doubted]


def collect_findings(evaluation: LabelEvaluation, split: Split, look: Look | None = None) -> LabelFindings:
    """Of the images of `split` that were evaluated."""
    looked_at = torch.tensor(evenly(range(evaluation.num_images), MOST_LOOKED_AT), dtype=torch.int64)
    targets = split.targets(evaluation.indices[looked_at])
    return LabelFindings(
        targets if targets.ndim > 1 else targets[:, None],
        evaluation.said[looked_at],
        _doubted(evaluation.wrong, evaluation, split, look),
        _doubted(evaluation.missed, evaluation, split, look),
    )


def _doubted(
    doubts: Sequence[Doubt], evaluation: LabelEvaluation, split: Split, look: Look | None
) -> list[Doubted]:
    """The first MOST_DOUBTS, of each image one; an image gone since is passed over."""
    found: list[Doubted] = []
    seen: set[int] = set()
    for doubt in doubts:
        if len(found) == MOST_DOUBTS:
            break
        if doubt.place in seen:
            continue
        seen.add(doubt.place)
        try:
            image = split.image(doubt.place)
        except DepthwiseError:
            continue
        own = memberships(split.targets(torch.tensor([doubt.place])))[1].tolist()
        known = [k for k in own if k < evaluation.num_classes]
        row = evaluation.said[torch.searchsorted(evaluation.indices, doubt.place)]
        said = row[row >= 0].tolist()
        name, unknown = split.name(doubt.place), len(own) - len(known)
        odds, heat = doubt.probability, look and look(image, doubt.label)
        found.append(Doubted(name, image, doubt.label, odds, tuple(known), tuple(said), unknown, heat))
    return found


def label_page(
    data: ReportData, *, tuned: bool, absent_is_unknown: bool = False, weights: Tensor | None = None
) -> Page:
    """The page of a `LabelEvaluation` and its `LabelFindings`.

    tuned: the thresholds were tuned for each label; absent_is_unknown, weights: as for the meters.
    """
    evaluation, findings, classes = data.evaluation, data.findings, data.classes
    train = data.counts.get("train")
    together = label_sections.together(evaluation, findings.targets, findings.said)
    values = {
        "classes": classes,
        "evaluation": evaluation,
        "train": train is not None,
        "together": together,
        "heated": any(doubted.heat for doubted in (*findings.wrong, *findings.missed)),
        "doubts": [
            ("wrong", [_shown(doubted, classes) for doubted in findings.wrong]),
            ("missed", [_shown(doubted, classes) for doubted in findings.missed]),
        ],
    }
    titles = {"curves": "Curves", "labels": "Labels", "together": "Together", "doubts": "Mistakes"}
    if not together:
        del titles["together"]
    shown = [Section(key, title, rendered(f"label_{key}.html", **values)) for key, title in titles.items()]
    result = rendered(
        "label_result.html",
        headline=label_sections.headline(evaluation, data.history),
        baseline=label_sections.baseline(
            findings.targets, train, evaluation.num_classes, absent_is_unknown, weights
        ),
        tuned=tuned,
        weighted=weights is not None,
        split=data.split,
        selection=data.selection,
    )
    return Page(
        result,
        shown,
        {"precision": label_sections.precision_recall(evaluation, classes)},
        "nats an image",
        tables={"per-label": label_sections.columns(evaluation, train, natural_order(classes))},
        scores="MAP@100",
        scores_note="Of training batches: images whose likeliest label is one of theirs.",
        counted="labels",
    )


def _shown(
    doubted: Doubted, classes: Sequence[str]
) -> tuple[Doubted, Picture, dict[str, list[str]], Veil | None]:
    """With its picture, what else the image has and was said to have, some names and how many more, and its heat."""
    told = {}
    for key, numbers, unknown in (
        ("is", doubted.true, doubted.num_unknown),
        ("said", doubted.said, 0),
    ):
        others = [classes[k] for k in numbers if k != doubted.label]
        more = max(0, len(others) - MOST_NAMED) + unknown
        told[key] = [*others[:MOST_NAMED], *([f"{more} more"] if more else [])]
    return doubted, picture(doubted.image, PIXELS), told, None if doubted.heat is None else veil(doubted.heat)
