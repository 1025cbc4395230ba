"""What a report shows where an image may have any number of labels."""

from depthwise.data.dataset import Split
from depthwise.evaluate.label_metrics import LabelEvaluation
from depthwise.evaluate.report import Mistake, Page, ReportData, plain_page


def label_page(data: ReportData) -> Page:
    return plain_page(data, loss_unit="nats an image")


def collect_doubts(evaluation: LabelEvaluation, split: Split) -> list[Mistake]:
    return []
