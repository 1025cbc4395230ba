"""Every number that follows from which class a network says an image shows: counted exactly, each image once.

Nothing is averaged over batches, so neither the batch size nor a short last batch changes a result, and a few numbers
are kept of each image, so nothing grows with the square of the classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depthwise.errors import DepthwiseError
from depthwise.evaluate.meters import Batches, Headline, finite, run_meters

TOP = 5

MOST_IN_MATRIX = 1000
"""Classes up to which a confusion matrix is made: one of 17,000 would have 289 million numbers."""

MOST_CONFUSED = 10_000
"""Pairs of confused classes that the JSON of an evaluation lists where it has no matrix."""


@dataclass(frozen=True)
class PerClass:
    """Precision, recall, F1 (0 to 1) and support (images that truly are of the class), float64 [K] each.

    A ratio whose denominator is zero, as for a class that was never said, is 0.
    """

    precision: Tensor
    recall: Tensor
    f1: Tensor
    support: Tensor


@dataclass(frozen=True, eq=False)
class ClassEvaluation:
    """What a network said about n images of K classes.

    `loss` is the mean cross-entropy in nats, without label smoothing; `top1` and `top5` are fractions (`top5`
    is None when K <= 5, where it would say nothing). `calibration_error` is the expected calibration error over 15
    equal bins (Guo 2017, section 2). Of two classes with the same score, the one with the lower index ranks first.
    Of each image, in the order of the split: what it is, what it was called, the probabilities of both, and its place.
    """

    num_classes: int
    loss: float
    top5: float | None
    calibration_error: float
    labels: Tensor  # int64 [n]
    predicted: Tensor  # int64 [n]
    probability: Tensor  # float32 [n], of the predicted class
    true_probability: Tensor  # float32 [n], of the true class
    indices: Tensor  # int64 [n], places in the split

    headline: ClassVar[Headline] = Headline("top1", "top-1", "{value} of {images} are right")

    @property
    def num_images(self) -> int:
        """How many images were evaluated."""
        return len(self.labels)

    @cached_property
    def num_wrong(self) -> int:
        """How many of them were called something they are not."""
        return int((self.predicted != self.labels).sum())

    @property
    def top1(self) -> float:
        """The share of images that were called what they are."""
        return (self.num_images - self.num_wrong) / self.num_images

    @property
    def numbers(self) -> dict[str, float | None]:
        """What a line of metrics says."""
        return {"loss": self.loss, "top1": self.top1, "top5": self.top5}

    @cached_property
    def per_class(self) -> PerClass:
        """The ratios of each class."""
        hits, said, support = (
            values.bincount(minlength=self.num_classes).double()
            for values in (self.labels[self.labels == self.predicted], self.predicted, self.labels)
        )
        return PerClass(
            precision=hits / said.clamp(min=1),
            recall=hits / support.clamp(min=1),
            f1=2 * hits / (said + support).clamp(min=1),
            support=support,
        )

    @cached_property
    def said(self) -> Tensor:
        """int64 [K]: how many images were called so."""
        return self.predicted.bincount(minlength=self.num_classes)

    @property
    def confusion(self) -> Tensor:
        """int64 [K, K]: how many images of class t were called p.

        Raises DepthwiseError above MOST_IN_MATRIX classes.
        """
        if self.num_classes > MOST_IN_MATRIX:
            raise DepthwiseError(
                f"a confusion matrix of {self.num_classes:,} classes has {self.num_classes**2:,} numbers, and is made "
                f"for {MOST_IN_MATRIX:,} at most: take `confused`, which lists what was confused"
            )
        return self.confusion_of(torch.arange(self.num_classes))

    def confusion_of(self, classes: Tensor) -> Tensor:
        """int64 [k, k]: the rows and columns of the confusion matrix that `classes`, int64 [k], have."""
        count = len(classes)
        places = torch.full((self.num_classes,), -1)
        places[classes] = torch.arange(count)
        true, said = places[self.labels], places[self.predicted]
        shown = (true >= 0) & (said >= 0)
        return (true[shown] * count + said[shown]).bincount(minlength=count * count).reshape(count, count)

    @cached_property
    def confused(self) -> list[tuple[int, int, int]]:
        """(true, said, images) of all that were confused, the most frequent first, then by class."""
        wrong = self.predicted != self.labels
        return counted_pairs(self.labels[wrong], self.predicted[wrong], self.num_classes)

    def to_json(self) -> dict[str, Any]:
        """The numbers without the single images, as plain values; one that is not finite becomes None.

        "confusion" is the matrix; above MOST_IN_MATRIX classes "confused" stands there instead.
        """
        if self.num_classes > MOST_IN_MATRIX:
            confusions: dict[str, Any] = {"confused": [list(pair) for pair in self.confused[:MOST_CONFUSED]]}
        else:
            confusions = {"confusion": self.confusion.tolist()}
        return {
            "images": self.num_images,
            "wrong": self.num_wrong,
            "loss": finite(self.loss),
            "top1": self.top1,
            "top5": self.top5,
            "calibration_error": finite(self.calibration_error),
            "per_class": {
                "precision": self.per_class.precision.tolist(),
                "recall": self.per_class.recall.tolist(),
                "f1": self.per_class.f1.tolist(),
                "support": [int(n) for n in self.per_class.support],
            },
            **confusions,
        }


def counted_pairs(first: Tensor, second: Tensor, num_classes: int) -> list[tuple[int, int, int]]:
    """(a, b, times) of all pairs in int64 [n] and [n], the most frequent first, then by a and b."""
    codes, times = (first * num_classes + second).unique(return_counts=True)
    order = times.argsort(descending=True, stable=True)
    first, second = codes[order] // num_classes, codes[order] % num_classes
    return list(zip(first.tolist(), second.tolist(), times[order].tolist(), strict=True))


class _Counted(NamedTuple):
    """A batch's images: int64, int64, float32, float32, int64, float64 (nats) and bool, [N] each."""

    labels: Tensor
    predicted: Tensor
    probability: Tensor
    true_probability: Tensor
    indices: Tensor
    losses: Tensor
    in_top: Tensor


class ClassMeters:
    """Meters of scores [N, K] for images whose classes are int64 [N]; 41 bytes an image, whatever K is."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._parts: list[_Counted] = []

    @property
    def num_images(self) -> int:
        """How many images have been counted."""
        return sum(len(part.labels) for part in self._parts)

    def update(self, output: Any, targets: Tensor, indices: Tensor) -> None:
        """Count a batch; scores are compared in float32.

        Raises DepthwiseError if the scores are not [N, num_classes], or a label is no class.
        """
        _check(output, targets, self.num_classes)
        logits, labels = output.float().cpu(), targets.cpu()
        # A score that is no number ranks first, as it does where PyTorch sorts.
        scores = logits.masked_fill(logits.isnan(), math.inf)
        own = scores.gather(1, labels[:, None])
        earlier = torch.arange(self.num_classes) < labels[:, None]
        rank = (scores > own).sum(1) + ((scores == own) & earlier).sum(1)
        predicted, probabilities = scores.argmax(1), logits.softmax(1)
        part = _Counted(
            labels,
            predicted,
            probabilities.gather(1, predicted[:, None])[:, 0],
            probabilities.gather(1, labels[:, None])[:, 0],
            indices.cpu(),
            F.cross_entropy(logits.double(), labels, reduction="none"),
            rank < TOP,
        )
        self._parts.append(part)

    def merge(self, other: Self) -> None:
        """Count what `other` has counted."""
        self._parts += other._parts

    def compute(self) -> ClassEvaluation:
        """The evaluation, with the images in the order of their split."""
        whole = _Counted(*(torch.cat(values) for values in zip(*self._parts, strict=True)))
        order = whole.indices.argsort(stable=True)
        counted = _Counted(*(values[order] for values in whole))
        # The sum is added up as cross_entropy does for all images at once, to the last bit.
        loss = F.nll_loss(-counted.losses[:, None], torch.zeros_like(counted.labels))
        in_top = int(counted.in_top.sum()) / len(counted.labels)
        return ClassEvaluation(
            num_classes=self.num_classes,
            loss=float(loss),
            top5=in_top if self.num_classes > TOP else None,
            calibration_error=_calibration_error(counted),
            labels=counted.labels,
            predicted=counted.predicted,
            probability=counted.probability,
            true_probability=counted.true_probability,
            indices=counted.indices,
        )


def evaluate(
    module: nn.Module,
    batches: Batches,
    *,
    num_classes: int,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> ClassEvaluation:
    """What `module`, whose scores are [N, num_classes], is worth on `batches` with labels int64 [N]; see `run_meters`.

    Whatever `precision` is, scores are compared in float32 and the loss is added up in float64.

    Raises:
        UsageError: `precision` is neither "float32" nor "bfloat16".
        DepthwiseError: there is no image, the scores are not [N, num_classes], or a label is no class.
    """
    meters = ClassMeters(num_classes)
    return run_meters(module, batches, meters, device=device, precision=precision, progress=progress)


def from_logits(logits: Tensor, labels: Tensor, indices: Tensor | None = None) -> ClassEvaluation:
    """The evaluation of scores float32 [n, K] for images whose classes are `labels`, int64 [n], n >= 1."""
    meters = ClassMeters(logits.shape[1])
    meters.update(logits, labels, torch.arange(len(labels)) if indices is None else indices)
    return meters.compute()


def _calibration_error(counted: _Counted) -> float:
    # Imported here: whoever only predicts should not wait for it.
    from torchmetrics.functional.classification import binary_calibration_error

    if not counted.probability.isfinite().all():
        return math.nan
    # Of the answers given and whether they are right: the error over classes is that of this pair.
    right = (counted.predicted == counted.labels).long()
    return float(binary_calibration_error(counted.probability, right, n_bins=15, validate_args=False))


def _check(scores: Any, targets: Tensor, num_classes: int) -> None:
    if not isinstance(scores, Tensor) or scores.shape != (len(targets), num_classes):
        got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise DepthwiseError(
            f"the network answers {got} where {[len(targets), num_classes]} scores are due: "
            f"evaluate a network with {num_classes} classes, one score each"
        )
    if targets.ndim > 1:
        raise DepthwiseError(
            "these images have any number of labels each, and the network names one class: evaluate it on images of "
            "one class each"
        )
    lowest, highest = int(targets.min()), int(targets.max())
    if lowest < 0 or highest >= num_classes:
        raise DepthwiseError(
            f"labels run from {lowest} to {highest}, but {num_classes} classes are numbered "
            f"from 0 to {num_classes - 1}: check the data set's list of classes"
        )
