"""Which of the classes an image shows, any number of them: sigmoid cross-entropy, MAP@100, a threshold a class."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from torch import Tensor

from depthwise.bounds import Bounds, fit
from depthwise.data.dataset import Split
from depthwise.data.loader import Prepare
from depthwise.data.targets import class_counts, denial_counts, denials, memberships
from depthwise.data.transform import Augment
from depthwise.errors import DepthwiseError, UsageError
from depthwise.evaluate.label_metrics import LabelEvaluation, LabelMeters
from depthwise.evaluate.meters import Headline
from depthwise.heat import Look
from depthwise.tasks.losses import Loss
from depthwise.tasks.mixing import mixer
from depthwise.tasks.single_label import likeliest

if TYPE_CHECKING:  # a report takes libraries that predictions do without
    from depthwise.evaluate.labels import LabelFindings
    from depthwise.evaluate.report import Page, ReportData
    from depthwise.evaluate.tables import Table

NAME, VERIFIED = "multi-label", "verified-labels"

MOST_DROP = 0.005
"""Of MAP@100, as a fraction, before a compiled network is refused."""

Probability = Annotated[float, Bounds(0, 1)]

THRESHOLD = 0.5
"""The probability from which on a label is said, where nothing was tuned."""


@dataclass(frozen=True, eq=False)
class LabelLoss:
    """A `loss` summed over the labels of an image; the mean over images.

    weights: float32 [K], of each label where it is present. Of a loss with `absent` for labels that an image has not
    and `present` for those that it has, the sum over K labels is that of `absent` over all of them plus that of
    present - absent over the few that the image has: so no matrix of targets is made.

    With absent_is_unknown only labels that were looked for count. smoothing as Keras has it: of a target t, the
    loss is that of t (1 - smoothing) + smoothing / 2.
    """

    loss: Loss
    weights: Tensor
    device: torch.device
    smoothing: float = 0.0
    absent_is_unknown: bool = False

    @cached_property
    def _on_device(self) -> Tensor:
        return self.weights.to(self.device)

    def normaliser(self, targets: Tensor) -> float:
        """The number of images."""
        return len(targets)

    def mean(self, output: Tensor, targets: Tensor) -> Tensor:
        """In nats, of logits [N, K] for rows of labels, int64 [N, P], or float32 [N, K] where images were mixed."""
        x = output.float()
        if targets.is_floating_point():
            present = self.loss.present(x) * self._on_device * targets
            total = (present + self.loss.absent(x) * (1 - targets)).sum()
        else:
            total = self._of_rows(x, targets)
        if self.smoothing:
            both = self.loss.present(x) * self._on_device + self.loss.absent(x)
            total = total * (1 - self.smoothing) + both.sum() * (self.smoothing / 2)
        return total / len(targets)

    def _of_rows(self, x: Tensor, targets: Tensor) -> Tensor:
        images, labels = memberships(targets)
        own = x[images, labels]
        present = (self.loss.present(own) * self._on_device[labels]).sum()
        if self.absent_is_unknown:
            return present + self.loss.absent(x[denials(targets)]).sum()
        return present + (self.loss.absent(x).sum() - self.loss.absent(own).sum())


@dataclass(frozen=True)
class MultiLabel:
    """Each image is of any number of classes. Targets are rows of class numbers, int64 [N, P]; a network has a logit
    for each class.

    thresholds: a probability for each class, from which on it is said; of none, THRESHOLD. absent_is_unknown: a label
    that a row does not name was not looked for; otherwise the image does not have it. weights: of each label in
    MAP@100; of none, all weigh alike.
    """

    num_classes: int
    thresholds: tuple[float, ...] = ()
    absent_is_unknown: bool = False
    weights: tuple[float, ...] = ()
    headline: ClassVar[Headline] = LabelEvaluation.headline
    hits_name: ClassVar[str] = "precision@1"

    @property
    def name(self) -> str:
        """By what is known of a label that is not named."""
        return VERIFIED if self.absent_is_unknown else NAME

    @staticmethod
    def of(
        classes: Sequence[str], arguments: Mapping[str, Any], *, absent_is_unknown: bool = False
    ) -> "MultiLabel":
        """The task over `classes`. arguments: {"thresholds": a probability for each of them}, or nothing.

        Raises DepthwiseError for anything else.
        """
        for key in arguments:
            if key != "thresholds":
                raise DepthwiseError(
                    f"task_args: {key} is unknown to {NAME}, which has thresholds: update depthwise"
                )
        given = fit(arguments.get("thresholds", ()), tuple[Probability, ...], "task_args.thresholds")
        if given and len(given) != len(classes):
            raise DepthwiseError(
                f"task_args.thresholds has {len(given)} probabilities for {len(classes)} classes: give one for each"
            )
        return MultiLabel(len(classes), given, absent_is_unknown)

    @property
    def arguments(self) -> dict[str, Any]:
        """The thresholds, if they were tuned."""
        return {"thresholds": list(self.thresholds)} if self.thresholds else {}

    @property
    def num_outputs(self) -> int:
        """A logit for each class."""
        return self.num_classes

    @cached_property
    def _thresholds(self) -> Tensor:
        return torch.tensor(self.thresholds or [THRESHOLD] * self.num_classes, dtype=torch.float32)

    @cached_property
    def _weights(self) -> Tensor | None:
        return torch.tensor(self.weights, dtype=torch.float64) if self.weights else None

    def prepare(self, augment: Augment | None) -> Prepare | None:
        """Mixup, cutmix, or of both one a batch; mixed targets are float32 [N, K]."""
        mix = mixer(augment, self.num_classes)
        if mix is None:
            return None
        if self.absent_is_unknown:
            raise UsageError(
                "mixup and cutmix have no meaning where a label that is not named is unknown: set them to 0"
            )
        return lambda images, targets: mix(images, self._matrix(targets))

    def _matrix(self, targets: Tensor) -> Tensor:
        matrix = torch.zeros(len(targets), self.num_classes)
        matrix[memberships(targets)] = 1
        return matrix

    def objective(
        self, train: Split, device: torch.device, *, loss: Loss, label_smoothing: float, class_weights: str
    ) -> LabelLoss:
        """`loss`, summed over labels; "balanced" weighs a label that is present by the images without it over those
        with it, as the documentation of PyTorch's BCEWithLogitsLoss has it for pos_weight."""
        if self.absent_is_unknown and label_smoothing:
            raise UsageError(
                "label_smoothing has no meaning where a label that is not named is unknown: set it to 0"
            )
        weights = torch.ones(self.num_classes)
        if class_weights == "balanced":
            present, absent = self._seen(train)
            weights = torch.where((present > 0) & (absent > 0), absent / present.clamp(min=1), 1.0).float()
        return LabelLoss(loss, weights, device, label_smoothing, self.absent_is_unknown)

    def _seen(self, train: Split) -> tuple[Tensor, Tensor]:
        """float64 [K]: of each label the images that have it, and those that have it not."""
        present = class_counts(train, self.num_classes).double()
        if self.absent_is_unknown:
            return present, denial_counts(train, self.num_classes).double()
        return present, len(train) - present

    def initial_bias(self, train: Split) -> Tensor:
        """float32 [K]: the logit of each label's frequency in `train`, as if half an image more had it, and half one
        had it not. A network that starts there need not learn first how rare labels are."""
        present, absent = self._seen(train)
        return ((present + 0.5) / (absent + 0.5)).log().float()

    def hits(self, output: Tensor, targets: Tensor) -> Tensor:
        """Images whose likeliest label is one of theirs, or of either where two were mixed."""
        first = output.argmax(1)[:, None]
        own = targets.gather(1, first) > 0 if targets.is_floating_point() else (targets == first).any(1)
        return own.sum()

    def meters(self) -> LabelMeters:
        """MAP@100, average precision and F1 of each label, precision and recall at a few ranks."""
        return LabelMeters(self.num_classes, self._thresholds, self.absent_is_unknown, self._weights)

    def answer(self, output: Tensor) -> Tensor:
        """Sigmoid."""
        return output.sigmoid()

    def choose(self, probabilities: Tensor, topk: int | None, threshold: float | None) -> list[int]:
        """Those that reach their thresholds, or `threshold`; with `topk` alone, the likeliest so many."""
        if threshold is None:
            least: Tensor | float = self._thresholds if topk is None else 0.0
        else:
            least = threshold
        return likeliest(probabilities, topk or self.num_classes, least)

    def tuned(self, evaluate: Callable[[], LabelEvaluation]) -> "MultiLabel":
        """With the thresholds that gave the highest F1; of a label that no image had, THRESHOLD."""
        best = evaluate().per_label.best_threshold.nan_to_num(THRESHOLD)
        return replace(self, thresholds=tuple(best.float().tolist()))

    def weighted(self, weights: Sequence[float]) -> "MultiLabel":
        """With other weights of the labels in MAP@100."""
        return replace(self, weights=tuple(weights))

    def agreement(self, before: LabelEvaluation, after: LabelEvaluation) -> float:
        """The share of images that were given the same labels."""
        width = max(before.said.shape[1], after.said.shape[1])
        first, second = (
            torch.nn.functional.pad(one.said, (0, width - one.said.shape[1]), value=-1).sort(1).values
            for one in (before, after)
        )
        return float((first == second).all(1).float().mean())

    def loss_of_precision(self, before: LabelEvaluation, after: LabelEvaluation) -> str:
        """A loss of over half a point of MAP@100."""
        if before.map_at_100 - after.map_at_100 <= MOST_DROP:
            return ""
        return f"the MAP@100 falls from {before.map_at_100:.2%} to {after.map_at_100:.2%}, by more than {MOST_DROP:.1%}"

    def tables(self, evaluation: LabelEvaluation, classes: Sequence[str]) -> "list[Table]":
        """The numbers, and the labels that are ranked worst."""
        from depthwise.evaluate.tables import label_tables

        return label_tables(evaluation, classes)

    def counts(self, split: Split) -> list[int]:
        """Images that have each label."""
        counts: list[int] = class_counts(split, self.num_classes).tolist()
        return counts

    def samples(self, split: Split) -> dict[int, list[Tensor]]:
        """Images that have each label, evenly spread over the split."""
        from depthwise.evaluate.classes import collect_samples

        return collect_samples(split, self.num_classes)

    def findings(
        self, evaluation: LabelEvaluation, split: Split, look: Look | None = None
    ) -> "LabelFindings":
        """Labels of images, counted together; the surest of the wrong ones, and the least likely of the missed ones."""
        from depthwise.evaluate.labels import collect_findings

        return collect_findings(evaluation, split, look)

    def page(self, data: "ReportData") -> "Page":
        """MAP@100, each label's numbers, precision against recall, labels that come together, and mistakes."""
        from depthwise.evaluate.labels import label_page

        return label_page(
            data,
            tuned=bool(self.thresholds),
            absent_is_unknown=self.absent_is_unknown,
            weights=self._weights,
        )
