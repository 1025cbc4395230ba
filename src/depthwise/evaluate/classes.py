"""What a report shows where each image is of one class: accuracy, confusions, mistakes, classes and certainty."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from depthwise.data.dataset import Split
from depthwise.data.spread import evenly
from depthwise.data.targets import memberships
from depthwise.errors import DepthwiseError
from depthwise.evaluate import sections
from depthwise.evaluate.metrics import ClassEvaluation
from depthwise.evaluate.order import natural_order, reordered
from depthwise.evaluate.pictures import picture, veil
from depthwise.evaluate.report import (
    MOST_ROWS,
    MOST_SAMPLES,
    Page,
    ReportData,
    Section,
    rendered,
)
from depthwise.heat import Heat, Look

MISTAKE_PIXELS = 224
MOST_LOOKED_AT = 2**18  # images of which samples are chosen


@dataclass(frozen=True, eq=False)
class Mistake:
    """An image (uint8 [C, H, W]) that was called something else, the probabilities of both classes, and where the
    network looked for what it said."""

    name: str
    image: Tensor
    true: int
    predicted: int
    probability: float
    true_probability: float
    heat: Heat | None = None


def class_page(data: ReportData) -> Page:
    """The page of a `ClassEvaluation`, with the classes in the order in which people count."""
    order = natural_order(data.classes)
    place = {k: shown for shown, k in enumerate(order)}
    classes, evaluation = [data.classes[k] for k in order], reordered(data.evaluation, order)
    mistakes = [
        replace(mistake, true=place[mistake.true], predicted=place[mistake.predicted])
        for mistake in data.findings
    ]
    headline = sections.headline(evaluation, data.history)
    certainty = sections.certainty(evaluation)

    values = {
        "classes": classes,
        "headline": headline,
        "matrix": sections.matrix(evaluation, classes),
        "pairs": sections.confused_pairs(evaluation, classes),
        "per_class": sections.per_class(evaluation, classes),
        "mistakes": [
            (
                mistake,
                picture(mistake.image, MISTAKE_PIXELS),
                None if mistake.heat is None else veil(mistake.heat),
            )
            for mistake in mistakes
        ],
    }
    keys = ["confusion", "mistakes", "classes", *(["certainty"] if certainty else [])]
    shown = [Section(key, key.capitalize(), rendered(f"class_{key}.html", **values)) for key in keys]
    result = rendered("class_result.html", headline=headline, split=data.split, selection=data.selection)
    return Page(result, shown, {"certainty": certainty}, "nats")


def collect_mistakes(
    evaluation: ClassEvaluation, split: Split, look: Look | None = None, *, limit: int = 24
) -> list[Mistake]:
    """The `limit` mistakes that the network was surest of, the surest first; an image gone since is passed over."""
    wrong = (evaluation.predicted != evaluation.labels).nonzero()[:, 0]
    sure = evaluation.probability[wrong]
    found: list[Mistake] = []
    for k in wrong[sure.argsort(descending=True, stable=True)].tolist():
        if len(found) == limit:
            break
        place, true, said = (int(v[k]) for v in (evaluation.indices, evaluation.labels, evaluation.predicted))
        try:
            image = split.image(place)
        except DepthwiseError:
            continue
        odds = float(evaluation.probability[k]), float(evaluation.true_probability[k])
        found.append(Mistake(split.name(place), image, true, said, *odds, look and look(image, said)))
    return found


def collect_samples(split: Split, num_classes: int, per_class: int = 8) -> dict[int, list[Tensor]]:
    """Up to `per_class` images of each class, spread evenly over the split; of very many classes, of some only."""
    classes = range(num_classes)
    if num_classes > MOST_ROWS:
        per_class, classes = 1, range(0, num_classes, -(-num_classes // MOST_SAMPLES))
    looked_at = torch.tensor(evenly(range(len(split)), MOST_LOOKED_AT), dtype=torch.int64)
    images, shown = memberships(split.targets(looked_at))
    samples: dict[int, list[Tensor]] = {}
    for k in classes:
        places = evenly(looked_at[images[shown == k]].tolist(), per_class)
        if places:
            samples[k] = [image for i in places if (image := _readable(split, i)) is not None]
    return samples


def _readable(split: Split, i: int) -> Tensor | None:
    try:
        return split.image(i)
    except DepthwiseError:
        return None
