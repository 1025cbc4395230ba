"""Made-up workers: who pushes when, and how old gradients are then."""

from collections import Counter
from statistics import fmean

import pytest

from depthwise.errors import UsageError
from depthwise.train.asynchronous.simulation import Simulation, simulated


def counted(num_updates: int, **settings: object) -> list[tuple[int, int]]:
    """Worker and staleness of each gradient that counts."""
    pushes = simulated(Simulation(**settings), num_updates)
    return [(push.worker, push.staleness) for push in pushes if push.written]


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_gradients_of_n_equal_workers_are_n_minus_1_updates_old(workers: int) -> None:
    stale = [staleness for _, staleness in counted(40, workers=workers)]
    assert stale[:workers] == list(range(workers))  # all begin with the same weights
    assert set(stale[workers:]) == {workers - 1}


def test_a_slow_worker_brings_few_and_old_gradients() -> None:
    pairs = counted(400, workers=5, slow=4)
    share = Counter(worker for worker, _ in pairs)
    assert share[4] == pytest.approx(share[0] / 4, abs=1)
    assert fmean(staleness for worker, staleness in pairs if worker == 4) == pytest.approx(16, abs=0.5)


def test_nobody_is_further_behind_than_the_bound_and_every_batch_counts() -> None:
    pushes = list(simulated(Simulation(workers=8, speed="lognormal", slow=5, bound=9), 300))
    stale = [push.staleness for push in pushes if push.written]
    assert max(stale) == 9
    assert any(push.written is None for push in pushes)
    assert sorted(push.batch for push in pushes if push.written) == list(range(300))


def test_backup_workers_save_the_wait_for_the_slowest() -> None:
    times = {}
    for backup in (0, 1):
        pushes = list(simulated(Simulation(workers=4, backup=backup, slow=10), 20))
        assert {push.staleness for push in pushes} == {0}
        assert sorted(push.batch for push in pushes if push.written) == list(range(80))
        assert Counter(push.written for push in pushes if push.written) == dict.fromkeys(range(1, 21), 4)
        times[backup] = pushes[-1].time
    assert times == {0: 200.0, 1: 20.0}


def test_drawn_speeds_have_the_mean_of_constant_ones_and_follow_the_seed() -> None:
    drawn = {"workers": 3, "speed": "lognormal", "spread": 0.3}
    runs = [list(simulated(Simulation(**drawn, seed=seed), 3000)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][-1].time == pytest.approx(1000, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"worker": 4}, r"unknown setting of simulate .worker.: use one of workers"),
        ({"workers": 0}, r"simulate.workers=0 must be at least 1 and at most 4,096"),
        ({"spread": 0.3}, r"simulate.spread=0.3 is of speeds that are drawn: add speed=lognormal"),
        ({"backup": 1, "bound": 3}, r"simulate.backup makes all workers wait.*leave bound and divide out"),
        ({"speed": "quick"}, r"simulate.speed"),
    ],
)
def test_a_simulation_that_cannot_be_is_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Simulation.of(settings.items())


def test_it_is_said_as_it_is_typed() -> None:
    assert Simulation(workers=60, slow=4, bound=70).words == "workers=60 slow=4.0 bound=70"
