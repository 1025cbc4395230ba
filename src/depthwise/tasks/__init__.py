"""What is asked of an image: the fourth noun beside module, recipe and bundle, and the one table of its kinds."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor

from depthwise.data.dataset import Split
from depthwise.data.loader import Prepare
from depthwise.data.transform import Augment
from depthwise.errors import DepthwiseError, shown
from depthwise.evaluate.meters import Headline, Meters
from depthwise.heat import Look
from depthwise.tasks import multi_label
from depthwise.tasks.losses import Loss
from depthwise.tasks.multi_label import MultiLabel
from depthwise.tasks.single_label import SingleLabel

if TYPE_CHECKING:  # a report takes libraries that predictions do without
    from depthwise.evaluate.report import Page, ReportData
    from depthwise.evaluate.tables import Table

DEFAULT = SingleLabel.name


class Objective(Protocol):
    """A task's loss, as the mean over a batch and what that mean was divided by.

    Of parts of a batch, the sum of mean * normaliser over the sum of normalisers is the mean of the whole: so
    accumulated passes, and the shares of several processes, are one large batch.
    """

    def normaliser(self, targets: Tensor) -> float:
        """What the mean loss of a batch with `targets` is divided by; known before the network has run."""

    def mean(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean loss, a float32 scalar, of the network's `output` for `targets`, on their device."""


class Task(Protocol):
    """What is asked of images of `classes`: what they are trained by, how answers are counted, and what is shown.

    A value of the data set's facts, built from its classes by TASKS. Everything that depends on what a target is
    stands here; all else passes targets and outputs on.
    """

    @property
    def name(self) -> str:
        """Its key in TASKS, which a bundle and run.json keep."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What a bundle keeps of it beside its name: plain values, from which TASKS builds it again."""

    @property
    def headline(self) -> Headline:
        """The number that a run is summed up and selected by, and that `compile` measures."""

    @property
    def num_outputs(self) -> int:
        """How many numbers the network answers with for an image."""

    def prepare(self, augment: Augment | None) -> Prepare | None:
        """What becomes of a batch's images and targets: the targets' encoding and, in training, mixup and cutmix.

        augment: None in evaluation. None is returned where both stay as they are. Raises UsageError for mixing that
        has no meaning here.
        """

    def objective(
        self, train: Split, device: torch.device, *, loss: Loss, label_smoothing: float, class_weights: str
    ) -> Objective:
        """The loss on `device` by a recipe's fields. Raises UsageError for those that have no meaning here."""

    @property
    def hits_name(self) -> str:
        """What a person calls the share of images that `hits` counts."""

    def hits(self, output: Tensor, targets: Tensor) -> Tensor:
        """How many images of a training batch are answered right, as a scalar on their device."""

    def meters(self) -> Meters[Any]:
        """What counts a network's outputs for unmixed batches, and gives the task's evaluation."""

    def answer(self, output: Tensor) -> Tensor:
        """How likely each of the classes is: float32 [N, classes], 0 to 1, of the network's output."""

    def choose(self, probabilities: Tensor, topk: int | None, threshold: float | None) -> list[int]:
        """The classes that a prediction names of an image with these `probabilities`, float32 [K], the likeliest first:
        at most `topk`, each of at least `threshold`; None leaves either to the task."""

    def initial_bias(self, train: Split) -> Tensor | None:
        """float32 [K], what the classifier's bias starts at; None leaves it to the network."""

    def tuned(self, evaluate: Callable[[], Any]) -> Self:
        """The task with what is tuned on the val part, after training; `evaluate` measures the network on it."""

    def weighted(self, weights: Sequence[float]) -> Self:
        """The task where each class counts in the headline number by its weight. Raises UsageError if none can."""

    def agreement(self, before: Any, after: Any) -> float:
        """The share of images that have the same answer in two evaluations of a split."""

    def loss_of_precision(self, before: Any, after: Any) -> str:
        """Why the network evaluated `after` must not replace the one `before` it: a phrase, or "" if it may."""

    def tables(self, evaluation: Any, classes: Sequence[str]) -> "list[Table]":
        """What a terminal shows of an evaluation."""

    def counts(self, split: Split) -> list[int]:
        """How many images of each class there are."""

    def samples(self, split: Split) -> dict[int, list[Tensor]]:
        """A few images of each class, for the report."""

    def findings(self, evaluation: Any, split: Split, look: Look | None = None) -> Any:
        """What `page` needs of the images of the split themselves, the worst mistakes for one.

        look: tells where the network looked for one of its outputs, if it can be told.
        """

    def page(self, data: "ReportData") -> "Page":
        """What a report shows of the evaluation."""


TASKS: dict[str, Callable[[Sequence[str], Mapping[str, Any]], Task]] = {
    SingleLabel.name: SingleLabel.of,
    multi_label.NAME: MultiLabel.of,
    multi_label.VERIFIED: partial(MultiLabel.of, absent_is_unknown=True),
}
"""Each task by its name, as a function of the data set's classes and of a bundle's arguments for it. Whoever adds one
adds a file and a line here."""


def find_task(name: str, classes: Sequence[str], arguments: Mapping[str, Any] = MappingProxyType({})) -> Task:
    """The task called `name` over `classes`, with a bundle's `arguments` for it.

    Raises DepthwiseError if this version does not know it, or the arguments are not its own.
    """
    if name not in TASKS:
        raise DepthwiseError(
            f"the task {shown(name)} is unknown to this depthwise, it has {', '.join(TASKS)}: update it"
        )
    return TASKS[name](classes, arguments)
