"""The optimisers against their formulas in NumPy, the schedules against the papers' sentences."""

import numpy as np
import pytest
import torch
from torch import nn

from depthwise.errors import DepthwiseError
from depthwise.train.optimizer import (
    SGD,
    AdamW,
    Clock,
    Constant,
    Cosine,
    Linear,
    RMSprop,
    StepDecay,
    parameter_groups,
)


def clock(step: int, total_steps: int = 1000) -> Clock:
    return Clock(step, steps_per_epoch=100, samples_per_step=32, total_steps=total_steps)


def test_rmsprop_is_tensorflows() -> None:
    """Accumulator from one, epsilon inside the root, learning rate inside the momentum (tf.train.RMSPropOptimizer)."""
    generator = np.random.default_rng(0)
    weight, lr, momentum, decay, eps, l2 = generator.normal(size=(3, 4)), 0.1, 0.9, 0.8, 1.0, 0.01
    module = nn.Linear(4, 3, bias=False).double()
    module.weight.data = torch.tensor(weight)
    optimizer = RMSprop(lr=lr, momentum=momentum, decay=decay, eps=eps, weight_decay=l2).build(module)
    mean_square, velocity = np.ones_like(weight), np.zeros_like(weight)
    for step in range(5):
        gradient = generator.normal(size=weight.shape)
        module.weight.grad = torch.tensor(gradient)
        for group in optimizer.param_groups:  # a schedule changes the rate while the velocity lives on
            group["lr"] = lr / (1 + step)
        optimizer.step()
        gradient = gradient + l2 * weight
        mean_square = decay * mean_square + (1 - decay) * gradient**2
        velocity = momentum * velocity + lr / (1 + step) * gradient / np.sqrt(mean_square + eps)
        weight = weight - velocity
        np.testing.assert_allclose(module.weight.detach().numpy(), weight, rtol=1e-12)


def test_rmsprop_differs_from_torchs_where_it_should() -> None:
    """With epsilon 1.0 the two conventions walk different ways: a test that would fail if ours were torch's."""
    weights = []
    for build in (
        lambda m: RMSprop(lr=0.1, momentum=0.9, decay=0.9, eps=1.0).build(m),
        lambda m: torch.optim.RMSprop(m.parameters(), lr=0.1, momentum=0.9, alpha=0.9, eps=1.0),
    ):
        module = nn.Linear(2, 1, bias=False)
        module.weight.data.fill_(1.0)
        optimizer = build(module)
        for _ in range(3):
            module.weight.grad = torch.full_like(module.weight, 2.0)
            optimizer.step()
        weights.append(module.weight.detach().clone())
    assert (weights[0] - weights[1]).abs().max() > 0.01


@pytest.mark.parametrize("kind", [SGD(weight_decay=0.1), AdamW(weight_decay=0.1), RMSprop(weight_decay=0.1)])
def test_decay_is_for_weights_alone(kind: SGD | AdamW | RMSprop) -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 1))
    optimizer = kind.build(module)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in module.named_parameters()} == {
        "0.weight": 0.1,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "2.weight": 0.1,
        "2.bias": 0.0,
    }


def test_frozen_parameters_are_left_out() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    groups = parameter_groups(module, 0.1)
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in module[1].parameters()}


def test_the_papers_imagenet_schedule() -> None:
    """ "Learning rate decay: 0.94 every 2 epochs" (Chollet 2017, section 4.3)."""
    schedule = StepDecay(rate=0.94, every=2, unit="epochs")
    assert [schedule.factor(clock(step)) for step in (0, 199, 200, 399, 400)] == [1, 1, 0.94, 0.94, 0.94**2]


def test_the_papers_jft_schedule() -> None:
    """ "Learning rate decay: 0.9 every 3,000,000 samples" (section 4.3); 3,000,000 samples are 93,750 steps of 32."""
    schedule = StepDecay(rate=0.9, every=3_000_000, unit="samples")
    assert [schedule.factor(clock(step, 10**6)) for step in (93_749, 93_750, 187_500)] == [1, 0.9, 0.9**2]


@pytest.mark.parametrize("unit", ["epochs", "steps", "samples"])
def test_warm_up_is_the_same_in_every_unit(unit: str) -> None:
    length = {"epochs": 0.1, "steps": 10, "samples": 320}[unit]
    factors = [Constant(warmup=length, unit=unit).factor(clock(step)) for step in range(12)]
    assert factors == pytest.approx([min(1, (step + 1) / 11) for step in range(12)])


@pytest.mark.parametrize("schedule", [Cosine(final=0.1, warmup=1), Linear(final=0.1, warmup=1)])
def test_falling_schedules_start_after_the_warm_up_and_end_at_final(schedule: Cosine | Linear) -> None:
    assert schedule.factor(clock(0)) < 0.02
    assert schedule.factor(clock(100)) == 1
    assert schedule.factor(clock(550)) == pytest.approx(0.55)
    assert schedule.factor(clock(1000)) == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", [Cosine(warmup=1), Linear(warmup=1), Cosine(warmup=3), Linear(warmup=3)])
def test_a_run_no_longer_than_its_warm_up_learns_all_the_same(schedule: Cosine | Linear) -> None:
    factors = [schedule.factor(clock(step, total_steps=100)) for step in range(100)]
    assert factors == sorted(factors)
    assert 0 < factors[0] < factors[-1] <= 1


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(DepthwiseError, match=r"unknown schedule.unit 'weeks': use one of epochs"):
        Constant(warmup=1, unit="weeks")  # type: ignore[arg-type]
