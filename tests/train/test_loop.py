"""The loop: golden losses, and equivalence with the plain PyTorch it stands for."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from depthwise.data.dataset import ArraySplit, Dataset, all_targets
from depthwise.data.loader import Batches
from depthwise.data.transform import Augment, Preprocess
from depthwise.errors import DepthwiseError, UsageError
from depthwise.models import create_model
from depthwise.tasks.single_label import balanced
from depthwise.train.loop import Trainer
from depthwise.train.optimizer import SGD, AdamW, Constant, RMSprop

MakeTrainer = Callable[..., Trainer]
RECIPE_ARGS = {"stem": "small", "width": 0.05, "entry": [128], "middle": [128], "exit": [128, 256]}
GOLDEN = Path(__file__).parents[1] / "golden" / "digits_losses.json"


def losses(trainer: Trainer, windows: int) -> list[float]:
    found = []
    for _ in range(windows):
        for _ in range(5):
            trainer.update()
        found.append(trainer.take_window().loss)
    return found


def test_golden_losses(make_trainer: MakeTrainer) -> None:
    """A refactoring leaves the losses, means of 5 updates each, as `golden/digits_losses.json` has them.

    Not to the last bit: another processor adds in another order.
    """
    expected = json.loads(GOLDEN.read_text())["losses"]
    assert losses(make_trainer(), len(expected)) == pytest.approx(expected, rel=2e-3)


def test_an_update_is_what_plain_torch_does(make_trainer: MakeTrainer, digits: Dataset) -> None:
    trainer = make_trainer(model_args={**RECIPE_ARGS, "dropout": 0.0}, averaging=0.0, schedule=Constant())
    module = _copy(trainer)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    trainer.optimizer.param_groups[0]["weight_decay"] = 0.0
    for batch in list(trainer.batches.epoch(0))[:5]:
        loss = F.cross_entropy(module(batch.images), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainer.update()
        assert trainer.take_window().loss == pytest.approx(float(loss.detach()), rel=1e-4)


def test_accumulated_passes_are_one_large_batch(make_trainer: MakeTrainer) -> None:
    """Without batch norm's batch statistics, 4 passes of 16 images are one update of 64."""
    gradients = []
    for batch_size, accumulate in ((64, 1), (16, 4)):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        trainer = make_trainer(
            module, batch_size=batch_size, accumulate=accumulate, augment=Augment("none", flip=False)
        )
        trainer.update()
        gradients.append(module[1].weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"label_smoothing": 0.1},
        {"augment": Augment("none", flip=False, mixup=0.4), "label_smoothing": 0.1},
    ],
    ids=["labels", "smoothed", "mixed"],
)
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_accumulated_passes_with_class_weights_are_one_large_batch(
    make_trainer: MakeTrainer, uneven: Dataset, weights: str, changes: dict
) -> None:
    """The update that 2 passes of 8 images make and the loss they report are PyTorch's for the 16 of them at once.

    By `cross_entropy` weighted losses of labels are divided by the sum of the weights, those of mixed targets by the
    number of images.
    """
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    settings = {"augment": Augment("none", flip=False), "averaging": 0.0, **changes}
    trainer = make_trainer(
        module, dataset=uneven, batch_size=8, accumulate=2, class_weights=weights, **settings
    )
    balance = torch.ones(10) if weights == "none" else balance_of(uneven)
    assert weights == "none" or balance.max() > 4 * balance.min()
    batches = list(trainer.batches.epoch(0))[:2]
    images, targets = (
        torch.cat([getattr(batch, name) for batch in batches]) for name in ("images", "targets")
    )
    loss = F.cross_entropy(module(images), targets, balance, label_smoothing=trainer.recipe.label_smoothing)
    (expected,) = torch.autograd.grad(loss, module[1].weight)
    trainer.update()
    torch.testing.assert_close(module[1].weight.grad, expected, rtol=1e-5, atol=1e-7)
    assert trainer.take_window().loss == pytest.approx(float(loss.detach()), rel=1e-6)


def test_one_pass_an_update_is_pytorchs_own_loss_to_the_bit(
    make_trainer: MakeTrainer, uneven: Dataset
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    trainer = make_trainer(module, dataset=uneven, batch_size=16, class_weights="balanced", averaging=0.0)
    batch = next(trainer.batches.epoch(0))
    balance = balance_of(uneven)
    (expected,) = torch.autograd.grad(
        F.cross_entropy(module(batch.images), batch.targets, balance), module[1].weight
    )
    trainer.update()
    assert torch.equal(module[1].weight.grad, expected)


@pytest.fixture(scope="module")
def uneven(digits: Dataset) -> Dataset:
    """Digits with far more of the low ones."""
    train = digits.splits["train"]
    assert isinstance(train, ArraySplit)
    kept = torch.cat([(train.labels == k).nonzero()[: 120 // (k + 1), 0] for k in range(10)])
    some = ArraySplit(train.images[kept], train.labels[kept])
    return replace(digits, splits={**digits.splits, "train": some})


@pytest.mark.parametrize(("epochs", "every"), [(0.5, 1), (9, 1), (10, 2), (400, 50)])
def test_a_short_run_has_a_hundred_lines_or_one_an_update(
    make_trainer: MakeTrainer, epochs: float, every: int
) -> None:
    """22 updates an epoch; the learning rate is there from the first."""
    trainer = make_trainer(epochs=epochs, log_every=50)
    due = []
    for step in range(1, trainer.total_steps + 1):
        trainer.step = step
        due += [step] * trainer.line_is_due
    assert due == sorted({1, *range(every, trainer.total_steps, every), trainer.total_steps})
    assert len(due) >= min(100, trainer.total_steps)


def test_clipping_bounds_the_gradient(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(clip_norm=0.01)
    trainer.update()
    norm = torch.stack([p.grad.norm() for p in trainer.module.parameters()]).norm()
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


def test_freezing_keeps_the_backbone_and_its_batch_norm(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(freeze=True)
    before = {name: value.clone() for name, value in trainer.module.state_dict().items()}
    for _ in range(3):
        trainer.update()
    changed = {
        name for name, value in trainer.module.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"classifier.weight", "classifier.bias"}


def test_balanced_weights_are_scikit_learns(digits: Dataset) -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0] * 50 + [1] * 5 + [2] * 1)
    weights = balanced(labels.bincount(minlength=4))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert weights.tolist() == pytest.approx([*expected, 0.0])


def test_norm_momentum_reaches_every_batch_norm(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(norm_momentum=0.3)
    assert {m.momentum for m in trainer.module.modules() if isinstance(m, nn.BatchNorm2d)} == {0.3}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": AdamW(lr=1e-3), "averaging": 0.0},
        {"optimizer": RMSprop(lr=1e-3), "accumulate": 3, "batch_size": 16},
        {
            "precision": "bfloat16",
            "augment": Augment("shift", shift=1, mixup=0.2, cutmix=1.0),
            "label_smoothing": 0.1,
        },
    ],
    ids=["sgd", "adamw", "rmsprop-accumulate", "bf16-mixup"],
)
@pytest.mark.parametrize("stop", [1, 27])
def test_restored_goes_on_bit_for_bit(make_trainer: MakeTrainer, changes: dict, stop: int) -> None:
    """Stopped in an epoch's middle, restored into fresh objects, then the same weights as never stopped."""
    whole = make_trainer(**changes)
    halves = [make_trainer(**changes), make_trainer(**changes, seed=0)]
    for _ in range(stop):
        halves[0].update()
    halves[1].restore(halves[0].checkpoint({}))
    for _ in range(30 - stop):
        halves[1].update()
    for _ in range(30):
        whole.update()
    states = [trainer.checkpoint({}).tensors for trainer in (whole, halves[1])]
    assert states[0].keys() == states[1].keys()
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []


def test_recomputing_changes_no_bit(make_trainer: MakeTrainer) -> None:
    trainers = [make_trainer(recompute=recompute, virtual_shards=2) for recompute in (False, True)]
    assert [trainer.module.grad_checkpointing for trainer in trainers] == [False, True]
    for trainer in trainers:
        for _ in range(3):
            trainer.update()
    plain, saving = (trainer.checkpoint({}).tensors for trainer in trainers)
    assert [name for name in plain if not torch.equal(plain[name], saving[name])] == []
    with pytest.raises(
        UsageError, match="needs a network that has set_grad_checkpointing, and Linear has not"
    ):
        make_trainer(nn.Linear(8, 10), recompute=True)
    with pytest.raises(UsageError, match="recompute=true does nothing under compile=true"):
        make_trainer(recompute=True, compile=True)


def test_a_loss_that_is_not_finite_is_said(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(optimizer=SGD(lr=1e6), schedule=Constant())
    for _ in range(10):
        trainer.update()
    with pytest.raises(DepthwiseError, match=r"the loss became nan before step 10: .*lower optimizer.lr"):
        trainer.take_window()


def test_more_accumulation_than_batches_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(DepthwiseError, match="accumulate=1000 is more than the 22 batches of an epoch"):
        make_trainer(accumulate=1000)


@pytest.mark.parametrize(("name", "weight"), [("inception_v2", 0.3), ("inception_v3", 0.4)])
def test_the_auxiliary_towers_take_part(
    make_trainer: MakeTrainer, digits: Dataset, name: str, weight: float
) -> None:
    torch.manual_seed(0)
    arguments = {"stem": "small", "width": 0.1, "dropout": 0.0}
    module = create_model(name, num_classes=10, in_channels=1, aux=True, **arguments)
    trainer = make_trainer(module, preprocess=Preprocess((32, 32), crop_fraction=1.0), batch_size=8)
    trainer.update()
    assert all(tower.classifier.weight.grad.abs().sum() > 0 for tower in module.aux.values())
    batch = next(
        Batches(digits.splits["train"], trainer.recipe.preprocess.for_channels(1), batch_size=8).epoch(0)
    )
    module.train()
    torch.manual_seed(0)
    logits, *auxiliary = module(batch.images)
    _, loss = trainer._loss((logits, *auxiliary), batch.targets)
    aside = torch.stack([F.cross_entropy(each, batch.targets) for each in auxiliary])
    expected = F.cross_entropy(logits, batch.targets) + weight * aside.sum()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def balance_of(dataset: Dataset) -> torch.Tensor:
    return balanced(all_targets(dataset.splits["train"]).bincount(minlength=10))


def _copy(trainer: Trainer) -> nn.Module:
    import copy

    return copy.deepcopy(trainer.module)


def test_evaluations_are_counted_in_what_the_recipe_says(make_trainer: MakeTrainer) -> None:
    of_epochs = make_trainer(epochs=2, eval_every=0.5)
    steps, images = of_epochs.steps_per_epoch, of_epochs.samples_per_step
    assert of_epochs.evaluation_steps == 0.5 * steps
    assert make_trainer(eval_every=7, eval_unit="steps").evaluation_steps == 7
    by_samples = make_trainer(samples=90 * images, eval_every=9 * images, eval_unit="samples")
    assert (by_samples.total_steps, by_samples.evaluation_steps) == (90, 9)
    with pytest.raises(
        UsageError, match=r"samples=\d+ with eval_every=1 samples are more than 100,000 evaluations"
    ):
        make_trainer(samples=10**9, eval_every=1, eval_unit="samples")


def test_a_trainer_goes_on_after_its_last_update(make_trainer: MakeTrainer) -> None:
    """As measurements of its speed do."""
    trainer = make_trainer(epochs=0.1)
    for _ in range(trainer.total_steps + 3):
        trainer.update()
        assert trainer.first
    assert trainer.step == trainer.total_steps + 3
