"""An evaluation with its classes in another order: what is shown counts 9 before 10, a network's own order does not."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from depthwise.data.names import natural_key
from depthwise.evaluate.metrics import ClassEvaluation


def natural_order(classes: Sequence[str]) -> list[int]:
    """The classes' numbers in the order in which people expect their names."""
    return sorted(range(len(classes)), key=lambda k: natural_key(classes[k]))


def reordered(evaluation: ClassEvaluation, order: Sequence[int]) -> ClassEvaluation:
    """The same evaluation where class k is what was class order[k]."""
    numbers = torch.tensor(order).argsort()
    return replace(evaluation, predicted=numbers[evaluation.predicted], labels=numbers[evaluation.labels])
