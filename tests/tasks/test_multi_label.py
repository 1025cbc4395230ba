"""Any number of labels an image, from the loss to the commands: digits, each with all that is true of it."""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stops import Stops
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

import depthwise
from depthwise.bundle import read_bundle
from depthwise.data import ArraySplit, Dataset, open_dataset
from depthwise.data.dataset import all_targets
from depthwise.data.targets import LabelLists
from depthwise.data.transform import Augment, Preprocess
from depthwise.errors import DepthwiseError, UsageError
from depthwise.job import Run
from depthwise.tasks import find_task
from depthwise.tasks.losses import Asymmetric, Focal, Loss, Plain
from depthwise.tasks.multi_label import NAME, VERIFIED, MultiLabel
from depthwise.train.loop import Trainer
from depthwise.train.optimizer import AdamW
from depthwise.train.recipe import Recipe
from depthwise.train.run import Silent

CPU = torch.device("cpu")
TRUE_OF = {
    "even": (0, 2, 4, 6, 8),
    "prime": (2, 3, 5, 7),
    "square": (0, 1, 4, 9),
    "has a loop": (0, 6, 8, 9),
    "over four": (5, 6, 7, 8, 9),
}
CLASSES = (*map(str, range(10)), *TRUE_OF)
RECIPE = Recipe(
    name="labels",
    model_args={"stem": "small", "width": 0.05, "entry": [128], "middle": [128], "exit": [128, 256]},
    preprocess=Preprocess((8, 8), crop_fraction=1.0),
    augment=Augment(crop="none", flip=False),
    epochs=6,
    batch_size=64,
    optimizer=AdamW(lr=0.02),
    norm_momentum=0.3,
    precision="float32",
    log_every=5,
)


def labels_of(digit: int) -> list[int]:
    return [digit, *(10 + k for k, digits in enumerate(TRUE_OF.values()) if digit in digits)]


def labelled(split: ArraySplit, places: range) -> ArraySplit:
    rows = [labels_of(digit) for digit in all_targets(split)[places.start : places.stop].tolist()]
    return ArraySplit(split.images[places.start : places.stop], LabelLists.of(rows), "digits")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    dataset = open_dataset("digits")
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert isinstance(train, ArraySplit)
    assert isinstance(test, ArraySplit)
    splits = {
        "train": labelled(train, range(1237)),
        "val": labelled(train, range(1237, len(train))),
        "test": labelled(test, range(len(test))),
    }
    return replace(dataset, task=NAME, classes=CLASSES, splits=splits)


@pytest.fixture(autouse=True, scope="module")
def _sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def trained(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("labels") / "run"
    return depthwise.train(digits, out=out, recipe=RECIPE, watcher=Silent())


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, rows of labels, and the matrix that they stand for."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(12, len(CLASSES), generator=generator)
    rows = LabelLists.of([*(labels_of(k) for k in range(10)), [], [3]])[torch.arange(12)]
    matrix = torch.zeros(12, len(CLASSES))
    for i, row in enumerate(rows.tolist()):
        matrix[i, [k for k in row if k >= 0]] = 1
    return logits.requires_grad_(), rows, matrix


def objective(loss: Loss, digits: Dataset, **settings: object) -> object:
    task = find_task(NAME, CLASSES)
    given = {"label_smoothing": 0.0, "class_weights": "none", **settings}
    return task.objective(digits.splits["train"], CPU, loss=loss, **given)


def same(ours: Tensor, theirs: Tensor, logits: Tensor) -> None:
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (ours, theirs)]
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)


def test_cross_entropy_is_pytorchs(digits: Dataset) -> None:
    logits, rows, matrix = drawn()
    theirs = F.binary_cross_entropy_with_logits(logits, matrix, reduction="sum") / 12
    plain = objective(Plain(), digits)
    same(plain.mean(logits, rows), theirs, logits)
    same(plain.mean(logits, matrix), theirs, logits)


def test_balanced_weights_are_pytorchs_pos_weight(digits: Dataset) -> None:
    logits, rows, matrix = drawn()
    counts = torch.tensor(find_task(NAME, CLASSES).counts(digits.splits["train"]))
    weight = (len(digits.splits["train"]) - counts) / counts
    theirs = F.binary_cross_entropy_with_logits(logits, matrix, pos_weight=weight, reduction="sum") / 12
    same(objective(Plain(), digits, class_weights="balanced").mean(logits, rows), theirs, logits)


def test_smoothing_is_that_of_keras_targets(digits: Dataset) -> None:
    logits, rows, matrix = drawn()
    theirs = F.binary_cross_entropy_with_logits(logits, matrix * 0.9 + 0.05, reduction="sum") / 12
    same(objective(Plain(), digits, label_smoothing=0.1).mean(logits, rows), theirs, logits)


def test_focal_loss_is_torchvisions(digits: Dataset) -> None:
    logits, rows, matrix = drawn()
    theirs = sigmoid_focal_loss(logits, matrix, alpha=0.25, gamma=2.0, reduction="sum") / 12
    same(objective(Focal(), digits).mean(logits, rows), theirs, logits)


@pytest.mark.parametrize("clip", [0.05, 0.0])
def test_asymmetric_loss_is_timms(digits: Dataset, clip: float) -> None:
    logits, rows, matrix = drawn()
    peer = AsymmetricLossMultiLabel(gamma_neg=4, gamma_pos=1, clip=clip)
    same(objective(Asymmetric(clip=clip), digits).mean(logits, rows), peer(logits, matrix), logits)


@pytest.mark.parametrize("loss", [Plain(), Focal(gamma=0.5), Asymmetric(gamma_absent=0.5)])
def test_extreme_logits_have_finite_gradients(digits: Dataset, loss: Loss) -> None:
    logits = torch.tensor([[-200.0, 200.0, 0.0] * 5], requires_grad=True)
    objective(loss, digits).mean(logits, torch.tensor([[0, 1]])).backward()
    assert logits.grad.isfinite().all()


def test_where_absent_is_unknown_only_what_was_looked_for_is_learned() -> None:
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    rows = torch.tensor([[0, -(2 + 2), -1], [3, -1, -1]])  # the first is of class 0 and not of class 2
    task = find_task(VERIFIED, "abcd")
    split = ArraySplit(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), rows)
    ours = task.objective(split, CPU, loss=Plain(), label_smoothing=0.0, class_weights="none")
    theirs = (F.softplus(-logits[0, 0]) + F.softplus(logits[0, 2]) + F.softplus(-logits[1, 3])) / 2
    same(ours.mean(logits, rows), theirs, logits)
    with pytest.raises(UsageError, match="label_smoothing has no meaning where a label that is not named"):
        task.objective(split, CPU, loss=Plain(), label_smoothing=0.1, class_weights="none")
    with pytest.raises(UsageError, match="mixup and cutmix have no meaning where a label that is not named"):
        task.prepare(Augment(mixup=0.2))


def test_a_network_starts_at_the_labels_frequencies(digits: Dataset) -> None:
    task, train = find_task(NAME, CLASSES), digits.splits["train"]
    bias = task.initial_bias(train)
    counts = torch.tensor(task.counts(train))
    assert torch.allclose(bias.sigmoid(), counts / len(train), atol=2e-3)


def test_mixed_images_have_parts_of_both_label_sets(digits: Dataset) -> None:
    prepare = find_task(NAME, CLASSES).prepare(Augment(mixup=0.4))
    torch.manual_seed(0)
    images = torch.rand(2, 1, 8, 8)
    mixed, targets = prepare(images, LabelLists.of([labels_of(3), labels_of(4)])[torch.arange(2)])
    share = float(targets[0, 3])
    assert 0 < share < 1
    assert torch.allclose(mixed[0], share * images[0] + (1 - share) * images[1], atol=1e-6)
    wanted = torch.zeros(len(CLASSES))
    wanted[labels_of(3)] += share
    wanted[labels_of(4)] += 1 - share
    assert torch.allclose(targets[0], wanted, atol=1e-6)


def test_accumulated_passes_are_one_large_batch(digits: Dataset) -> None:
    weights = []
    for batch, accumulate in ((64, 1), (16, 4)):
        recipe = replace(
            RECIPE, batch_size=batch, accumulate=accumulate, averaging=0.0, class_weights="balanced"
        )
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, len(CLASSES)))
        trainer = Trainer(recipe, module, digits, device=CPU)
        trainer.update()
        weights.append(module[1].weight.detach().clone())
    assert torch.allclose(*weights, atol=2e-5)


def test_a_run_learns_tunes_thresholds_and_keeps_them(trained: Run) -> None:
    evaluation = json.loads((trained.out / "evaluation.json").read_text())
    assert evaluation["map_at_100"] > 0.8
    assert "MAP@100 is" in trained.summary
    assert "on 360 test images" in trained.summary
    config = read_bundle(trained.out).config
    assert config.task == NAME
    assert config.training["map_at_100"] == evaluation["map_at_100"]
    thresholds = config.build_task().thresholds
    assert len(thresholds) == len(CLASSES)
    assert set(thresholds) != {0.5}
    lines = [json.loads(line) for line in (trained.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["map_at_100"] for line in lines if line["kind"] == "test"] == [evaluation["map_at_100"]]
    assert '<img class="heat"' in (trained.out / "report.html").read_text()


def test_it_resumes_bit_for_bit(trained: Run, digits: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match="nothing is lost"):
        depthwise.train(digits, out=out, recipe=RECIPE, watcher=Stops())
    depthwise.train(digits, out=out, resume=True, watcher=Silent())
    ours, whole = (read_bundle(run) for run in (out, trained.out))
    assert [name for name in whole.weights if not torch.equal(ours.weights[name], whole.weights[name])] == []
    assert ours.config.task_args == whole.config.task_args


def test_the_predictor_names_what_reaches_its_threshold(trained: Run, digits: Dataset) -> None:
    predictor, test = depthwise.load(trained), digits.splits["test"]
    images = [test.image(k) for k in range(100)]
    thresholds = torch.tensor(read_bundle(trained.out).config.build_task().thresholds)
    every = predictor(images, topk=len(CLASSES), threshold=0)
    for prediction, whole in zip(predictor(images), every, strict=True):
        reached = [
            (label, odds)
            for label, odds, k in zip(whole.classes, whole.probabilities, whole.indices, strict=True)
            if torch.tensor(odds) >= thresholds[k]
        ]
        assert prediction.classes == tuple(label for label, _ in reached)
        assert prediction.probabilities == pytest.approx([odds for _, odds in reached], abs=1e-5)
    assert [len(p.classes) for p in predictor(images[:5], topk=3)] == [3] * 5
    assert all(odds >= 0.9 for p in predictor(images, threshold=0.9) for odds in p.probabilities)
    assert sum(every[0].probabilities) > 1.5, "a label's probability takes nothing from another's"


def test_evaluation_uses_the_bundles_thresholds(trained: Run, digits: Dataset) -> None:
    evaluation = depthwise.evaluate(trained, digits, split="test")
    kept = json.loads((trained.out / "evaluation.json").read_text())
    assert evaluation.map_at_100 == pytest.approx(kept["map_at_100"], abs=1e-3)
    assert evaluation.micro_f1 == pytest.approx(kept["micro_f1"], abs=0.01)
    renamed = replace(digits, classes=("zero", *CLASSES[1:]))
    with pytest.raises(DepthwiseError, match="knows no label 'zero'"):
        depthwise.evaluate(trained, renamed, split="test")
    without = depthwise.evaluate(trained, renamed, split="test", ignore_unknown=True)
    assert without.num_images == 360
    assert without.per_label.support[0] == 0


def test_compiled_it_is_refused_by_its_own_headline(trained: Run, digits: Dataset, tmp_path: Path) -> None:
    depthwise.compile(trained, out=tmp_path / "fast", precision="int8", data=digits)
    before, after = read_bundle(tmp_path / "fast").config.compiled["accuracy"]
    assert before == pytest.approx(depthwise.evaluate(trained, digits, split="test").map_at_100, abs=1e-3)
    assert after == pytest.approx(before, abs=0.005)
    worse = replace(depthwise.evaluate(trained, digits, split="test"), map_at_100=before - 0.006)
    task = find_task(NAME, CLASSES)
    assert task.loss_of_precision(replace(worse, map_at_100=before), worse).startswith(
        "the MAP@100 falls from"
    )


def test_what_has_no_meaning_is_refused(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="loss=focal is for images of any number of labels"):
        depthwise.train("digits", out=tmp_path / "run", loss="focal", epochs=0.1, watcher=Silent())
    for arguments, rule in (
        ({"thresholds": [0.5]}, "has 1 probabilities for 15 classes"),
        ({"thresholds": [2.0] * 15}, "at most 1"),
        ({"sizes": []}, "sizes is unknown to multi-label"),
    ):
        with pytest.raises(DepthwiseError, match=rule):
            MultiLabel.of(CLASSES, arguments)


def test_unknown_labels_are_left_out_or_missed_as_asked(trained: Run, digits: Dataset) -> None:
    renamed = replace(digits, classes=("zero", *CLASSES[1:]))
    sentence = r"knows no label 'zero' \(\d+ images\); .* leave these labels out with ignore_unknown=True, count them"
    with pytest.raises(DepthwiseError, match=sentence):
        depthwise.evaluate(trained, renamed, split="test")
    left_out = depthwise.evaluate(trained, renamed, split="test", ignore_unknown=True)
    missed = depthwise.evaluate(trained, renamed, split="test", miss_unknown=True)
    assert missed.map_at_100 < left_out.map_at_100
    assert missed.per_label.support.tolist() == left_out.per_label.support.tolist()
    with pytest.raises(UsageError, match="miss_unknown=True counts labels as missed"):
        depthwise.evaluate(trained, open_dataset("digits"), miss_unknown=True)


def test_labels_weigh_in_map_as_asked(trained: Run, digits: Dataset, tmp_path: Path) -> None:
    alike = depthwise.evaluate(trained, digits, split="test")
    file = tmp_path / "weights.csv"
    file.write_text("".join(f"{label},1\n" for label in CLASSES))
    assert (
        depthwise.evaluate(trained, digits, split="test", label_weights=file).map_at_100 == alike.map_at_100
    )
    often = depthwise.evaluate(trained, digits, split="test", label_weights="frequency")
    assert often.map_at_100 != alike.map_at_100
    assert often.macro_ap == alike.macro_ap
    for text, rule in (
        ("odd,1\n", "line 1: unknown label 'odd'"),
        ("even,1\nprime,-1\n", "line 2: gives the weight '-1', which must be a number from 0 up"),
        ("even\n", "line 1: has 1 values and must have a label and its weight"),
        ("even,0\n", "gives no label a weight above 0"),
        ('"' + "even" * 40_000, "line 1: is no line of CSV"),
    ):
        file.write_text(text)
        with pytest.raises(DepthwiseError, match=rule):
            depthwise.evaluate(trained, digits, split="test", label_weights=file)


def test_each_kind_of_network_is_measured_on_images_that_fit_it(
    trained: Run, digits: Dataset, tmp_path: Path
) -> None:
    on_classes = depthwise.evaluate(trained, open_dataset("digits"))
    assert on_classes.map_at_100 > 0.3, "one label an image is a set of one"
    single = depthwise.train(
        "digits", out=tmp_path / "run", recipe=replace(RECIPE, epochs=0.1), watcher=Silent()
    )
    with pytest.raises(DepthwiseError, match=r"digits has images of any number of labels .* tells one class"):
        depthwise.evaluate(single, digits, split="test", ignore_unknown=True)
