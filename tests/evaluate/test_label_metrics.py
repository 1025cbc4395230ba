"""Rankings of labels: TensorFlow's published cases, scikit-learn, torchmetrics, and batches in any order."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.retrieval import retrieval_average_precision

from depthwise.data.targets import LabelLists
from depthwise.errors import DepthwiseError
from depthwise.evaluate import rankings
from depthwise.evaluate.label_metrics import (
    AT,
    LabelEvaluation,
    LabelMeters,
    average_precision_at,
    best,
    truth_of,
)

NUM_IMAGES, NUM_CLASSES = 300, 120


def drawn(seed: int = 0, num_images: int = NUM_IMAGES) -> tuple[Tensor, Tensor]:
    """Logits on a coarse grid, so that many are equal, and labels that they know something of."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(num_images, NUM_CLASSES, generator=generator) < 0.04
    truth[:5] = False  # without a label
    truth[:, 7] = False  # which nobody has
    logits = (torch.randn(num_images, NUM_CLASSES, generator=generator) + 2 * truth).mul(4).round() / 4
    return logits, LabelLists.of([row.nonzero()[:, 0].tolist() for row in truth])[torch.arange(num_images)]


def meters(thresholds: float = 0.5, *, unknown: bool = False) -> LabelMeters:
    return LabelMeters(NUM_CLASSES, torch.full((NUM_CLASSES,), thresholds), unknown)


def evaluated(logits: Tensor, targets: Tensor) -> LabelEvaluation:
    counted = meters()
    counted.update(logits, targets, torch.arange(len(logits)))
    return counted.compute()


def test_tensorflows_cases_of_average_precision_at_k() -> None:
    # metric_ops_test.py and metrics_test.py of TensorFlow, test_average_precision: two images of seven classes.
    scores = torch.tensor([[0.2, 0.1, 0.0, 0.4, 0.0, 0.5, 0.3], [0.3, 0.5, 0.0, 0.4, 0.0, 0.1, 0.2]])
    targets = torch.tensor([[0, 1, 2, 3, 4], [0, 2, 4, 5, 6]])
    hits = truth_of(targets, 7, False).gather(1, best(scores, 7)) == 1
    wanted = [
        (0 / 1, (1 / 2) / 2, (1 / 2) / 3, (1 / 2 + 2 / 4) / 4),
        (0 / 1, (0 / 2) / 2, (1 / 3) / 3, (1 / 3 + 2 / 4) / 4),
    ]
    for k in range(1, 5):
        found, _ = average_precision_at(hits[:, :k], torch.full((2,), float(k)), torch.ones(2, k))
        assert found.tolist() == pytest.approx([first[k - 1] for first in wanted])


def test_by_the_labels_found_it_is_what_retrieval_metrics_say() -> None:
    logits, targets = drawn()
    truth = truth_of(targets, NUM_CLASSES, False)
    top = best(logits, NUM_CLASSES)
    hits = truth.gather(1, top[:, :100]) == 1
    _, of_found = average_precision_at(hits, (truth == 1).sum(1), torch.ones(hits.shape))
    # torchmetrics passes over targets whose score is not above 0, so ranks stand for scores.
    ranks = torch.linspace(1, 0.01, NUM_CLASSES).expand(len(logits), -1)
    for k in range(5, len(logits)):
        scores = torch.empty(NUM_CLASSES).scatter(0, top[k], ranks[k])
        wanted = retrieval_average_precision(scores, truth[k] == 1, top_k=100)
        assert float(of_found[k]) == pytest.approx(float(wanted), abs=1e-6)


def test_of_equal_scores_the_lower_number_ranks_first() -> None:
    scores = torch.tensor([[0.0, -0.0 + 0.0, 2.0, -1.0, 2.0, -torch.inf, torch.inf]])
    assert best(scores, 7).tolist() == [[6, 2, 4, 0, 1, 3, 5]]


def test_each_labels_average_precision_is_scikit_learns() -> None:
    logits, targets = drawn()
    truth = (truth_of(targets, NUM_CLASSES, False) == 1).numpy()
    evaluation = evaluated(logits, targets)
    known = [k for k in range(NUM_CLASSES) if k != 7]
    wanted = average_precision_score(truth[:, known], logits.numpy()[:, known], average=None)
    assert evaluation.per_label.average_precision[known].numpy() == pytest.approx(wanted, abs=1e-12)
    assert evaluation.per_label.average_precision[7].isnan()
    assert evaluation.macro_ap == pytest.approx(float(np.mean(wanted)))
    micro = average_precision_score(truth, logits.numpy(), average="micro")
    assert evaluation.micro_ap == pytest.approx(micro)


def test_ratios_at_thresholds_are_scikit_learns() -> None:
    logits, targets = drawn()
    truth = (truth_of(targets, NUM_CLASSES, False) == 1).numpy()
    said = (logits.sigmoid() >= 0.5).numpy()
    evaluation = evaluated(logits, targets)
    precision, recall, f1, support = precision_recall_fscore_support(truth, said, zero_division=0)
    found = evaluation.per_label
    for own, wanted in zip(
        (found.precision, found.recall, found.f1, found.support),
        (precision, recall, f1, support),
        strict=True,
    ):
        assert own.numpy() == pytest.approx(wanted)
    micro = precision_recall_fscore_support(truth, said, average="micro", zero_division=0)[2]
    assert evaluation.micro_f1 == pytest.approx(micro)


def test_no_threshold_gives_a_label_a_higher_f1_than_its_best() -> None:
    logits, targets = drawn()
    truth = truth_of(targets, NUM_CLASSES, False) == 1
    found = evaluated(logits, targets).per_label
    again = LabelMeters(NUM_CLASSES, found.best_threshold.nan_to_num(0.5).float())
    again.update(logits, targets, torch.arange(len(logits)))
    assert again.compute().per_label.f1.numpy() == pytest.approx(found.best_f1.nan_to_num(0).numpy())
    for k in range(20):
        f1 = []
        for threshold in logits[:, k].unique():
            said = logits[:, k] >= threshold
            f1.append(2 * int((said & truth[:, k]).sum()) / int(said.sum() + truth[:, k].sum()))
        assert k == 7 or float(found.best_f1[k]) == pytest.approx(max(f1))


def test_a_label_that_no_score_tells_is_not_said_of_every_image() -> None:
    truth = torch.arange(400) % 40 == 0
    scores = torch.randn(400, generator=torch.Generator().manual_seed(1))
    highest, threshold = rankings.exact_cuts(scores, truth).best
    assert 0 < int((scores >= threshold).sum()) <= 2 * int(truth.sum())
    said = torch.arange(1, 21)
    hits = truth[scores.argsort(descending=True)].cumsum(0)[:20]
    assert highest == pytest.approx(float((2 * hits / (said + truth.sum())).max()))
    highest, threshold = rankings.exact_cuts(torch.zeros(400), truth).best
    assert (highest, threshold) == (0.0, 1.0)


def test_means_over_images_by_a_loop() -> None:
    logits, targets = drawn()
    truth = truth_of(targets, NUM_CLASSES, False) == 1
    evaluation = evaluated(logits, targets)
    order = np.lexsort((np.arange(NUM_CLASSES).repeat(NUM_IMAGES).reshape(-1, NUM_IMAGES).T, -logits.numpy()))
    labelled = [i for i in range(NUM_IMAGES) if truth[i].any()]
    assert evaluation.num_unlabelled == NUM_IMAGES - len(labelled)
    for place, k in enumerate(AT):
        hits = [int(truth[i][order[i][:k]].sum()) for i in labelled]
        assert evaluation.precision_at[place] == pytest.approx(sum(hits) / k / len(labelled))
        recalls = [hit / int(truth[i].sum()) for hit, i in zip(hits, labelled, strict=True)]
        assert evaluation.recall_at[place] == pytest.approx(sum(recalls) / len(labelled))
    loss = F.binary_cross_entropy_with_logits(logits.double(), truth.double(), reduction="none").sum(1).mean()
    assert evaluation.loss == pytest.approx(float(loss))


@pytest.mark.parametrize("most", [rankings.MOST_EXACT, 1000])
def test_batches_and_parts_change_nothing(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(rankings, "MOST_EXACT", most)
    logits, targets = drawn()
    whole = evaluated(logits, targets)
    order = torch.randperm(NUM_IMAGES, generator=torch.Generator().manual_seed(3))
    first, second = meters(), meters()
    for number, indices in enumerate(order.split(41)):
        (first, second)[number % 2].update(logits[indices], targets[indices], indices)
    second.merge(first)
    parts = second.compute()
    assert parts.to_json() == whole.to_json()
    assert (parts.wrong, parts.missed, parts.curves) == (whole.wrong, whole.missed, whole.curves)
    assert torch.equal(parts.said, whole.said)
    assert torch.equal(parts.first, whole.first)


def test_in_steps_of_the_logit_the_numbers_are_those_of_rounded_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, targets = drawn()  # on a grid that the steps hold
    wanted = evaluated(logits, targets)
    monkeypatch.setattr(rankings, "MOST_EXACT", 1000)
    found = evaluated(logits, targets)
    assert found.macro_ap == pytest.approx(wanted.macro_ap, abs=1e-12)
    assert found.micro_ap == pytest.approx(wanted.micro_ap, abs=1e-12)
    assert torch.equal(found.per_label.best_f1.nan_to_num(), wanted.per_label.best_f1.nan_to_num())


def test_the_surest_wrong_and_the_least_likely_missed_labels() -> None:
    logits = torch.tensor([[3.0, -4.0, 1.0], [2.0, 5.0, -1.0]])
    targets = torch.tensor([[1, -1], [2, 1]])
    counted = LabelMeters(3, torch.full((3,), 0.5))
    counted.update(logits, targets, torch.tensor([10, 11]))
    evaluation = counted.compute()
    assert [doubt[:2] for doubt in evaluation.wrong] == [(10, 0), (11, 0), (10, 2)]
    assert [doubt[:2] for doubt in evaluation.missed] == [(10, 1), (11, 2)]
    assert evaluation.missed[0].probability == pytest.approx(torch.tensor(-4.0).sigmoid().item())
    assert evaluation.said.tolist() == [[0, 2], [1, 0]]


def test_where_absent_is_unknown_only_what_was_looked_for_counts() -> None:
    logits, targets = drawn()
    truth = truth_of(targets, NUM_CLASSES, False)
    looked_for = torch.rand(truth.shape, generator=torch.Generator().manual_seed(5)) < 0.3
    rows = [
        [
            *((truth[i] == 1).nonzero()[:, 0].tolist()),
            *(-(k + 2) for k in ((truth[i] == 0) & looked_for[i]).nonzero()[:, 0].tolist()),
        ]
        for i in range(NUM_IMAGES)
    ]
    counted = meters(unknown=True)
    counted.update(logits, LabelLists.of(rows)[torch.arange(NUM_IMAGES)], torch.arange(NUM_IMAGES))
    found = counted.compute()
    known = (truth == 1) | looked_for
    wanted = [
        average_precision_score((truth[:, k] == 1)[known[:, k]], logits[:, k][known[:, k]])
        for k in range(NUM_CLASSES)
        if k != 7
    ]
    assert found.macro_ap == pytest.approx(float(np.mean(wanted)))
    losses = F.binary_cross_entropy_with_logits(logits.double(), (truth == 1).double(), reduction="none")
    assert found.loss == pytest.approx(float((losses * known).sum(1).mean()))


def test_a_label_that_the_network_cannot_know_is_a_miss() -> None:
    logits = torch.tensor([[3.0, 1.0]])
    known, unknown = torch.tensor([[0]]), torch.tensor([[0, 2]])
    values = []
    for targets in (known, unknown):
        counted = LabelMeters(2, torch.full((2,), 0.5))
        counted.update(logits, targets, torch.tensor([0]))
        values.append(counted.compute().map_at_100)
    assert values == [1.0, 0.5]


def test_labels_weigh_in_map_as_asked() -> None:
    logits, targets = drawn()
    weights = torch.rand(NUM_CLASSES, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights[:30] = 0
    counted = LabelMeters(NUM_CLASSES, torch.full((NUM_CLASSES,), 0.5), weights=weights)
    counted.update(logits, targets, torch.arange(NUM_IMAGES))
    truth = truth_of(targets, NUM_CLASSES, False) == 1
    wanted = []
    for i in range(NUM_IMAGES):
        heaviest = sorted((float(weights[k]) for k in truth[i].nonzero()), reverse=True)[:100]
        gained, found = 0.0, 0
        for rank, k in enumerate(best(logits + 0.0, NUM_CLASSES)[i][:100].tolist(), start=1):
            found += int(truth[i, k])
            gained += float(weights[k]) * bool(truth[i, k]) * found / rank
        if sum(heaviest):
            wanted.append(gained / sum(heaviest))
    assert counted.compute().map_at_100 == pytest.approx(sum(wanted) / len(wanted))
    alike = LabelMeters(
        NUM_CLASSES, torch.full((NUM_CLASSES,), 0.5), weights=torch.ones(NUM_CLASSES).double()
    )
    alike.update(logits, targets, torch.arange(NUM_IMAGES))
    assert alike.compute().map_at_100 == evaluated(logits, targets).map_at_100


def test_images_without_any_label_are_refused() -> None:
    counted = LabelMeters(2, torch.full((2,), 0.5))
    counted.update(torch.zeros(3, 2), torch.full((3, 1), -1), torch.arange(3))
    with pytest.raises(DepthwiseError, match="no image has a label: measure on images"):
        counted.compute()


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(DepthwiseError, match=r"answers \[3, 4\] where \[3, 2\] scores are due"):
        LabelMeters(2, torch.full((2,), 0.5)).update(
            torch.zeros(3, 4), torch.zeros(3, 1).long(), torch.arange(3)
        )
