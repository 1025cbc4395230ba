"""Leases of batches: none is lost or counted twice, whoever dies."""

import random

import pytest

from depthwise.errors import UsageError
from depthwise.train.asynchronous.ledger import Account, Lease, Ledger, account_of


def test_a_batch_is_leased_to_one_worker_and_counts_once() -> None:
    ledger = Ledger(3)
    first, second = ledger.lease(0), ledger.lease(1)
    assert first
    assert second
    assert (first.batch, second.batch, first.pulled, second.pulled) == (0, 1, 0, 0)
    assert ledger.push(0, second) is None  # not its own
    assert ledger.push(1, second) == 1
    assert ledger.push(1, second) is None  # again
    assert (ledger.version, ledger.ended) == (1, False)


def test_what_a_dead_worker_had_is_leased_again() -> None:
    ledger = Ledger(2)
    first, second = ledger.lease(0), ledger.lease(1)
    assert first
    assert second
    ledger.give_back(0)
    assert ledger.push(0, first) is None  # it was not dead after all
    assert ledger.lease(2) == first
    assert ledger.lease(3) is None
    assert [ledger.push(2, first), ledger.push(1, second), ledger.ended] == [1, 2, True]


def test_a_worker_further_behind_than_the_bound_must_pull_again() -> None:
    ledger = Ledger(5, bound=1)
    behind = ledger.lease(0)
    assert behind
    for version in (1, 2):
        lease = ledger.lease(1)
        assert lease
        assert ledger.push(1, lease) == version
    assert ledger.push(0, behind) is None
    assert ledger.lease(1) == Lease(batch=0, pulled=2)


@pytest.mark.parametrize("needed", [1, 3])
@pytest.mark.parametrize("bound", [None, 2])
def test_kills_of_workers_and_of_the_server_lose_and_double_nothing(
    fuzz_seed: int, needed: int, bound: int | None
) -> None:
    chance, batches = random.Random(fuzz_seed), 60
    ledger = Ledger(batches, bound=bound, needed=needed)
    kept, counted = (ledger.account(), list[int]()), list[int]()
    held: dict[int, Lease] = {}
    waiting: list[int] = []
    while not ledger.ended:
        worker, what = chance.randrange(5), chance.random()
        if what < 0.02:  # the server dies, and comes back as its checkpoint has it
            account, counted = kept[0], list(kept[1])
            ledger = Ledger(batches, bound=bound, needed=needed)
            ledger.restore(account_of(vars(account)))
            waiting = []
        elif what < 0.1:
            ledger.give_back(worker)
            held.pop(worker, None)
        elif worker in held:
            lease, version = held.pop(worker), ledger.version
            if ledger.push(worker, lease):
                waiting.append(lease.batch)
            if ledger.version > version:
                counted, waiting = [*counted, *waiting], []
                kept = (ledger.account(), list(counted))
        elif new := ledger.lease(worker):
            held[worker] = new
    assert sorted(counted) == list(range(batches))
    assert ledger.account() == Account(batches // needed, batches, ())


def test_an_account_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(UsageError, match=r"7 batches counted do not make 6 updates of 1, of 9"):
        Ledger(9).restore(Account(6, 8, (2,)))
    with pytest.raises(UsageError, match=r"are no batches that were leased, each once"):
        Account(1, 2, (1, 1))
