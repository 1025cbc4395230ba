"""A run whose gradients come from workers elsewhere: the front of the parameter server."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from depthwise.data.loader import Batch
from depthwise.errors import DepthwiseError
from depthwise.train.asynchronous.crew import Brought, Crew
from depthwise.train.asynchronous.ledger import Lease, Ledger, account_of
from depthwise.train.asynchronous.pushes import Push, PushLog
from depthwise.train.asynchronous.server import holdings
from depthwise.train.asynchronous.service import Service, ledger_of
from depthwise.train.asynchronous.state import shares_of, totals_of
from depthwise.train.checkpoint import Checkpoint
from depthwise.train.loop import Trainer

MOST_LOST = 10
"""Workers that are replaced with no push between: one more, and it is their work that ends them."""


class Served:
    """Leases batches to a crew's workers, decides by a ledger which pushes count, lets the shards apply them, and
    writes those of each update to a log. The first batches are leased when all workers are ready. A worker computes one
    of an update's gradients and waits for the rest, unless too few are under way because others were lost.

    The trainer's network is behind the shards': it has their weights after `settle`. While the trainer measures it or
    writes a checkpoint, workers end what they compute and wait.
    """

    fixed = True

    def __init__(
        self,
        service: Service,
        crew: Crew | None,
        log: PushLog,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.service, self.log, self._tell = service, log, tell
        self.needed = service.needed
        self._crew = crew
        self._ledger: Ledger | None = None
        self._open, self._all_ready, self._settled = False, False, True
        self._held: dict[int, Lease] = {}
        self._idle: list[int] = []
        # Of the update that is under way: what was pushed, what batches that count came to, and who computed them.
        self._arrived: list[Push] = []
        self._collected: dict[int, tuple[Tensor, float]] = {}
        self._gave: set[int] = set()
        self._lost = 0
        self._before, self._began = 0.0, time.monotonic()
        self._last = Push(0, 0, 0, 0, 0.0)  # of the last update, with the first of its batches
        self._window = [0, 0]

    @property
    def crew(self) -> Crew:
        if self._crew is None:
            raise DepthwiseError("the run has its workers on a cluster: say which, with --ray ADDRESS")
        return self._crew

    def update(self, trainer: Trainer) -> None:
        """Wait for the pushes that make the next update, and let them be applied."""
        ledger = self._begun(trainer)
        while True:
            came = self.crew.wait()
            held = self._held.pop(came.worker, None)
            done = False
            if came.brought and held:
                done = self._push(trainer, ledger, came.worker, held, came.brought)
            elif came.lost:
                self._replaced(ledger, came.worker, came.lost)
                continue
            self._idle.append(came.worker)
            self._all_ready = self._all_ready or len(self._idle) == self.service.num_workers
            if self._all_ready:
                self._lease(ledger)
            if done:
                return

    def settle(self, trainer: Trainer) -> None:
        """Let the trainer have weights, averages and the optimiser's slots as they are after its last update."""
        if self._settled:
            return
        trainer.put(self.crew.tensors(trainer.step))
        self._settled = True

    def first(self, trainer: Trainer) -> Batch | None:
        """The images of the last update's first pass, read here once more."""
        _, passes = next(trainer.passes([self._last.batch]))
        read = [batch for one in passes for batch in one if len(batch.targets)]
        return read[0] if read else None

    @property
    def position(self) -> dict[str, Any]:
        """What a line of metrics says of where the run is."""
        return {"time": self._last.time} if self._last.written else {}

    def take_window(self) -> dict[str, Any]:
        """What a line says of the updates since the last: their mean staleness."""
        total, updates = self._window
        self._window = [0, 0]
        return {"staleness": total / max(1, updates)}

    def checkpoint(self) -> Checkpoint:
        """What is the front's own: who has a lease now must pull anew after a restart."""
        account = vars(self._ledger.account()) if self._ledger else None
        lines = {"lines": self.log.num_lines, "sha256": self.log.digest}
        state = {"ledger": account, "seconds": self._seconds, "window": self._window, "last": [*self._last]}
        return Checkpoint({"pushes": {**state, **lines}}, {})

    def restore(self, trainer: Trainer, checkpoint: Checkpoint) -> None:
        """Go on from what `checkpoint` took, with other shards and workers; what came after it is forgotten, in the
        log too. Raises KeyError and the like if it is not of this run."""
        known: Mapping[str, Any] = checkpoint.state["pushes"]
        self._forget()
        self.log.restore(known["lines"], known["sha256"])
        self._ledger = ledger_of(self.service, trainer.total_steps)
        if known["ledger"]:
            self._ledger.restore(account_of(known["ledger"]))
        self._window, self._last = list(known["window"]), Push(*known["last"])
        self._before, self._began = float(known["seconds"]), time.monotonic()

    def close(self) -> None:
        """End the workers and the shards, whose weights are lost but for what the trainer has."""
        if self._crew:
            self._crew.close()
        self._forget()

    def _forget(self) -> None:
        self._open, self._all_ready, self._settled = False, False, True
        self._held, self._idle, self._lost = {}, [], 0
        self._arrived, self._collected, self._gave = [], {}, set()

    @property
    def _seconds(self) -> float:
        """Since the run began, in all its processes."""
        return round(self._before + time.monotonic() - self._began, 6)

    def _begun(self, trainer: Trainer) -> Ledger:
        self._ledger = self._ledger or ledger_of(self.service, trainer.total_steps)
        if not self._open:
            tensors = trainer.checkpoint({}).tensors
            self.crew.open(
                holdings(trainer.module, self.service.servers), trainer.recipe, tensors, trainer.step
            )
            self._open = True
        return self._ledger

    def _push(self, trainer: Trainer, ledger: Ledger, worker: int, lease: Lease, brought: Brought) -> bool:
        """Whether a worker's gradient makes an update whole; it may be dropped, and its batch another's."""
        written = ledger.push(worker, lease)
        push = Push(worker, lease.batch, lease.pulled, written, self._seconds)
        whole = ledger.version > trainer.step
        if written:
            rate = 1 / max(1, push.staleness) if self.service.divide else 1.0
            self.crew.apply(brought.gradient, trainer.next_lr(rate) if whole else None, written)
            self._collected[lease.batch] = (brought.window, brought.weight)  # shards have its gradient
            self._gave.add(worker)
            self._lost = 0
        self._arrived.append(push)
        if whole:
            self._count(trainer, push)
        return whole

    def _count(self, trainer: Trainer, push: Push) -> None:
        """Let the trainer have what an update came to, whose last push this is; batches count in their order."""
        batches = sorted(self._collected)
        windows, weights = zip(*(self._collected[batch] for batch in batches), strict=True)
        for window in totals_of(windows, shares_of(weights)):
            trainer.count(window)
        trainer.step += 1
        self._settled = False
        self._window = [self._window[0] + push.staleness, self._window[1] + 1]
        self._last = push._replace(batch=batches[0])
        self.log.add(self._arrived)
        self._arrived, self._collected, self._gave = [], {}, set()

    def _replaced(self, ledger: Ledger, worker: int, reason: str) -> None:
        """A worker is gone: its batch is leased again, to it or to another, once there is one that is ready."""
        self._tell(f"worker {worker} is lost ({reason}): another takes its place")
        ledger.give_back(worker)
        self._lost += 1
        if self._lost > MOST_LOST:
            raise DepthwiseError(
                f"{self._lost} workers were lost with no push between, the last because {reason}: look at the logs of "
                f"the cluster, then go on with --resume"
            )
        self._lease(ledger)

    def _lease(self, ledger: Ledger) -> None:
        """Let those work that wait, who has waited longest first, as far as there are batches that nobody has.

        An update is one of so many batches as there are workers, whoever dies: so where all are waited for, which ones
        they are depends on nothing.
        """
        left = []
        for worker in self._idle:
            most = self.needed if worker in self._gave else self.service.num_workers
            if ledger.under_way < most and (lease := ledger.lease(worker)):
                self._held[worker] = lease
                self.crew.send(worker, lease.batch, lease.pulled)
            else:
                left.append(worker)
        self._idle = left
