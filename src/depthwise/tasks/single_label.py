"""Which one of the classes an image shows: cross-entropy, softmax, and accuracy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from depthwise.data.dataset import Split
from depthwise.data.loader import Prepare
from depthwise.data.targets import class_counts
from depthwise.data.transform import Augment
from depthwise.errors import DepthwiseError, UsageError, shown
from depthwise.evaluate.meters import Headline
from depthwise.evaluate.metrics import TOP, ClassEvaluation, ClassMeters
from depthwise.heat import Look
from depthwise.tasks.losses import Loss, Plain
from depthwise.tasks.mixing import mixer

if TYPE_CHECKING:  # a report takes libraries that predictions do without
    from depthwise.evaluate.classes import Mistake
    from depthwise.evaluate.report import Page, ReportData
    from depthwise.evaluate.tables import Table

MOST_DROP = 0.005
"""Of top-1 accuracy, as a fraction, before a compiled network is refused."""


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """PyTorch's cross-entropy with class `weights`, float32 [K], on a `device`, and label `smoothing`."""

    weights: Tensor
    device: torch.device
    smoothing: float = 0.0

    @cached_property
    def _on_device(self) -> Tensor:
        return self.weights.to(self.device)

    def normaliser(self, targets: Tensor) -> float:
        """The sum of the images' class weights; for targets that are probabilities, the number of images."""
        if targets.ndim > 1:
            return len(targets)
        return float(self.weights[targets].sum())

    def mean(self, output: Tensor, targets: Tensor) -> Tensor:
        """In nats, of logits [N, K] for int64 [N], or for float32 [N, K] where images were mixed."""
        return F.cross_entropy(output.float(), targets, self._on_device, label_smoothing=self.smoothing)


@dataclass(frozen=True)
class SingleLabel:
    """Each image is of one class. Targets are the classes' numbers, int64 [N]; a network has a logit for each class."""

    num_classes: int
    name: ClassVar[str] = "single-label"
    headline: ClassVar[Headline] = ClassEvaluation.headline
    hits_name: ClassVar[str] = "accuracy"

    @staticmethod
    def of(classes: Sequence[str], arguments: Mapping[str, Any]) -> "SingleLabel":
        """The task over `classes`; there are no `arguments`."""
        if arguments:
            raise DepthwiseError(
                f"task_args={shown(dict(arguments))}: {SingleLabel.name} takes none, leave them out"
            )
        return SingleLabel(len(classes))

    @property
    def arguments(self) -> dict[str, Any]:
        """None."""
        return {}

    @property
    def num_outputs(self) -> int:
        """A logit for each class."""
        return self.num_classes

    def prepare(self, augment: Augment | None) -> Prepare | None:
        """Mixup, cutmix, or of both one a batch; mixed targets are float32 [N, K]."""
        return mixer(augment, self.num_classes)

    def objective(
        self, train: Split, device: torch.device, *, loss: Loss, label_smoothing: float, class_weights: str
    ) -> CrossEntropy:
        """Cross-entropy; "balanced" weighs each class by the inverse of its share in `train`."""
        if not isinstance(loss, Plain):
            raise UsageError(
                f"loss={type(loss).__name__.lower()} is for images of any number of labels, and these are of one class "
                f"each: leave it at cross-entropy"
            )
        alike = class_weights == "none"
        weights = torch.ones(self.num_classes) if alike else balanced(torch.tensor(self.counts(train)))
        return CrossEntropy(weights, device, label_smoothing)

    def hits(self, output: Tensor, targets: Tensor) -> Tensor:
        """Images whose highest logit is that of their class, or of the class that most of a mixed image shows."""
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        return (output.argmax(1) == labels).sum()

    def meters(self) -> ClassMeters:
        """Top-1, top-5, loss, calibration error, and the numbers of each class."""
        return ClassMeters(self.num_classes)

    def answer(self, output: Tensor) -> Tensor:
        """Softmax."""
        return output.softmax(1)

    def choose(self, probabilities: Tensor, topk: int | None, threshold: float | None) -> list[int]:
        """The likeliest five, or `topk`."""
        return likeliest(probabilities, topk or TOP, threshold or 0.0)

    def initial_bias(self, train: Split) -> None:
        """The network's own."""

    def tuned(self, evaluate: Callable[[], ClassEvaluation]) -> "SingleLabel":
        """Nothing is tuned."""
        return self

    def weighted(self, weights: Sequence[float]) -> "SingleLabel":
        """Raises UsageError: each image counts alike."""
        raise UsageError(
            "label weights are for images of any number of labels, and these are of one class each"
        )

    def agreement(self, before: ClassEvaluation, after: ClassEvaluation) -> float:
        """The share of images that were called the same."""
        return float((before.predicted == after.predicted).float().mean())

    def loss_of_precision(self, before: ClassEvaluation, after: ClassEvaluation) -> str:
        """A loss of over half a point of accuracy."""
        if before.top1 - after.top1 <= MOST_DROP:
            return ""
        return f"the accuracy falls from {before.top1:.2%} to {after.top1:.2%}, by more than {MOST_DROP:.1%}"

    def tables(self, evaluation: ClassEvaluation, classes: Sequence[str]) -> "list[Table]":
        """The numbers, and the weakest classes."""
        from depthwise.evaluate.tables import class_tables

        return class_tables(evaluation, classes)

    def counts(self, split: Split) -> list[int]:
        """Images of each class."""
        counts: list[int] = class_counts(split, self.num_classes).tolist()
        return counts

    def samples(self, split: Split) -> dict[int, list[Tensor]]:
        """Images of each class, evenly spread over the split."""
        from depthwise.evaluate.classes import collect_samples

        return collect_samples(split, self.num_classes)

    def findings(
        self, evaluation: ClassEvaluation, split: Split, look: Look | None = None
    ) -> "list[Mistake]":
        """The mistakes that the network was surest of."""
        from depthwise.evaluate.classes import collect_mistakes

        return collect_mistakes(evaluation, split, look)

    def page(self, data: "ReportData") -> "Page":
        """Accuracy, confusions, mistakes, classes and certainty."""
        from depthwise.evaluate.classes import class_page

        return class_page(data)


def likeliest(probabilities: Tensor, most: int, threshold: Tensor | float) -> list[int]:
    """Up to `most` classes whose probability, of float32 [K], reaches its threshold, the likeliest first.

    Of two with the same probability the lower number ranks first, as in evaluation.
    """
    order = probabilities.argsort(descending=True, stable=True)[:most]
    return order[(probabilities >= threshold)[order]].tolist()


def balanced(counts: Tensor) -> Tensor:
    """float32 [K]: n / (classes with images * images of the class), 0 for a class without; scikit-learn's formula."""
    present = counts > 0
    return torch.where(present, int(counts.sum()) / (present.sum() * counts.clamp(min=1)), 0.0)
