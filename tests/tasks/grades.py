"""A task that is one file and nothing else: ordered grades. The network answers one number, an image's grade."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from markupsafe import Markup
from torch import Tensor

from depthwise.data.dataset import Split, all_targets
from depthwise.data.loader import Prepare
from depthwise.data.transform import Augment
from depthwise.errors import UsageError
from depthwise.evaluate.meters import Headline
from depthwise.evaluate.report import Page, ReportData, Section, plain_page
from depthwise.evaluate.tables import Table
from depthwise.heat import Look
from depthwise.tasks.losses import Loss
from depthwise.tasks.single_label import likeliest


@dataclass(frozen=True)
class GradeEvaluation:
    """n grades said and true, in the order of the split: float32 [n] each."""

    said: Tensor
    true: Tensor
    headline: ClassVar[Headline] = Headline(
        "within_one", "within one", "{value} of {images} are within one grade"
    )

    @property
    def num_images(self) -> int:
        return len(self.true)

    @property
    def mean_error(self) -> float:
        """In grades."""
        return float((self.said - self.true).abs().mean())

    @property
    def numbers(self) -> Mapping[str, float | None]:
        error = self.said - self.true
        return {"loss": float(error.square().mean()), "within_one": float((error.abs() <= 1).float().mean())}

    def to_json(self) -> dict[str, Any]:
        return {"images": self.num_images, "mean_error": self.mean_error, **self.numbers}


@dataclass
class GradeMeters:
    parts: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    @property
    def num_images(self) -> int:
        return sum(len(part[0]) for part in self.parts)

    def update(self, output: Tensor, targets: Tensor, indices: Tensor) -> None:
        self.parts.append((output[:, 0].float().cpu(), targets.cpu(), indices))

    def merge(self, other: "GradeMeters") -> None:
        self.parts += other.parts

    def compute(self) -> GradeEvaluation:
        said, true, indices = (torch.cat(values) for values in zip(*self.parts, strict=True))
        order = indices.argsort()
        return GradeEvaluation(said[order], true[order])


class SquaredError:
    def normaliser(self, targets: Tensor) -> float:
        return len(targets)

    def mean(self, output: Tensor, targets: Tensor) -> Tensor:
        return (output[:, 0].float() - targets).square().mean()


@dataclass(frozen=True)
class Grades:
    """Targets are float32 [N], the number of the class: 0 for the first grade."""

    num_grades: int
    name: ClassVar[str] = "grades"
    headline: ClassVar[Headline] = GradeEvaluation.headline
    num_outputs: ClassVar[int] = 1
    arguments: ClassVar[Mapping[str, Any]] = {}

    @staticmethod
    def of(classes: Sequence[str], arguments: Mapping[str, Any]) -> "Grades":
        return Grades(len(classes))

    def prepare(self, augment: Augment | None) -> Prepare:
        if augment and (augment.mixup or augment.cutmix):
            raise UsageError("mixup and cutmix have no meaning for grades: set them to 0")
        return lambda images, targets: (images, targets.float())

    def objective(
        self, train: Split, device: torch.device, *, loss: Loss, label_smoothing: float, class_weights: str
    ) -> SquaredError:
        return SquaredError()

    hits_name = "within one"

    def hits(self, output: Tensor, targets: Tensor) -> Tensor:
        return ((output[:, 0] - targets).abs() <= 1).sum()

    def meters(self) -> GradeMeters:
        return GradeMeters()

    def answer(self, output: Tensor) -> Tensor:
        """The two grades on either side, each the likelier the nearer it is."""
        grades = torch.arange(self.num_grades, device=output.device)
        return (1 - (output.clamp(0, self.num_grades - 1) - grades).abs()).clamp(min=0)

    def choose(self, probabilities: Tensor, topk: int | None, threshold: float | None) -> list[int]:
        return likeliest(probabilities, topk or 2, threshold or 0.0)

    def initial_bias(self, train: Split) -> None: ...

    def tuned(self, evaluate: Callable[[], GradeEvaluation]) -> "Grades":
        return self

    def weighted(self, weights: Sequence[float]) -> "Grades":
        raise UsageError("grades weigh alike")

    def agreement(self, before: GradeEvaluation, after: GradeEvaluation) -> float:
        return float((before.said.round() == after.said.round()).float().mean())

    def loss_of_precision(self, before: GradeEvaluation, after: GradeEvaluation) -> str:
        return "" if after.mean_error < before.mean_error + 0.1 else "a tenth of a grade is lost"

    def tables(self, evaluation: GradeEvaluation, classes: Sequence[str]) -> list[Table]:
        within = f"{evaluation.numbers['within_one']:.2%}"
        return [Table(("images", "within one"), [(str(evaluation.num_images), within)])]

    def counts(self, split: Split) -> list[int]:
        counts: list[int] = all_targets(split).bincount(minlength=self.num_grades).tolist()
        return counts

    def samples(self, split: Split) -> dict[int, list[Tensor]]:
        return {}

    def findings(self, evaluation: GradeEvaluation, split: Split, look: Look | None = None) -> None:
        return None

    def page(self, data: ReportData) -> Page:
        error = f"<section id='grades'><h2>Grades</h2><p>{data.evaluation.mean_error:.3f} grades off</p></section>"
        return plain_page(data, [Section("grades", "Grades", Markup(error))], loss_unit="grades squared")
