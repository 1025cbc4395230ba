"""How well scores order images, a class at a time: what every threshold would give, in bounded memory.

Up to MOST_EXACT scores are kept and compared as they are. Of more, each class keeps how many of its images, and of the
others, have a score in each of NUM_STEPS steps of the logit; two scores in one step then count as equal. Which of the
two it is depends on the number of scores alone, so it does not matter in what batches or parts they came.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

MOST_EXACT = 2**25
"""Scores that are kept as they are, 5 bytes each: images times classes."""

NUM_STEPS, STEP = 1024, 1 / 32
"""Of the logit, from -16 to 16; what is beyond counts as at the end."""


MOST_OFTEN = 2
"""Times as often as a class is there, a tuned threshold may say it."""


class Cuts(NamedTuple):
    """What each threshold gives: at the score `lowest` float32 [M] and above, `said` float64 [M] images, `hits` of
    them rightly. Scores fall from cut to cut; equal scores are one cut."""

    lowest: Tensor
    hits: Tensor
    said: Tensor

    @property
    def average_precision(self) -> float:
        """The sum over cuts of the precision times the gain in recall, as scikit-learn's; needs a positive."""
        gained = self.hits.diff(prepend=self.hits.new_zeros(1))
        return float((gained * self.hits / self.said).sum() / self.hits[-1])

    @property
    def best(self) -> tuple[float, float]:
        """The highest F1, and the score from which on to say the class for it; needs a positive.

        The class is said of at most MOST_OFTEN times as many images as are of it: of a class that a network does not
        know, F1 alone is highest where it is said of every image (Lipton 2014, arXiv 1402.1892). The threshold lies
        midway to the next lower score. Of equal F1, the highest threshold; (0, above all scores) if there is none.
        """
        f1 = 2 * self.hits / (self.said + self.hits[-1])
        highest, at = f1.masked_fill(self.said > MOST_OFTEN * self.hits[-1], 0.0).max(0)
        if highest == 0:
            return 0.0, float(self.lowest[0]) + 1
        k = int(at)
        lowest = float(self.lowest[k])
        below = float(self.lowest[k + 1]) if k + 1 < len(self.lowest) else lowest - 1
        return float(highest), max(below, (lowest + below) / 2)

    def curve(self, points: int) -> list[tuple[float, float]]:
        """(recall, precision) at up to `points` cuts, evenly spaced by the images that are said rightly."""
        wanted = torch.linspace(0, 1, points, dtype=torch.float64) * self.hits[-1]
        chosen = torch.searchsorted(self.hits, wanted.clamp(min=1)).clamp(max=len(self.hits) - 1).unique()
        recall, precision = self.hits / self.hits[-1], self.hits / self.said
        return list(zip(recall[chosen].tolist(), precision[chosen].tolist(), strict=True))


def exact_cuts(scores: Tensor, truth: Tensor) -> Cuts:
    """Those of float32 [n] scores for images of which `truth`, bool [n], says whether they are of the class."""
    scores, order = scores.sort(descending=True)
    ends = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)]).nonzero()[:, 0]
    hits = truth[order].double().cumsum(0)
    return Cuts(scores[ends], hits[ends], (ends + 1).double())


def _stepped_cuts(of_class: Tensor, others: Tensor) -> Cuts:
    """Those of the images in each step, int64 [NUM_STEPS] each, from the lowest step up."""
    said = (of_class + others).flip(0)
    kept = said > 0
    lowest = ((torch.arange(NUM_STEPS) - NUM_STEPS // 2) * STEP).flip(0)
    return Cuts(
        lowest[kept].float(), of_class.flip(0).cumsum(0)[kept].double(), said.cumsum(0)[kept].double()
    )


@dataclass(frozen=True, eq=False)
class _Part:
    scores: Tensor  # float32 [N, K]
    truth: Tensor  # int8 [N, K]: 1 of the class, 0 not, -1 unknown


class Rankings:
    """The scores of images for each of `num_classes`, counted as they come."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._parts: list[_Part] = []
        self._num_images = 0
        self._steps: Tensor | None = None

    def update(self, scores: Tensor, truth: Tensor) -> None:
        """Count float32 [N, K] logits of images of which `truth`, int8 [N, K], says 1, 0, or -1 where nobody looked."""
        self._num_images += len(scores)
        self._parts.append(_Part(scores, truth))
        self._bound()

    def merge(self, other: Self) -> None:
        """Count what `other` has counted."""
        self._num_images += other._num_images
        self._parts += other._parts
        if other._steps is not None:
            self._steps = other._steps + (0 if self._steps is None else self._steps)
        self._bound()

    def cuts(self) -> list[Cuts | None]:
        """Of each class what its thresholds give; None if no image is of it."""
        if self._steps is not None:
            of_class, others = self._steps.long()
            return [
                _stepped_cuts(of_class[k], others[k]) if of_class[k].any() else None
                for k in range(self.num_classes)
            ]
        if not self._parts:
            return [None] * self.num_classes
        scores = torch.cat([part.scores for part in self._parts]).T.contiguous()
        truth = torch.cat([part.truth for part in self._parts]).T.contiguous()
        found: list[Cuts | None] = []
        for own, true in zip(scores, truth, strict=True):
            known = true >= 0
            found.append(exact_cuts(own[known], true[known] > 0) if (true > 0).any() else None)
        return found

    def together(self) -> Cuts | None:
        """Those of all pairs of an image and a class, under one threshold; None if no image is of any."""
        if self._steps is not None:
            of_class, others = self._steps.sum(1)
            return _stepped_cuts(of_class, others) if of_class.any() else None
        truth = torch.cat(
            [part.truth.flatten() for part in self._parts] or [torch.empty(0, dtype=torch.int8)]
        )
        if not (truth > 0).any():
            return None
        scores = torch.cat([part.scores.flatten() for part in self._parts])
        return exact_cuts(scores[truth >= 0], truth[truth >= 0] > 0)

    def _bound(self) -> None:
        if self._steps is None and self._num_images * self.num_classes <= MOST_EXACT:
            return
        if self._steps is None:
            self._steps = torch.zeros(2, self.num_classes, NUM_STEPS, dtype=torch.int32)
        for part in self._parts:
            steps = (part.scores / STEP).floor().clamp(-(NUM_STEPS // 2), NUM_STEPS // 2 - 1).long()
            places = steps + NUM_STEPS // 2 + torch.arange(self.num_classes) * NUM_STEPS
            for kind, value in ((0, 1), (1, 0)):
                counted = places[part.truth == value].bincount(minlength=self.num_classes * NUM_STEPS)
                self._steps[kind] += counted.reshape(self.num_classes, NUM_STEPS)
        self._parts = []
