"""A parameter server of real shards and workers in this process: against the replay of its log, kills included."""

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise.errors import DepthwiseError, UsageError
from depthwise.train.asynchronous.crew import Brought, Came, LostServerError
from depthwise.train.asynchronous.descent import Asynchronous
from depthwise.train.asynchronous.pushes import PushLog, read_log
from depthwise.train.asynchronous.served import MOST_LOST, Served
from depthwise.train.asynchronous.server import Holding, Shard, holdings
from depthwise.train.asynchronous.service import Service
from depthwise.train.asynchronous.worker import Worker
from depthwise.train.checkpoint import load_checkpoint, save_checkpoint
from depthwise.train.loop import Trainer
from depthwise.train.optimizer import SGD, AdamW, Optimizer, RMSprop
from depthwise.train.recipe import Recipe

Make = Callable[..., Trainer]
HEAD = {"needed": 1, "divide": True, "recipe": {}, "fingerprint": "f"}


@pytest.fixture(autouse=True)
def _quick(one_thread: None) -> None: ...


class Here:
    """A crew whose workers end in an order that is drawn; the last is half as fast. `die`: so many ends are deaths."""

    def __init__(self, trainer: Trainer, workers: int, chance: random.Random, die: int = 0) -> None:
        self.worker, self.workers, self.chance, self.die = Worker(trainer), workers, chance, die
        self.shards: list[Shard] = []
        self.num_shards = 0  # as asked for; 0: as the holdings are
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
        if self.dead:
            raise LostServerError("a server was killed")
        if self.ready:
            return Came(self.ready.pop())
        last = self.workers - 1
        chances = [k for k in self.under_way for _ in range(1 if k == last else 2)]
        worker = self.chance.choice(chances)
        batch, parts = self.under_way.pop(worker)
        if self.die:
            self.die -= 1
            self.ready.append(worker)
            return Came(worker, lost="it was killed")
        return Came(worker, Brought(*self.worker.compute(batch, parts)))

    def apply(self, gradient: Any, lr: float, version: int) -> None:
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
    make: Make, path: Path, service: Service, seed: int = 1, die: int = 0, **recipe: Any
) -> tuple[Trainer, Here]:
    """A trainer whose updates are served, and its crew."""
    crew = Here(make(**recipe), service.workers, random.Random(seed), die)
    return make(**recipe, descent=Served(service, crew, PushLog(path, HEAD))), crew


def replayed(make_trainer: Make, log: Path, **recipe: Any) -> str:
    pushes = read_log(log).pushes
    again = make_trainer(**recipe, descent=Asynchronous(lambda _: pushes, divide=True))
    while again.step < again.total_steps:
        again.update()
    return sha256(again)


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
    trainer, crew = serve(make_trainer, log, service, die=3, **recipe)
    save_checkpoint(kept, trainer.checkpoint({}))
    while trainer.step < trainer.total_steps:
        crew.dead = trainer.step == 4 * kills + 3 and kills < 5
        try:
            trainer.update()
        except LostServerError:
            # Another process takes over, with another number of shards.
            kills += 1
            service = Service(workers=3, servers=1 + kills % 3, divide=True)
            trainer, crew = serve(make_trainer, log, service, seed=kills, die=1, **recipe)
            trainer.restore(load_checkpoint(kept))
            assert trainer.step < 4 * kills
        if trainer.step % 4 == 0:
            save_checkpoint(kept, trainer.checkpoint({}))
    assert kills == 5
    pushes = read_log(log).pushes
    assert sorted(push.batch for push in pushes if push.written) == list(range(trainer.total_steps))
    assert sha256(trainer) == replayed(make_trainer, log, **recipe)


def test_workers_that_die_whatever_takes_their_place_end_the_run(make_trainer: Make, tmp_path: Path) -> None:
    trainer, _ = serve(make_trainer, tmp_path / "log", Service(workers=2), die=MOST_LOST + 1)
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
