"""Who computes which batch, and which gradients count: whole numbers only, so that no weights are needed to know it."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from depthwise.bounds import Bounds, check
from depthwise.errors import UsageError

Count = Annotated[int, Bounds(0, 2**63 - 1)]


@dataclass(frozen=True)
class Lease:
    """A worker's batch, and the version of the weights that its gradient is taken at.

    batch: its place among those of the run, from 0. pulled: how many updates those weights had.
    """

    batch: int
    pulled: int


@dataclass(frozen=True)
class Account:
    """A Ledger as it is kept: batches from `following` on were never leased, of those before it the `returned` ones
    have to be leased again, and all others count."""

    version: Count
    following: Count
    returned: tuple[Count, ...]

    def __post_init__(self) -> None:
        check(self, "ledger")
        if len({*self.returned}) < len(self.returned) or any(k >= self.following for k in self.returned):
            raise UsageError(f"ledger.returned={self.returned} are no batches that were leased, each once")

    @property
    def num_counted(self) -> int:
        """Batches whose gradient was applied."""
        return self.following - len(self.returned)


class Ledger:
    """Leases `num_batches` batches, each to one worker at a time, and counts each once.

    An update, which makes the next version, is the mean of `needed` gradients. `bound` is the largest staleness that
    counts, the number of updates since the weights were pulled; None: any. A lease that is past it goes to somebody
    else at once, and its holder's push is dropped.
    """

    def __init__(self, num_batches: int, *, bound: int | None = None, needed: int = 1) -> None:
        self.num_batches, self.bound, self.needed = num_batches, bound, needed
        self.version = 0
        self._following = 0
        self._returned: list[int] = []
        self._held: dict[int, Lease] = {}
        self._collected: list[int] = []

    @property
    def ended(self) -> bool:
        """Whether every batch has counted."""
        waiting = self._returned or self._held or self._collected
        return self._following == self.num_batches and not waiting

    @property
    def under_way(self) -> int:
        """Batches of the next update: those whose gradients wait for the rest of it, and those that are leased."""
        return len(self._collected) + len(self._held)

    def lease(self, worker: int) -> Lease | None:
        """A batch for `worker`, which pulls the weights as they are; None if there is none that nobody has.

        What the worker had before is returned: it has pulled anew.
        """
        self.give_back(worker)
        if self._returned:
            batch = heapq.heappop(self._returned)
        elif self._following < self.num_batches:
            batch, self._following = self._following, self._following + 1
        else:
            return None
        self._held[worker] = Lease(batch, self.version)
        return self._held[worker]

    def push(self, worker: int, lease: Lease) -> int | None:
        """The version that the worker's gradient goes into; None: it is dropped, and the worker must pull.

        It counts if the worker still has the lease; so no batch counts twice, whoever died in between.
        """
        if self._held.get(worker) != lease:
            return None
        del self._held[worker]
        self._collected.append(lease.batch)
        written = self.version + 1
        if len(self._collected) == self.needed:
            self._collected = []
            self.version = written
            self._return_overdue()
        return written

    def give_back(self, worker: int) -> None:
        """The worker is dead, or has lost what it pulled: its batch will be leased again."""
        if lease := self._held.pop(worker, None):
            heapq.heappush(self._returned, lease.batch)

    def account(self) -> Account:
        """What a checkpoint keeps: whoever has a lease now must pull anew after a restart, and so must those whose
        gradients wait for the rest of an update."""
        open_batches = [lease.batch for lease in self._held.values()]
        returned = sorted([*self._returned, *open_batches, *self._collected])
        return Account(self.version, self._following, tuple(returned))

    def restore(self, account: Account) -> None:
        """Go back to what `account` says; raises UsageError for one of another run."""
        if account.following > self.num_batches or account.num_counted != account.version * self.needed:
            raise UsageError(
                f"the ledger's {account.num_counted} batches counted do not make {account.version} updates of "
                f"{self.needed}, of {self.num_batches} batches in all"
            )
        self.version, self._following = account.version, account.following
        self._returned, self._held, self._collected = list(account.returned), {}, []

    def _return_overdue(self) -> None:
        if self.bound is None:
            return
        for worker, lease in list(self._held.items()):
            if self.version - lease.pulled > self.bound:
                self.give_back(worker)


def account_of(values: Mapping[str, Any]) -> Account:
    """An account from what JSON gave of its `vars`."""
    return Account(**values)
