"""Classes in the order in which people count, with every number still its class's."""

import torch

from depthwise.evaluate.classes import class_page
from depthwise.evaluate.metrics import evaluate
from depthwise.evaluate.order import natural_order, reordered
from depthwise.evaluate.report import ReportData, render

CLASSES = ("1", "10", "2")


class Scores(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


class Batch:
    images = torch.tensor([[5.0, 0, 0], [0, 5, 1], [0, 4, 0], [0, 0, 3], [1, 0, 2]])[:, :, None, None]
    targets = torch.tensor([0, 1, 2, 2, 1])
    indices = torch.arange(5)


class Batches:
    def __len__(self) -> int:
        return 1

    def epoch(self, e: int):  # type: ignore[no-untyped-def]
        yield Batch()


def test_every_number_stays_its_classes() -> None:
    order = natural_order(CLASSES)
    assert [CLASSES[k] for k in order] == ["1", "2", "10"]
    plain = evaluate(Scores(), Batches(), num_classes=3)
    shown = reordered(plain, order)
    assert shown.confusion.tolist() == [[1, 0, 0], [0, 1, 1], [0, 1, 1]]
    for t in range(3):
        for p in range(3):
            assert shown.confusion[t, p] == plain.confusion[order[t], order[p]]
    assert shown.labels.tolist() == [0, 2, 1, 1, 2]
    assert shown.predicted.tolist() == [0, 2, 2, 1, 1]
    assert torch.equal(shown.probability, plain.probability)
    assert (shown.top1, shown.num_wrong, shown.loss) == (plain.top1, plain.num_wrong, plain.loss)
    assert shown.per_class.support.tolist() == [1, 2, 2]


def test_the_report_counts_9_before_10() -> None:
    names = tuple(sorted(map(str, range(1, 12))))
    assert names[:3] == ("1", "10", "11")

    class Many(Batch):
        images = 9 * torch.eye(11)[:, :, None, None]
        targets = torch.arange(11)
        indices = torch.arange(11)

    class ManyBatches(Batches):
        def epoch(self, e: int):  # type: ignore[no-untyped-def]
            yield Many()

    page = render(
        ReportData(
            title="numbers",
            history=[],
            classes=names,
            evaluation=evaluate(Scores(), ManyBatches(), num_classes=11),
            page=class_page,
            split="all",
            findings=[],
            samples={},
            counts={"all": [100 + int(name) for name in names]},
            cost={"parameters": 1, "macs": 1, "input_shape": [1, 1, 1]},
            recipe={},
            versions={},
            command=[],
            data={"ignored": ["30 .nef files (a/1.nef, ...)"]},
        )
    )
    places = [page.index(f'data-value="{100 + number}"') for number in range(1, 12)]
    assert places == sorted(places)
    assert "Of 11 images, all that there are," in page
    assert "<dt>Ignored</dt><dd>30 .nef files (a/1.nef, ...)</dd>" in page
