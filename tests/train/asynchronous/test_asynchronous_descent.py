"""Asynchronous descent in one process: against the synchronous one, and against itself from a log or a checkpoint."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from depthwise.errors import DepthwiseError
from depthwise.train.asynchronous.descent import Asynchronous
from depthwise.train.asynchronous.pushes import Push, PushLog, read_log
from depthwise.train.asynchronous.simulation import Simulation, simulated
from depthwise.train.asynchronous.state import copied, momenta, put, take_statistics
from depthwise.train.checkpoint import load_checkpoint, save_checkpoint
from depthwise.train.loop import Trainer
from depthwise.train.optimizer import SGD, AdamW, Optimizer, RMSprop

HEAD = {"needed": 1, "divide": False, "recipe": {}, "fingerprint": "f"}

Make = Callable[..., Trainer]


@pytest.fixture(autouse=True)
def _quick(one_thread: None) -> None: ...


def made_up(log: PushLog | None = None, **settings: object) -> Asynchronous:
    simulation = Simulation(**settings)

    def pushes(updates: int) -> list[Push]:
        return list(simulated(simulation, updates))

    return Asynchronous(pushes, needed=simulation.needed, divide=simulation.divide, log=log)


def digest(trainer: Trainer) -> str:
    """Of everything that the rest of a run depends on, but for what it keeps of older weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(trainer.checkpoint({}).tensors.items()):
        if not name.startswith("pulled."):
            found.update(name.encode() + tensor.detach().numpy().tobytes())
    return found.hexdigest()


def trained(trainer: Trainer, updates: int) -> str:
    for _ in range(updates):
        trainer.update()
    return digest(trainer)


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1), AdamW(), RMSprop(lr=0.01)])
def test_one_worker_is_the_synchronous_run(make_trainer: Make, optimizer: Optimizer) -> None:
    recipe = {"optimizer": optimizer, "clip_norm": 1.0, "accumulate": 2, "batch_size": 16}
    alone = make_trainer(**recipe, descent=made_up(workers=1, speed="lognormal"))
    assert trained(alone, 6) == trained(make_trainer(**recipe), 6)


def test_n_workers_in_step_are_an_accumulation_of_n(make_trainer: Make) -> None:
    recipe = {"batch_size": 16, "class_weights": "balanced", "label_smoothing": 0.1}
    model_args = {**make_trainer().recipe.model_args, "dropout": 0.0}
    together = make_trainer(**recipe, model_args=model_args, descent=made_up(workers=3, backup=0))
    plain = make_trainer(**recipe, model_args=model_args, accumulate=3)
    assert (together.total_steps, together.samples_per_step) == (plain.total_steps, plain.samples_per_step)
    assert trained(together, 5) == trained(plain, 5)


def test_gradients_are_taken_at_the_weights_that_were_pulled(make_trainer: Make) -> None:
    """Against the dumbest implementation: every version kept, SGD by hand."""
    recipe = {"optimizer": SGD(lr=0.1, momentum=0.0), "averaging": 0.0, "batch_size": 32}
    simulation = Simulation(workers=3, slow=2.5, divide=True)
    trainer = make_trainer(**recipe, descent=made_up(workers=3, slow=2.5, divide=True))
    worker = make_trainer(**recipe)
    weights = [{name: p.detach().clone() for name, p in worker.module.named_parameters()}]
    for push in list(simulated(simulation, trainer.total_steps))[:12]:
        with torch.no_grad():
            for name, parameter in worker.module.named_parameters():
                parameter.copy_(weights[push.pulled][name])
        worker.gradient([next(worker.passes([push.batch]))])
        rate = 0.1 * worker.recipe.schedule.factor(trainer.clock) / max(1, push.staleness)
        parameters = dict(worker.module.named_parameters())
        weights.append({name: value - rate * parameters[name].grad for name, value in weights[-1].items()})
        trainer.update()
        for name, parameter in trainer.module.named_parameters():
            torch.testing.assert_close(parameter.detach(), weights[-1][name], rtol=0, atol=2e-7)


def test_a_log_repeats_the_run_that_wrote_it(make_trainer: Make, tmp_path: Path) -> None:
    log = PushLog(tmp_path / "pushes.jsonl", HEAD)
    settings = {"workers": 5, "speed": "lognormal", "slow": 3, "bound": 6, "seed": 4}
    run = make_trainer(batch_size=32, descent=made_up(log, **settings))
    first = trained(run, run.total_steps)
    read = read_log(log.path)
    again = make_trainer(batch_size=32, descent=Asynchronous(lambda _: read.pushes))
    assert trained(again, again.total_steps) == first
    assert any(push.written is None for push in read.pushes)
    assert sorted(push.batch for push in read.pushes if push.written) == list(range(run.total_steps))
    assert read.pushes == list(simulated(Simulation(**settings), run.total_steps))


@pytest.mark.parametrize("settings", [{"workers": 4, "slow": 3}, {"workers": 3, "backup": 1, "slow": 3}])
def test_a_checkpoint_is_all_that_the_rest_depends_on(
    make_trainer: Make, tmp_path: Path, settings: dict[str, int]
) -> None:
    logs = [PushLog(tmp_path / name, {**HEAD, "needed": settings["workers"]}) for name in ("whole", "broken")]
    whole = make_trainer(batch_size=32, descent=made_up(logs[0], **settings))
    broken = make_trainer(batch_size=32, descent=made_up(logs[1], **settings))
    trained(broken, 7)
    save_checkpoint(tmp_path / "checkpoint", broken.checkpoint({}))
    trained(broken, 3)  # which a kill forgets
    again = PushLog(tmp_path / "broken", {**HEAD, "needed": settings["workers"]})
    other = make_trainer(batch_size=32, descent=made_up(again, **settings))
    other.restore(load_checkpoint(tmp_path / "checkpoint"))
    assert trained(other, 8) == trained(whole, 15)
    assert other.descent.take_window() == whole.descent.take_window()
    assert (tmp_path / "whole").read_text() == (tmp_path / "broken").read_text()


def test_a_log_that_ends_early_says_so(make_trainer: Make) -> None:
    pushes = list(simulated(Simulation(workers=2), 20))[:4]
    trainer = make_trainer(batch_size=32, descent=Asynchronous(lambda _: pushes))
    with pytest.raises(DepthwiseError, match=r"the log ends after 4 of 88 updates: .* with resume=True"):
        trained(trainer, 5)


def test_statistics_of_a_push_move_the_present_ones_as_if_they_had_been_computed_there() -> None:
    norm, momentum = nn.BatchNorm2d(4), 0.1
    images = torch.randn(3, 2, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    norm.momentum = momentum
    pulled = copied(norm)
    norm(images[0])  # another worker's, in between
    present = copied(norm)
    put(norm, pulled)
    for batch in images[1:]:
        norm(batch)
    pushed = copied(norm)
    put(norm, present)
    take_statistics(dict(norm.named_buffers()), momenta(norm), pulled, pushed)
    dumb = nn.BatchNorm2d(4, momentum=momentum)
    for batch in images:
        dumb(batch)
    for name, value in norm.named_buffers():
        torch.testing.assert_close(value, dict(dumb.named_buffers())[name])
