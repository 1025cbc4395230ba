"""Every number of an evaluation against scikit-learn or plain arithmetic, whatever the batches are."""

import copy
import json
import math
import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support, top_k_accuracy_score
from torch import Tensor, nn

from depthwise.data import ArraySplit, Batches, Preprocess
from depthwise.errors import DepthwiseError, UsageError
from depthwise.evaluate.metrics import MOST_IN_MATRIX, ClassEvaluation, ClassMeters, evaluate, from_logits


class Batch(NamedTuple):
    images: Tensor
    targets: Tensor
    indices: Tensor


class Cut:
    """Given images, cut into batches of the given sizes."""

    def __init__(self, images: Tensor, targets: Tensor, sizes: list[int]) -> None:
        self.images, self.targets, self.sizes = images, targets, sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def epoch(self, e: int) -> Iterator[Batch]:
        assert e == 0
        places = torch.arange(len(self.targets)).split(self.sizes)
        for place in places:
            images = self.images[place].contiguous(memory_format=torch.channels_last)
            yield Batch(images, self.targets[place], place)


def network(num_classes: int = 7) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 36, num_classes),
    )


def data(n: int = 23, num_classes: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, 8, 8, generator=generator), torch.randint(num_classes, (n,), generator=generator)


def same(a: ClassEvaluation, b: ClassEvaluation) -> bool:
    of_images = ("labels", "predicted", "probability", "true_probability", "indices")
    return a.to_json() == b.to_json() and all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in of_images
    )


@st.composite
def scored(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Scores and labels of few images and up to 9 classes: many a class has no image or is never said."""
    num_classes, n = draw(st.integers(2, 9)), draw(st.integers(1, 30))
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=n, max_size=n))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = torch.randn(n, num_classes, generator=generator) * draw(st.sampled_from((0.1, 1.0, 3.0)))
    return logits, torch.tensor(labels)


@settings(max_examples=60, deadline=None)
@given(scored())
def test_counts_and_ratios_are_scikit_learns(case: tuple[Tensor, Tensor]) -> None:
    logits, labels = case
    num_classes = logits.shape[1]
    classes = list(range(num_classes))
    ours = from_logits(logits, labels)
    said = logits.numpy().argmax(1)

    theirs = confusion_matrix(labels, said, labels=classes)
    assert ours.confusion.dtype == torch.int64
    assert ours.confusion.tolist() == theirs.tolist()
    ratios = precision_recall_fscore_support(labels, said, labels=classes, zero_division=0)
    numbers = ours.per_class
    for own, other in zip(
        (numbers.precision, numbers.recall, numbers.f1, numbers.support), ratios, strict=True
    ):
        assert own.numpy() == pytest.approx(other, abs=1e-12)
    assert ours.top1 == (said == labels.numpy()).mean()
    assert ours.num_wrong == (said != labels.numpy()).sum()
    assert ours.num_images == len(labels)
    probabilities = logits.double().softmax(1).numpy()
    assert ours.loss == pytest.approx(log_loss(labels, probabilities, labels=classes), rel=1e-6, abs=1e-9)
    if num_classes > 5:
        scores = logits.double().numpy()
        assert ours.top5 == pytest.approx(top_k_accuracy_score(labels, scores, k=5, labels=classes))
    else:
        assert ours.top5 is None


@settings(max_examples=30, deadline=None)
@given(scored())
def test_calibration_error_is_the_formula(case: tuple[Tensor, Tensor]) -> None:
    logits, labels = case
    ours = from_logits(logits, labels)
    sure, said = logits.softmax(1).max(1)
    error, n = 0.0, len(labels)
    for k in range(15):
        # The library closes its bins on the left, and keeps a certainty of 1 in the last.
        place = (sure * 15).floor().clamp(max=14)
        here = place == k
        if here.any():
            right = (said[here] == labels[here]).double().mean()
            error += float(here.sum() / n * (right - sure[here].double().mean()).abs())
    assert ours.calibration_error == pytest.approx(error, abs=1e-5)


def test_of_equal_scores_the_first_class_ranks_first() -> None:
    evaluation = from_logits(torch.zeros(8, 8), torch.arange(8))
    assert evaluation.predicted.tolist() == [0] * 8
    assert evaluation.top1 == 1 / 8
    assert evaluation.top5 == 5 / 8  # classes 0 to 4


def test_top5_tells_classes_apart_whose_probability_is_zero() -> None:
    logits = torch.tensor([[200.0, 0, 1, 2, 3, 4, 5, 6]])
    assert from_logits(logits, torch.tensor([4])).top5 == 1.0
    assert from_logits(logits, torch.tensor([1])).top5 == 0.0


@pytest.mark.parametrize("sizes", [[23], [1] * 23, [10, 10, 3], [16, 0, 7]])
def test_the_cut_into_batches_changes_nothing(sizes: list[int]) -> None:
    images, targets = data()
    module = network()
    whole = evaluate(module, Cut(images, targets, [23]), num_classes=7)
    cut = evaluate(module, Cut(images, targets, sizes), num_classes=7)
    assert cut.confusion.equal(whole.confusion)
    assert cut.loss == pytest.approx(whole.loss, rel=1e-6)
    assert cut.indices.tolist() == list(range(23))
    assert cut.labels.equal(targets)


def test_it_is_the_plain_forward_pass() -> None:
    images, targets = data()
    module = network()
    evaluation = evaluate(module, Cut(images, targets, [10, 13]), num_classes=7)
    module.eval()
    with torch.no_grad():
        logits = module(images)
    probabilities = logits.softmax(1)
    assert torch.allclose(evaluation.probability, probabilities.max(1).values, atol=1e-6)
    assert torch.allclose(evaluation.true_probability, probabilities[torch.arange(23), targets], atol=1e-6)
    assert evaluation.loss == pytest.approx(float(nn.functional.cross_entropy(logits, targets)), rel=1e-5)


def test_twice_is_the_same_and_the_random_state_is_left_alone() -> None:
    images, targets = data()
    module = network()
    state = torch.get_rng_state()
    first = evaluate(module, Cut(images, targets, [8, 8, 7]), num_classes=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first, evaluate(module, Cut(images, targets, [8, 8, 7]), num_classes=7))


def test_bfloat16_computes_in_bfloat16_and_counts_in_float32() -> None:
    images, targets = data()
    module = network()
    seen: list[torch.dtype] = []
    module[-1].register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    narrow = evaluate(module, Cut(images, targets, [23]), num_classes=7, precision="bfloat16")
    wide = evaluate(module, Cut(images, targets, [23]), num_classes=7, precision="float32")
    assert seen == [torch.bfloat16, torch.float32]
    assert narrow.probability.dtype == torch.float32
    assert narrow.loss == pytest.approx(wide.loss, rel=0.02)


def test_modes_weights_and_statistics_are_as_before() -> None:
    images, targets = data()
    module = network().train()
    module[1].eval()  # a frozen batch norm
    before = copy.deepcopy(module.state_dict())
    inputs: list[bool] = []
    module[0].register_forward_hook(lambda _, given, __: inputs.append(torch.is_inference_mode_enabled()))
    evaluate(module, Cut(images, targets, [23]), num_classes=7)
    assert inputs == [True]
    assert [part.training for part in module.modules()] == [True, True, False, True, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_modes_come_back_after_an_error() -> None:
    images, targets = data()
    module = network().train()
    with pytest.raises(DepthwiseError):
        evaluate(module, Cut(images, targets, [23]), num_classes=5)
    assert all(part.training for part in module.modules())


def test_results_can_be_computed_with() -> None:
    images, targets = data()
    evaluation = evaluate(network(), Cut(images, targets, [23]), num_classes=7)
    weight = torch.ones(23, requires_grad=True)
    (evaluation.probability * weight).sum().backward()  # a tensor of inference mode would refuse
    assert weight.grad is not None


def test_progress_hears_of_every_batch() -> None:
    images, targets = data()
    heard: list[tuple[int, int]] = []
    progress = lambda done, total: heard.append((done, total))  # noqa: E731
    evaluate(network(), Cut(images, targets, [10, 10, 3]), num_classes=7, progress=progress)
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_with_the_projects_own_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (23, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(7, (23,), generator=generator)
    preprocess = Preprocess((8, 8), channels=3, crop_fraction=1.0)
    batches = Batches(ArraySplit(images, labels, "test"), preprocess, batch_size=10)
    evaluation = evaluate(network(), batches, num_classes=7)
    assert evaluation.labels.equal(labels)
    assert int(evaluation.confusion.sum()) == 23


@pytest.mark.parametrize(
    ("num_classes", "targets", "precision", "kind", "words"),
    [
        (5, [0, 1], "float32", DepthwiseError, ["[2, 7]", "[2, 5]", "5 classes"]),
        (7, [0, 7], "float32", DepthwiseError, ["0 to 7", "from 0 to 6", "list of classes"]),
        (7, [-1, 1], "float32", DepthwiseError, ["-1 to 1", "from 0 to 6"]),
        (7, [], "float32", DepthwiseError, ["no image to evaluate", "empty"]),
        (7, [0, 1], "float16", UsageError, ["'float16'", "float32 or bfloat16"]),
    ],
)
def test_errors_name_value_rule_and_remedy(
    num_classes: int, targets: list[int], precision: str, kind: type[Exception], words: list[str]
) -> None:
    images = torch.zeros(len(targets), 3, 8, 8)
    cut = Cut(images, torch.tensor(targets, dtype=torch.int64), [len(targets)])
    with pytest.raises(kind) as caught:
        evaluate(network(), cut, num_classes=num_classes, precision=precision)
    for word in words:
        assert word in str(caught.value)


def test_json_is_whole_and_strict() -> None:
    logits, labels = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 6
    evaluation = from_logits(logits, labels)
    read = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert read["images"] == 20
    assert read["wrong"] == evaluation.num_wrong
    assert read["loss"] == evaluation.loss
    assert read["top1"] == evaluation.top1
    assert read["top5"] == evaluation.top5
    assert read["confusion"] == evaluation.confusion.tolist()
    assert read["per_class"]["support"] == [4, 4, 3, 3, 3, 3]
    assert read["per_class"]["f1"] == evaluation.per_class.f1.tolist()


def test_scores_that_are_no_numbers_make_no_number_up() -> None:
    logits = torch.zeros(3, 6)
    logits[1] = math.nan
    evaluation = from_logits(logits, torch.tensor([0, 1, 2]))
    assert math.isnan(evaluation.loss)
    assert math.isnan(evaluation.calibration_error)
    assert evaluation.predicted.tolist() == [0, 0, 0]
    numbers = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert numbers["loss"] is None
    assert numbers["calibration_error"] is None


@settings(max_examples=30, deadline=None)
@given(scored(), st.integers(0, 30), st.randoms())
def test_parts_merge_into_the_whole(case: tuple[Tensor, Tensor], place: int, order: random.Random) -> None:
    """Whichever images each part has, and in whatever order: to the last bit."""
    logits, labels = case
    places = list(range(len(labels)))
    order.shuffle(places)
    parts = []
    for part in (places[:place], places[place:]):
        meters = ClassMeters(logits.shape[1])
        for k in part:
            meters.update(logits[k : k + 1], labels[k : k + 1], torch.tensor([k]))
        parts.append(meters)
    parts[0].merge(parts[1])
    assert parts[0].num_images == len(labels)
    merged, whole = parts[0].compute(), from_logits(logits, labels)
    assert json.dumps(merged.to_json()) == json.dumps(whole.to_json())
    assert same(merged, whole)


def test_numbers_are_those_of_the_scores_all_at_once() -> None:
    """The formulas of the whole, each by its library, to the last bit."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(999, 12, generator=generator), torch.arange(999) % 12
    meters = ClassMeters(12)
    for part in torch.arange(999).split(64):
        meters.update(logits[part], labels[part], part)
    evaluation = meters.compute()
    assert evaluation.loss == float(nn.functional.cross_entropy(logits.double(), labels))
    assert evaluation.calibration_error == float(
        multiclass_calibration_error(logits.softmax(1), labels, 12, validate_args=False)
    )
    ranked = logits.argsort(dim=1, descending=True, stable=True)
    assert evaluation.top5 == int((ranked[:, :5] == labels[:, None]).sum()) / 999
    assert torch.equal(evaluation.predicted, ranked[:, 0])


def test_seventeen_thousand_classes_need_no_table_of_their_square() -> None:
    num_classes = 17_000
    labels = torch.arange(600) * 7 % num_classes
    said = torch.where(torch.arange(600) % 3 == 0, (labels + 1) % num_classes, labels)
    said[:6], labels[:6] = 5, 4
    meters = ClassMeters(num_classes)
    for part in torch.arange(600).split(50):
        logits = nn.functional.one_hot(said[part], num_classes).float()
        meters.update(logits, labels[part], part)
    evaluation = meters.compute()
    kept = sum(value.numel() * value.element_size() for batch in meters._parts for value in batch)
    assert kept == 41 * 600
    assert evaluation.num_wrong == int((said != labels).sum())
    assert evaluation.confused[0] == (4, 5, 6)
    document = evaluation.to_json()
    assert "confusion" not in document
    assert document["confused"][0] == [4, 5, 6]
    assert sum(images for _, _, images in document["confused"]) == evaluation.num_wrong
    assert evaluation.confusion_of(torch.tensor([5, 4])).tolist() == [[0, 0], [6, 0]]
    with pytest.raises(DepthwiseError, match=f"17,000 classes has 289,000,000 .* {MOST_IN_MATRIX:,} at most"):
        _ = evaluation.confusion
