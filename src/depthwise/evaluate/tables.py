"""An evaluation in the tables that a terminal shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from depthwise.evaluate.label_metrics import LabelEvaluation
from depthwise.evaluate.metrics import ClassEvaluation

WEAKEST = 10  # classes in the table for people; --json and the report have them all


@dataclass(frozen=True)
class Table:
    """Rows of text under `columns`, all of them numbers but those in `left`; a title is for what is not all there."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left: tuple[str, ...] = ()
    title: str | None = None


def class_tables(evaluation: ClassEvaluation, classes: Sequence[str]) -> list[Table]:
    """The numbers in one row, and the classes with the lowest F1."""
    numbers = (
        f"{evaluation.num_images:,}",
        f"{evaluation.num_wrong:,}",
        f"{evaluation.top1:.2%}",
        "-" if evaluation.top5 is None else f"{evaluation.top5:.2%}",
        f"{evaluation.loss:.4f}",
        f"{evaluation.calibration_error:.2%}",
    )
    whole = Table(("images", "wrong", "top-1", "top-5", "loss", "calibration error"), [numbers])
    per_class, weakest = evaluation.per_class, []
    present = (k for k in per_class.f1.argsort(stable=True).tolist() if per_class.support[k])
    for k in islice(present, WEAKEST):
        ratios = (per_class.precision, per_class.recall, per_class.f1)
        weakest.append(
            (classes[k], *(f"{float(ratio[k]):.1%}" for ratio in ratios), f"{int(per_class.support[k]):,}")
        )
    title = f"The {WEAKEST} weakest of {len(classes)} classes" if len(classes) > WEAKEST else None
    return [whole, Table(("class", "precision", "recall", "F1", "images"), weakest, ("class",), title)]


def label_tables(evaluation: LabelEvaluation, classes: Sequence[str]) -> list[Table]:
    """The numbers in one row, and the labels with the lowest average precision."""
    numbers = (
        f"{evaluation.num_images:,}",
        f"{evaluation.num_unlabelled:,}",
        *(f"{value:.2%}" for value in (evaluation.map_at_100, evaluation.macro_ap, evaluation.micro_ap)),
        *(f"{value:.2%}" for value in (evaluation.micro_f1, evaluation.macro_f1, evaluation.precision_at[0])),
        f"{evaluation.loss:.4f}",
    )
    columns = (
        "images",
        "unlabelled",
        "MAP@100",
        "mAP",
        "micro AP",
        "micro F1",
        "macro F1",
        "first is right",
        "loss",
    )
    of, weakest = evaluation.per_label, []
    present = (k for k in of.average_precision.argsort(stable=True).tolist() if of.support[k])
    for k in islice(present, WEAKEST):
        ratios = (of.average_precision, of.precision, of.recall, of.f1)
        weakest.append(
            (classes[k], *(f"{float(ratio[k]):.1%}" for ratio in ratios), f"{int(of.support[k]):,}")
        )
    title = f"The {WEAKEST} weakest of {len(classes)} labels" if len(classes) > WEAKEST else None
    of_labels = Table(("label", "AP", "precision", "recall", "F1", "images"), weakest, ("label",), title)
    return [Table(columns, [numbers]), of_labels]
