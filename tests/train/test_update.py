"""An update in one pass against the optimisers to the bit, and where each part is done by itself."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.conftest import using
from torch import Tensor, nn

from depthwise.native.update import Table
from depthwise.train.average import PolyakAverage
from depthwise.train.checkpoint import optimizer_tensors, restore_optimizer
from depthwise.train.optimizer import SGD, AdamW, RMSprop
from depthwise.train.update import Update

Kind = SGD | AdamW | RMSprop
KINDS: dict[str, Kind] = {
    "sgd": SGD(momentum=0.0),
    "sgd decay": SGD(momentum=0.0, weight_decay=0.01),
    "momentum": SGD(weight_decay=1e-4),
    "nesterov": SGD(nesterov=True, weight_decay=0.01),
    "adamw": AdamW(),
    "adamw without decay": AdamW(lr=0.1, weight_decay=0.0, beta1=0.3),
    "rmsprop": RMSprop(),
    "rmsprop decay": RMSprop(weight_decay=4e-5, decay=0.95, momentum=0.3, eps=1e-3),
}


@pytest.fixture(autouse=True)
def _exact_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's roots are not always the nearest numbers, where it takes them by MKL; the kernel's are."""
    monkeypatch.setattr(Tensor, "sqrt", lambda x: torch.from_numpy(np.sqrt(x.numpy())))
    monkeypatch.setattr(Tensor, "sqrt_", lambda x: x.copy_(x.sqrt()))


def network() -> nn.Module:
    torch.manual_seed(0)
    parts = (
        nn.Conv2d(7, 33, 3),
        nn.BatchNorm2d(33),
        nn.Conv2d(33, 33, 3, groups=33, bias=False),
        nn.Conv2d(33, 61, 1),
        nn.Linear(61, 301),
    )
    return nn.Sequential(*parts).to(memory_format=torch.channels_last)


class Run:
    """A network with an optimiser and, of `averaging`, an average, on its way through made-up gradients."""

    def __init__(self, kind: Kind, averaging: float = 0.0) -> None:
        self.kind, self.module, self.number = kind, network(), 0
        self.optimizer = kind.build(self.module)
        self.average = PolyakAverage(self.module, averaging) if averaging else None
        self.update = Update(self.module, self.optimizer, self.average)

    def go(self, updates: int, max_norm: float = 0.0, without: int = 5) -> "Run":
        """So many updates; of each, every parameter whose turn it is `without` a gradient has none."""
        for _ in range(updates):
            self.number += 1
            torch.manual_seed(self.number)
            for place, parameter in enumerate(self.module.parameters()):
                gradient = torch.randn_like(parameter) * 10.0 ** (place % 4 - 2)
                parameter.grad = None if (self.number + place) % without == 0 else gradient
            for buffer in self.module.buffers():
                buffer.copy_(torch.randn_like(buffer) if buffer.is_floating_point() else buffer + 1)
            for group in self.optimizer.param_groups:
                group["lr"] = self.kind.lr / (1 + self.number)
            self.update.apply(self.number, max_norm)
        return self

    def state(self) -> dict[str, Tensor]:
        tensors = {**self.module.state_dict(), **optimizer_tensors(self.optimizer, self.module)}
        tensors |= {
            f"{name}.grad": p.grad for name, p in self.module.named_parameters() if p.grad is not None
        }
        if self.average:
            tensors |= {f"averaged.{key}": value for key, value in self.average.module.state_dict().items()}
        return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name in found if not torch.equal(found[name], expected[name])]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What gradients were multiplied by in each pass of the kernel so far."""
    factors: list[float] = []
    run = Table.run

    def counted(table: Table, rates: list, *, clip: float, follow: float) -> None:
        factors.append(clip)
        run(table, rates, clip=clip, follow=follow)

    monkeypatch.setattr(Table, "run", counted)
    return factors


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("max_norm", "averaging"), [(0.0, 0.0), (1.0, 0.0), (1e6, 0.9), (1.0, 0.9)])
def test_an_update_is_the_optimisers_to_the_bit(
    kind: Kind, max_norm: float, averaging: float, path: str, passes: list[float]
) -> None:
    """With the clipped gradients, the slots and the average that it leaves; before and after a stop, too."""
    with using("off"):
        expected = Run(kind, averaging).go(7, max_norm).state()
    assert not passes
    first = Run(kind, averaging).go(4, max_norm)
    second = Run(kind, averaging)
    second.number = first.number
    kept = {name: tensor.clone() for name, tensor in optimizer_tensors(first.optimizer, first.module).items()}
    second.module.load_state_dict(first.module.state_dict())
    restore_optimizer(second.optimizer, second.module, kept)
    if first.average and second.average:
        second.average.module.load_state_dict(first.average.module.state_dict())
    for run in (first, second):
        assert_same(run.go(3, max_norm).state(), expected)
    assert len(passes) == 10
    assert all((factor < 1) == (max_norm == 1) for factor in passes)


@pytest.mark.parametrize(
    "kind", [KINDS["nesterov"], KINDS["adamw"], KINDS["rmsprop"]], ids=["sgd", "adamw", "rmsprop"]
)
def test_a_state_that_was_replaced_is_the_one_that_goes_on(
    kind: Kind, path: str, passes: list[float]
) -> None:
    def go(run: Run) -> dict[str, Tensor]:
        run.go(2, 1.0)
        kept = copy.deepcopy(run.optimizer.state_dict())
        run.go(2, 1.0)
        run.optimizer.load_state_dict(kept)
        run.module[0].weight.data = run.module[0].weight.data * 0.5
        run.go(1, 1.0)
        run.optimizer.state.clear()
        return run.go(2, 1.0, without=2).state()

    with using("off"):
        expected = go(Run(kind, 0.9))
    assert_same(go(Run(kind, 0.9)), expected)
    assert len(passes) == 7


def hooked_before(run: Run, seen: list[float]) -> None:
    def see(*_: object) -> None:
        gradients = [p.grad for p in run.module.parameters() if p.grad is not None]
        seen.append(nn.utils.get_total_norm(gradients).item())

    run.optimizer.register_step_pre_hook(see)


def hooked_after(run: Run, seen: list[float]) -> None:
    run.optimizer.register_step_post_hook(lambda *_: seen.append(1.0))


def scheduled(run: Run, seen: list[float]) -> None:
    step = run.optimizer.step
    run.optimizer.step = lambda *_: (seen.append(1.0), step())[1]  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("watch", [hooked_before, hooked_after, scheduled])
def test_who_watches_the_optimiser_sees_each_step_and_clipped_gradients(
    watch: Callable[[Run, list[float]], None], path: str, passes: list[float]
) -> None:
    expected = Run(KINDS["nesterov"], 0.9).go(3, 1.0).state()
    assert len(passes) == 3
    run, seen = Run(KINDS["nesterov"], 0.9), list[float]()
    watch(run, seen)
    assert_same(run.go(3, 1.0).state(), expected)
    assert len(passes) == 3
    assert seen == pytest.approx([1.0] * 3)


def other_precision(run: Run) -> None:
    run.module[4].double()
    assert run.average
    run.average.module[4].double()


def other_option(run: Run) -> None:
    run.optimizer.param_groups[0]["maximize"] = True


def tensor_rate(run: Run) -> None:
    run.kind = copy.copy(run.kind)
    object.__setattr__(run.kind, "lr", torch.tensor(0.1))


def shared_memory(run: Run) -> None:
    run.module[1].bias.data = run.module[1].weight.data


def other_parameter(run: Run) -> None:
    """One that has a gradient and does not learn."""
    run.optimizer.param_groups[1]["params"].pop()


@pytest.mark.parametrize(
    "change", [other_precision, other_option, tensor_rate, shared_memory, other_parameter]
)
def test_what_the_kernel_does_not_know_is_done_as_before(
    change: Callable[[Run], None], path: str, passes: list[float]
) -> None:
    def go() -> dict[str, Tensor]:
        run = Run(KINDS["nesterov"], 0.9)
        change(run)
        return run.go(3, 1.0, without=100).state()

    with using("off"):
        expected = go()
    assert_same(go(), expected)
    assert not passes


def test_autograd_knows_that_weights_have_changed(path: str, passes: list[float]) -> None:
    run = Run(KINDS["momentum"], 0.9)
    loss = (run.module[4].weight ** 2).sum()
    run.go(1)
    assert len(passes) == 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_average_follows_where_nothing_learns(path: str, passes: list[float]) -> None:
    with using("off"):
        expected = Run(KINDS["rmsprop"], 0.9).go(2, without=1).state()
    assert_same(Run(KINDS["rmsprop"], 0.9).go(2, 1.0, without=1).state(), expected)
    assert len(passes) == 2
