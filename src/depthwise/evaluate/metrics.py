"""One pass over a split, and every number that follows from it: counted exactly, each image once.

Nothing is averaged over batches, so neither the batch size nor a short last batch changes a result.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

from depthwise.errors import DepthwiseError, UsageError
from depthwise.modes import in_mode

PRECISIONS = ("float32", "bfloat16")
TOP = 5


class Batch(Protocol):
    """What one step of an evaluation reads; any tuple with these names will do."""

    @property
    def images(self) -> Tensor:
        """float32 [N, C, h, w]."""

    @property
    def targets(self) -> Tensor:
        """int64 [N], the true classes."""

    @property
    def indices(self) -> Tensor:
        """int64 [N], each image's place in its split."""


class Batches(Protocol):
    """The images of a split, in batches; `epoch(0)` goes through them once."""

    def __len__(self) -> int: ...

    def epoch(self, e: int) -> Iterator[Any]: ...


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
class Evaluation:
    """What a network said about n images of K classes.

    `loss` is the mean cross-entropy in nats, without label smoothing; `top1` and `top5` are fractions (`top5`
    is None when K <= 5, where it would say nothing). `confusion[t, p]` counts the images of class t that were
    called p.
    `calibration_error` is the expected calibration error over 15 equal bins (Guo 2017, section 2).
    Of two classes with the same score, the one with the lower index ranks first.
    """

    loss: float
    top1: float
    top5: float | None
    calibration_error: float
    confusion: Tensor  # int64 [K, K]
    per_class: PerClass
    probabilities: Tensor  # float32 [n, K]
    predicted: Tensor  # int64 [n]
    labels: Tensor  # int64 [n]
    indices: Tensor  # int64 [n], places in the split

    @property
    def num_images(self) -> int:
        """How many images were evaluated."""
        return len(self.labels)

    @property
    def num_wrong(self) -> int:
        """How many of them were called something they are not."""
        return self.num_images - int(self.confusion.trace())

    def to_json(self) -> dict[str, Any]:
        """The numbers without the single images, as plain values; one that is not finite becomes None."""
        return {
            "images": self.num_images,
            "wrong": self.num_wrong,
            "loss": _finite(self.loss),
            "top1": self.top1,
            "top5": self.top5,
            "calibration_error": _finite(self.calibration_error),
            "per_class": {
                "precision": self.per_class.precision.tolist(),
                "recall": self.per_class.recall.tolist(),
                "f1": self.per_class.f1.tolist(),
                "support": [int(n) for n in self.per_class.support],
            },
            "confusion": self.confusion.tolist(),
        }


def evaluate(
    module: nn.Module,
    batches: Batches,
    *,
    num_classes: int,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run `module` over `batches` once, without gradients and in evaluation mode, and count.

    The modes of the module and of each of its parts are as before when this returns or raises. `precision` is
    "float32" or "bfloat16" (autocast); either way scores are compared in float32 and the loss is added up in
    float64. `progress(done, total)` hears of each batch.

    Raises:
        UsageError: `precision` is neither of the two.
        DepthwiseError: there is no image, the scores are not [N, num_classes], or a label is no class.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not known: use {' or '.join(PRECISIONS)}")
    device = torch.device(device)
    logits, labels, indices = [], [], []
    with in_mode(module, training=False), torch.inference_mode():
        for done, batch in enumerate(batches.epoch(0), start=1):
            if not len(batch.targets):  # every file of it turned out to be unreadable
                continue
            images = batch.images.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                scores = module(images)
            _check(scores, batch.targets, num_classes)
            logits.append(scores.float().cpu())
            labels.append(batch.targets.cpu())
            indices.append(batch.indices.cpu())
            if progress:
                progress(done, len(batches))
    if not sum(map(len, labels)):
        raise DepthwiseError(
            "there is no image to evaluate: the split is empty or none of its files can be read"
        )
    return from_logits(torch.cat(logits), torch.cat(labels), torch.cat(indices))


def from_logits(logits: Tensor, labels: Tensor, indices: Tensor | None = None) -> Evaluation:
    """The Evaluation of scores float32 [n, K] for images whose classes are `labels`, int64 [n], n >= 1."""
    num_images, num_classes = logits.shape
    ranked = logits.argsort(dim=1, descending=True, stable=True)[:, :TOP]
    predicted = ranked[:, 0].clone()
    confusion = multiclass_confusion_matrix(predicted, labels, num_classes, validate_args=False)
    probabilities = logits.softmax(dim=1)
    return Evaluation(
        loss=float(F.cross_entropy(logits.double(), labels)),
        top1=int(confusion.trace()) / num_images,
        top5=int((ranked == labels[:, None]).sum()) / num_images if num_classes > TOP else None,
        calibration_error=_calibration_error(probabilities, labels),
        confusion=confusion,
        per_class=_per_class(confusion),
        probabilities=probabilities,
        predicted=predicted,
        labels=labels,
        indices=torch.arange(num_images) if indices is None else indices,
    )


def _per_class(confusion: Tensor) -> PerClass:
    hits = confusion.diagonal().double()
    said, support = confusion.sum(0).double(), confusion.sum(1).double()
    return PerClass(
        precision=hits / said.clamp(min=1),
        recall=hits / support.clamp(min=1),
        f1=2 * hits / (said + support).clamp(min=1),
        support=support,
    )


def _calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    if not probabilities.isfinite().all():
        return math.nan
    error = multiclass_calibration_error(probabilities, labels, probabilities.shape[1], validate_args=False)
    return float(error)


def _check(scores: Any, targets: Tensor, num_classes: int) -> None:
    if not isinstance(scores, Tensor) or scores.shape != (len(targets), num_classes):
        got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise DepthwiseError(
            f"the network answers {got} where {[len(targets), num_classes]} scores are due: "
            f"evaluate a network with {num_classes} classes, one score each"
        )
    lowest, highest = int(targets.min()), int(targets.max())
    if lowest < 0 or highest >= num_classes:
        raise DepthwiseError(
            f"labels run from {lowest} to {highest}, but {num_classes} classes are numbered "
            f"from 0 to {num_classes - 1}: check the data set's list of classes"
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
