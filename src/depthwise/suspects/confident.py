"""Which labels look wrong, by confident learning on the answers of networks that did not learn from the images.

Northcutt, Jiang and Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset Labels (arXiv 1911.00068).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_KEPT = 16
"""How many probabilities of an image are kept, the highest. One that is not is below 1/16, and would count only for a
class that the network gives its own images less than that on average."""

SAME = 1e-6
"""Probabilities that differ by less are the same: a mean of equal numbers may be larger than they are."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What networks said of n images that they did not learn from.

    places: int64 [n], of the images in their set. given: int64 [n], the class that each is labelled as; own: float32
    [n], its probability. likely: int64 [n, m], the likeliest classes, the likeliest first; odds: float32 [n, m], their
    probabilities. distance: float32 [n], how far the image lies from those like it, see `looking.py`.
    """

    places: Tensor
    given: Tensor
    own: Tensor
    likely: Tensor
    odds: Tensor
    distance: Tensor

    def __len__(self) -> int:
        return len(self.places)

    def at(self, chosen: Tensor) -> "Answers":
        """Those of the images that `chosen`, bool or int64, picks."""
        return Answers(*(values[chosen] for values in vars(self).values()))


@dataclass(frozen=True, eq=False)
class Doubts:
    """Labels that look wrong, the likeliest to be first. m of n answers.

    rows: int64 [m], which of the answers. suggested: int64 [m], the class that the image looks like; odds: float32
    [m], its probability. score: float32 [m], by how much that is above the label's own.
    """

    rows: Tensor
    suggested: Tensor
    odds: Tensor
    score: Tensor


def joined(parts: list[Answers]) -> Answers:
    """The answers of all of them, one after the other; at least one."""
    return Answers(
        *(torch.cat(values) for values in zip(*(vars(part).values() for part in parts), strict=True))
    )


def thresholds(answers: Answers, num_classes: int) -> Tensor:
    """float64 [K]: how likely a class is said to be of images labelled as it, on average (section 3.1, equation 2).

    Infinite for a class without images: nothing is known of it.
    """
    counts = answers.given.bincount(minlength=num_classes)
    sums = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, answers.given, answers.own.double())
    return torch.where(counts > 0, sums / counts.clamp(min=1), torch.inf)


def doubted(answers: Answers, num_classes: int) -> Doubts:
    """The images counted off the diagonal of the confident joint (section 3.1, equation 1).

    An image is counted as the likeliest of the classes whose probability reaches the class's threshold. Left out are,
    as cleanlab does it, images of which the label is still what is likeliest. The order is by normalised margin.
    """
    reached = answers.odds.double() >= thresholds(answers, num_classes)[answers.likely] - SAME
    place = (reached.cumsum(1) == 0).sum(1).clamp(max=reached.shape[1] - 1)[:, None]
    suggested, odds = answers.likely.gather(1, place)[:, 0], answers.odds.gather(1, place)[:, 0]
    score = odds - answers.own
    wrong = reached.any(1) & (suggested != answers.given) & (score > 0)
    rows = wrong.nonzero()[:, 0]
    rows = rows[score[rows].argsort(descending=True, stable=True)]
    return Doubts(rows, suggested[rows], odds[rows], score[rows])
