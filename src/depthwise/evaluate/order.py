"""An evaluation with its classes in another order: what is shown counts 9 before 10, a network's own order does not."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from depthwise.data.names import natural_key
from depthwise.evaluate.metrics import Evaluation, PerClass


def natural_order(classes: Sequence[str]) -> list[int]:
    """The classes' numbers in the order in which people expect their names."""
    return sorted(range(len(classes)), key=lambda k: natural_key(classes[k]))


def reordered(evaluation: Evaluation, order: Sequence[int]) -> Evaluation:
    """The same evaluation where class k is what was class order[k]."""
    places = torch.tensor(order)
    numbers = places.argsort()
    old = evaluation.per_class
    return replace(
        evaluation,
        confusion=evaluation.confusion[places][:, places],
        per_class=PerClass(*(values[places] for values in (old.precision, old.recall, old.f1, old.support))),
        probabilities=evaluation.probabilities[:, places],
        predicted=numbers[evaluation.predicted],
        labels=numbers[evaluation.labels],
    )
