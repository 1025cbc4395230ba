"""The parameter server: its shards against one network, pushes against their replay, and kills."""

import hashlib
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from torch import Tensor, nn

from depthwise.errors import UsageError
from depthwise.train.asynchronous.descent import Asynchronous
from depthwise.train.asynchronous.ledger import Ledger
from depthwise.train.asynchronous.pushes import PushLog, read_log
from depthwise.train.asynchronous.server import Pulled, Server, Shard, Worker, partition
from depthwise.train.checkpoint import load_checkpoint, save_checkpoint
from depthwise.train.loop import Trainer
from depthwise.train.optimizer import SGD, AdamW, Optimizer, RMSprop

Make = Callable[..., Trainer]
HEAD = {"needed": 1, "divide": True, "recipe": {}, "fingerprint": "f"}


@pytest.fixture(autouse=True)
def _quick(one_thread: None) -> None: ...


def sha256(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if name.startswith(("model.", "averaged.", "optimizer.")):
            found.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def serve(
    trainer: Trainer, num_shards: int, num_batches: int, path: Path, bound: int | None = None
) -> Server:
    """A server of the trainer's network, whose shards are copies of their own."""
    module, recipe, clock = trainer.module, trainer.recipe, trainer.clock
    shards = [Shard(module, names, recipe) for names in partition(module, num_shards)]

    def rate(num_updates: int) -> float:
        now = type(clock)(num_updates, clock.steps_per_epoch, clock.samples_per_step, clock.total_steps)
        return recipe.optimizer.lr * recipe.schedule.factor(now)

    log = PushLog(path, HEAD)
    return Server(shards, Ledger(num_batches, bound=bound), log, rate, divide=True, seconds=lambda: 0.0)


def replayed(make_trainer: Make, log: Path, updates: int, **recipe: object) -> str:
    pushes = read_log(log).pushes
    again = make_trainer(**recipe, descent=Asynchronous(lambda _: pushes, divide=True))
    for _ in range(updates):
        again.update()
    return sha256(again.checkpoint({}).tensors)


@pytest.mark.parametrize("num_shards", [1, 4])
@pytest.mark.parametrize("optimizer", [SGD(lr=0.05), AdamW(), RMSprop(lr=0.01)])
def test_workers_of_any_number_of_shards_leave_what_their_log_repeats(
    make_trainer: Make, tmp_path: Path, num_shards: int, optimizer: Optimizer
) -> None:
    recipe = {"batch_size": 32, "optimizer": optimizer, "clip_norm": 2.0}
    server = serve(make_trainer(**recipe), num_shards, 14, tmp_path / "log", bound=3)
    workers = [Worker(number, make_trainer(**recipe), server) for number in range(3)]
    chance, pulled = random.Random(1), dict[int, Pulled | None]()
    while not server.ledger.ended:
        worker = workers[min(chance.randrange(4), 2)]  # of different speeds
        if now := pulled.pop(worker.number, None):
            server.push(worker.number, worker.compute(now))
        else:
            pulled[worker.number] = server.pull(worker.number)
    pushes = read_log(tmp_path / "log").pushes
    assert 1 < max(push.staleness for push in pushes) <= 3
    assert sha256(server.checkpoint().tensors) == replayed(make_trainer, tmp_path / "log", 14, **recipe)


def test_a_server_killed_five_times_loses_and_doubles_nothing(make_trainer: Make, tmp_path: Path) -> None:
    recipe, batches = {"batch_size": 32}, 24
    log, checkpoint = tmp_path / "log", tmp_path / "checkpoint"
    server = serve(make_trainer(**recipe), 3, batches, log)
    save_checkpoint(checkpoint, server.checkpoint())
    trainer = make_trainer(**recipe)
    chance, pulled, kills = random.Random(2), dict[int, Pulled | None](), 0
    while not server.ledger.ended:
        number, version = chance.randrange(3), server.ledger.version
        if now := pulled.pop(number, None):
            server.push(number, Worker(number, trainer, server).compute(now))
            if server.ledger.version > version and server.ledger.version % 4 == 0:
                save_checkpoint(checkpoint, server.checkpoint())
            elif server.ledger.version == 4 * kills + 3 and kills < 5:
                # Another number of shards takes over; the workers still hold what the old server gave them.
                kills += 1
                server = serve(make_trainer(seed=kills, **recipe), 1 + kills % 3, batches, log)
                server.restore(load_checkpoint(checkpoint))
                assert server.ledger.version < 4 * kills
        else:
            pulled[number] = server.pull(number)
    assert kills == 5
    pushes = read_log(log).pushes
    assert sorted(push.batch for push in pushes if push.written) == list(range(batches))
    assert any(push.written is None for push in pushes)
    assert sha256(server.checkpoint().tensors) == replayed(make_trainer, log, batches, **recipe)


def test_a_dead_worker_is_replaced(make_trainer: Make, tmp_path: Path) -> None:
    recipe = {"batch_size": 32}
    server = serve(make_trainer(**recipe), 2, 3, tmp_path / "log")
    assert server.pull(0)
    server.lost(0)
    worker = Worker(1, make_trainer(**recipe), server)
    while worker.work():
        pass
    assert [push.batch for push in read_log(tmp_path / "log").pushes] == [0, 1, 2]
    assert server.ledger.ended


def test_shards_are_alike_in_bytes_and_hold_every_tensor_once(make_trainer: Make) -> None:
    module = make_trainer().module
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shards = partition(module, 3)
    assert sorted(name for names in shards for name in names) == sorted(tensors)
    held = [sum(tensors[name].nbytes for name in names) for names in shards]
    assert max(held) - min(held) <= max(tensor.nbytes for tensor in tensors.values())
    with pytest.raises(UsageError, match=r"3 shards for 2 parameters: take fewer"):
        partition(nn.Linear(2, 2), 3)
    frozen = nn.Sequential(nn.BatchNorm1d(100), nn.Linear(1, 1))
    frozen[0].requires_grad_(False)
    assert all(any(tensor.startswith("1.") for tensor in names) for names in partition(frozen, 2))
