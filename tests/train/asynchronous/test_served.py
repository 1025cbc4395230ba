"""A parameter server of real shards and workers in this process: against the replay of its log, kills included."""

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise.errors import DepthwiseError, UsageError
from depthwise.train.asynchronous.crew import Came, LostServerError
from depthwise.train.asynchronous.descent import Asynchronous
from depthwise.train.asynchronous.order import ordered
from depthwise.train.asynchronous.pushes import Push, read_log
from depthwise.train.asynchronous.served import MOST_LOST
from depthwise.train.asynchronous.server import Holding, Shard, holdings
from depthwise.train.asynchronous.service import Service
from depthwise.train.asynchronous.worker import Worker
from depthwise.train.checkpoint import load_checkpoint, save_checkpoint
from depthwise.train.loop import Trainer
from depthwise.train.optimizer import SGD, AdamW, Optimizer, RMSprop
from depthwise.train.recipe import Recipe

Make = Callable[..., Trainer]
NEVER = range(0)


@pytest.fixture(autouse=True)
def _quick(one_thread: None) -> None: ...


class Here:
    """A crew whose workers end in an order that is drawn; the last is half as fast. `die`: the ends that are deaths, by
    their numbers from 0 on. `last`: the number of the end at which a server dies."""

    def __init__(
        self, trainer: Trainer, workers: int, chance: random.Random, die: range = NEVER, last: int = -1
    ) -> None:
        self.worker, self.workers, self.chance = Worker(trainer), workers, chance
        self.die, self.last, self.ends = die, last, 0
        self.shards: list[Shard] = []
        self.dead = False

    def open(
        self, holdings: Sequence[Holding], recipe: Recipe, tensors: Mapping[str, Tensor], version: int
    ) -> None:
        self.dead = False
        self.shards = [Shard(holding, recipe) for holding in holdings]
        for shard in self.shards:
            shard.restore(tensors, version)
        self.ready = [*range(self.workers)]
        self.under_way: dict[int, tuple[int, list[dict[str, Tensor]]]] = {}

    def send(self, worker: int, batch: int, version: int) -> None:
        self.under_way[worker] = (batch, [shard.read(version) for shard in self.shards])

    def wait(self) -> Came:
        if self.dead or self.ends == self.last:
            raise LostServerError("a server was killed")
        if self.ready:
            return Came(self.ready.pop())
        last = self.workers - 1
        chances = [k for k in self.under_way for _ in range(1 if k == last else 2)]
        worker = self.chance.choice(chances)
        batch, parts = self.under_way.pop(worker)
        self.ends += 1
        if self.ends - 1 in self.die:
            self.ready.append(worker)
            return Came(worker, lost="it was killed")
        return Came(worker, self.worker.compute(batch, parts))

    def apply(self, gradient: Any, lr: float | None, version: int) -> None:
        for shard, piece in zip(self.shards, gradient, strict=True):
            shard.apply(piece, lr, version)

    def tensors(self, version: int) -> dict[str, Tensor]:
        if self.dead:
            raise LostServerError("a server was killed")
        return {key: value for shard in self.shards for key, value in shard.tensors(version).items()}

    def close(self) -> None:
        self.shards = []


def sha256(trainer: Trainer) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(trainer.checkpoint({}).tensors.items()):
        found.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def serve(
    make: Make,
    path: Path,
    service: Service,
    seed: int = 1,
    die: range = NEVER,
    last: int = -1,
    **recipe: Any,
) -> tuple[Trainer, Here]:
    """A trainer whose updates are served, and its crew."""
    worker = make(**recipe, descent=Asynchronous(lambda _: (), needed=service.needed))
    crew = Here(worker, service.num_workers, random.Random(seed), die, last)
    return make(**recipe, descent=ordered(service, worker.recipe, "f", path, crew)), crew


def to_the_end(trainer: Trainer) -> str:
    while trainer.step < trainer.total_steps:
        trainer.update()
    return sha256(trainer)


def replay(make: Make, log: Path, **recipe: Any) -> Trainer:
    """A trainer that does what the log says, and writes one itself."""
    descent = ordered(read_log(log), make(**recipe).recipe, "f", log.with_name("again"))
    return make(**recipe, descent=descent)


def replayed(make: Make, log: Path, **recipe: Any) -> str:
    found = to_the_end(replay(make, log, **recipe))
    assert log.with_name("again").read_bytes() == log.read_bytes()
    return found


@pytest.mark.parametrize("servers", [1, 4])
@pytest.mark.parametrize("optimizer", [SGD(lr=0.05), AdamW(), RMSprop(lr=0.01)])
def test_workers_of_any_number_of_servers_leave_what_their_log_repeats(
    make_trainer: Make, tmp_path: Path, servers: int, optimizer: Optimizer
) -> None:
    recipe = {"batch_size": 96, "epochs": 1, "optimizer": optimizer, "clip_norm": 2.0}
    service = Service(workers=3, servers=servers, bound=3, divide=True)
    trainer, _ = serve(make_trainer, tmp_path / "log", service, **recipe)
    while trainer.step < trainer.total_steps:
        trainer.update()
    trainer.settle()
    assert trainer.first is not None
    stale = [push.staleness for push in read_log(tmp_path / "log").pushes]
    assert 1 < max(stale) <= 3
    assert trainer.descent.take_window() == {"staleness": sum(stale) / trainer.step}
    assert sha256(trainer) == replayed(make_trainer, tmp_path / "log", **recipe)


def test_servers_killed_five_times_and_workers_too_lose_and_double_nothing(
    make_trainer: Make, tmp_path: Path
) -> None:
    recipe: dict[str, Any] = {"batch_size": 48, "epochs": 1}
    log, kept = tmp_path / "log", tmp_path / "checkpoint"
    service, kills = Service(workers=3, servers=3, divide=True), 0
    trainer, crew = serve(make_trainer, log, service, die=range(3), **recipe)
    save_checkpoint(kept, trainer.checkpoint({}))
    while trainer.step < trainer.total_steps:
        crew.dead = trainer.step == 4 * kills + 3 and kills < 5
        try:
            trainer.update()
        except LostServerError:
            # Another process takes over, with another number of shards.
            kills += 1
            service = Service(workers=3, servers=1 + kills % 3, divide=True)
            trainer, crew = serve(make_trainer, log, service, seed=kills, die=range(1), **recipe)
            trainer.restore(load_checkpoint(kept))
            assert trainer.step < 4 * kills
        if trainer.step % 4 == 0:
            save_checkpoint(kept, trainer.checkpoint({}))
    assert kills == 5
    pushes = read_log(log).pushes
    assert sorted(push.batch for push in pushes if push.written) == list(range(trainer.total_steps))
    assert sha256(trainer) == replayed(make_trainer, log, **recipe)


def updates(log: Path) -> list[list[Push]]:
    """The pushes of a log that count, update after update."""
    counted = [push for push in read_log(log).pushes if push.written]
    return [[*pushes] for _, pushes in groupby(counted, key=lambda push: push.written)]


def test_an_update_is_the_mean_of_the_first_gradients_and_the_log_repeats_it(
    make_trainer: Make, tmp_path: Path
) -> None:
    """Batches weigh differently, are clipped one by one, and have several passes."""
    recipe = {"batch_size": 32, "epochs": 1, "accumulate": 2, "optimizer": AdamW(), "clip_norm": 1.0}
    recipe |= {"class_weights": "balanced", "label_smoothing": 0.1}
    service = Service(workers=3, backup=1, servers=3)
    trainer, _ = serve(make_trainer, tmp_path / "log", service, **recipe)
    served = to_the_end(trainer)
    again = replay(make_trainer, tmp_path / "log", **recipe)
    assert served == to_the_end(again)
    assert trainer.descent.take_window() == again.descent.take_window() == {"staleness": 0}
    assert trainer.descent.position == again.descent.position
    assert trainer.first is not None
    assert again.first is not None
    assert torch.equal(trainer.first.images, again.first.images)
    log = read_log(tmp_path / "log")
    assert any(push.written is None for push in log.pushes)
    assert [len(pushes) for pushes in updates(log.path)] == [3] * trainer.total_steps
    for pushes in updates(log.path):
        assert len({push.worker for push in pushes}) == 3
    assert sorted(push.batch for push in log.pushes if push.written) == list(range(3 * trainer.total_steps))


def test_workers_that_all_wait_are_an_accumulation_in_whatever_order_they_end(
    make_trainer: Make, tmp_path: Path
) -> None:
    """Without batch norm: a sum of gradients rounds otherwise than the gradient of a sum. And to the bit as each other,
    also where some die, whose batches others of the update take."""
    recipe = {"batch_size": 32, "class_weights": "balanced", "label_smoothing": 0.1, "epochs": 1}
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def make(**changes: Any) -> Trainer:
        return make_trainer(deepcopy(network), **recipe, **changes)

    found = []
    for seed, die in ((1, NEVER), (2, NEVER), (3, range(4, 5))):
        served, _ = serve(make, tmp_path / str(seed), Service(workers=3, backup=0), seed=seed, die=die)
        found.append(to_the_end(served))
    assert len({*found}) == 1
    orders = [[push.batch for push in read_log(tmp_path / name).pushes] for name in "123"]
    assert orders[0] != orders[1]
    helped = [pushes for pushes in updates(tmp_path / "3") if len({push.worker for push in pushes}) < 3]
    assert helped
    assert replayed(make, tmp_path / "3") == found[0]
    plain = make(accumulate=3)
    to_the_end(plain)
    torch.testing.assert_close(plain.module.state_dict(), served.module.state_dict(), rtol=0, atol=2e-6)
    torch.testing.assert_close(plain.totals, served.totals, rtol=1e-6, atol=0)


def test_what_dies_in_the_middle_of_an_update_loses_and_doubles_nothing(
    make_trainer: Make, tmp_path: Path
) -> None:
    recipe: dict[str, Any] = {"batch_size": 48, "epochs": 1}
    log, kept = tmp_path / "log", tmp_path / "checkpoint"
    lives, middles = (7, 10, 11, -1), 0
    for life, last in enumerate(lives):
        service = Service(workers=3, backup=1, servers=1 + life % 3)
        trainer, crew = serve(make_trainer, log, service, seed=life, die=range(2, 4), last=last, **recipe)
        if life:
            trainer.restore(load_checkpoint(kept))
        else:
            save_checkpoint(kept, trainer.checkpoint({}))
        try:
            while trainer.step < trainer.total_steps:
                trainer.update()
                save_checkpoint(kept, trainer.checkpoint({}))
        except LostServerError:
            middles += bool(crew.shards[0]._pieces)
    assert middles == len(lives) - 1
    assert trainer.step == trainer.total_steps
    counted = [push for pushes in updates(log) for push in pushes]
    assert sorted(push.batch for push in counted) == list(range(3 * trainer.total_steps))
    assert sha256(trainer) == replayed(make_trainer, log, **recipe)


def test_workers_that_die_whatever_takes_their_place_end_the_run(make_trainer: Make, tmp_path: Path) -> None:
    trainer, _ = serve(make_trainer, tmp_path / "log", Service(workers=2), die=range(MOST_LOST + 1))
    with pytest.raises(
        DepthwiseError, match=r"11 workers were lost with no push between, the last because it was"
    ):
        trainer.update()


def test_a_shard_that_is_asked_out_of_order_says_so(make_trainer: Make) -> None:
    trainer = make_trainer()
    [holding] = holdings(trainer.module, 1)
    shard = Shard(holding, trainer.recipe)
    with pytest.raises(DepthwiseError, match=r"asked for version 2 and has 0"):
        shard.read(2)


def test_shards_are_alike_in_bytes_and_hold_every_tensor_once(make_trainer: Make) -> None:
    module = make_trainer().module
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shards = [holding.names for holding in holdings(module, 3)]
    assert sorted(name for names in shards for name in names) == sorted(tensors)
    held = [sum(tensors[name].nbytes for name in names) for names in shards]
    assert max(held) - min(held) <= max(tensor.nbytes for tensor in tensors.values())
    with pytest.raises(UsageError, match=r"3 servers for 2 parameters: take fewer"):
        holdings(nn.Linear(2, 2), 3)
    frozen = nn.Sequential(nn.BatchNorm1d(100), nn.Linear(1, 1))
    frozen[0].requires_grad_(False)
    assert all(holding.learning for holding in holdings(frozen, 2))


def test_a_frozen_backbone_stays_where_it_is(make_trainer: Make, tmp_path: Path) -> None:
    """It is not pulled, and its batch norms do not move."""
    recipe = {"batch_size": 96, "epochs": 1, "freeze": True}
    trainer, _ = serve(make_trainer, tmp_path / "log", Service(workers=2, servers=2, divide=True), **recipe)
    before = {name: value.clone() for name, value in trainer.module.state_dict().items()}
    while trainer.step < trainer.total_steps:
        trainer.update()
    assert sha256(trainer) == replayed(make_trainer, tmp_path / "log", **recipe)
    moved = {
        name for name, value in trainer.module.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == {"classifier.weight", "classifier.bias"}
