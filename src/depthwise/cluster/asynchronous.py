"""The servers and workers of an asynchronous run as Ray's actors.

The process that trains, the front, tells them what to do and gets from workers three numbers a batch. Weights and
gradients go from one actor to another, from shared memory to shared memory, and never by way of the front. An actor
does what one process asks of it in the order of asking, which is all that shards need.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from depthwise.cluster.connection import Cluster, connected
from depthwise.errors import DepthwiseError
from depthwise.train.asynchronous.crew import Brought, Came, Hire, LostServerError
from depthwise.train.asynchronous.server import Holding, Piece, Shard, own_part
from depthwise.train.asynchronous.state import State
from depthwise.train.asynchronous.worker import Worker
from depthwise.train.checkpoint import restore_module
from depthwise.train.recipe import Recipe
from depthwise.train.world import LONGEST

Work = Callable[[Mapping[str, Any]], Worker]
"""Makes a worker, where it will be, of what the leader tells of the run."""


POLL_SECONDS = 1.0
"""Between looks at whether somebody has said nothing for too long."""


@contextmanager
def on_ray(address: str, work: Work, *, patience: float) -> Iterator[Hire]:
    """Inside the `with`, what makes the crew of a run on the Ray cluster at the address.

    patience: seconds after which who says nothing is given up.
    """
    # An error of what nobody waits for any more, as when a server is lost, is none.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    with connected(address) as cluster:

        def hire(told: Mapping[str, Any], workers: int) -> RayCrew:
            return RayCrew(cluster, work, told, workers, patience=patience)

        yield hire


@dataclass(frozen=True, eq=False)
class _Awaited:
    """What a worker was asked for at the moment `since`; pieces: where its gradient will be, none if it is only to be
    ready."""

    worker: int
    since: float
    pieces: tuple[Any, ...] = ()


class RayCrew:
    """A `Crew` of actors, spread over the nodes; workers have a GPU each where there are enough."""

    def __init__(
        self, cluster: Cluster, work: Work, told: Mapping[str, Any], num_workers: int, *, patience: float
    ) -> None:
        self._ray, self._work, self._told = cluster.ray, work, told
        self._num_workers, self._patience = num_workers, patience
        self._gpus = int(cluster.gpus >= num_workers)  # of each worker
        self._servers: list[Any] = []
        self._workers: dict[int, Any] = {}
        self._awaited: dict[Any, _Awaited] = {}
        self._applied: dict[Any, int] = {}
        self._frozen: Any = None

    def open(
        self, holdings: Sequence[Holding], recipe: Recipe, tensors: Mapping[str, Tensor], version: int
    ) -> None:
        """See `Crew`."""
        self._awaited, self._applied = {}, {}
        restored = []
        for number, holding in enumerate(holdings):
            if number == len(self._servers):
                self._servers.append(self._server(holding, recipe))
            elif not self._answers(number):
                self._ray.kill(self._servers[number])
                self._servers[number] = self._server(holding, recipe)
            own = own_part(tensors, holding.names)
            restored.append(self._servers[number].restore.remote(own, version))
        for number, ref in enumerate(restored):
            self._asked(number, ref, LONGEST)
        frozen = tuple(name for holding in holdings for name in holding.frozen)
        self._frozen = self._ray.put(own_part(tensors, frozen))
        for worker in range(self._num_workers):
            if worker in self._workers:  # when it has ended what it was sent by the servers before
                self._await(self._workers[worker].ready.remote(), worker)
            else:
                self._start(worker)

    def send(self, worker: int, batch: int, version: int) -> None:
        """See `Crew`."""
        parts = [server.read.remote(version) for server in self._servers]
        compute = self._workers[worker].compute.options(num_returns=1 + len(parts))
        window, *pieces = compute.remote(batch, *parts)
        self._await(window, worker, *pieces)

    def wait(self) -> Came:
        """See `Crew`."""
        while True:
            self._check_applied()
            done, _ = self._ray.wait([*self._awaited], timeout=POLL_SECONDS)
            if done:
                return self._came(done[0])
            for ref, awaited in [*self._awaited.items()]:
                limit = self._patience if awaited.pieces else max(LONGEST, self._patience)
                if time.monotonic() - awaited.since > limit:
                    del self._awaited[ref]
                    self._check_servers()
                    return self._gone(awaited.worker, f"it said nothing for {limit:g} s")

    def apply(self, gradient: Any, lr: float | None, version: int) -> None:
        """See `Crew`."""
        for number, (server, piece) in enumerate(zip(self._servers, gradient, strict=True)):
            self._applied[server.apply.remote(piece, lr, version)] = number

    def tensors(self, version: int) -> dict[str, Tensor]:
        """See `Crew`."""
        found: dict[str, Tensor] = {}
        for number, server in enumerate(self._servers):
            found |= _unpacked(self._asked(number, server.tensors.remote(version), LONGEST))
        return found

    def close(self) -> None:
        """See `Crew`."""
        for actor in (*self._servers, *self._workers.values()):
            self._ray.kill(actor)
        self._servers, self._workers, self._awaited, self._applied = [], {}, {}, {}

    def _actor(self, kind: type, **options: Any) -> Any:
        return self._ray.remote(kind).options(num_cpus=0, scheduling_strategy="SPREAD", **options)

    def _start(self, worker: int) -> None:
        actor = self._actor(_Worker, num_gpus=self._gpus).remote(torch.get_num_threads())
        self._workers[worker] = actor
        self._await(actor.open.remote(self._work, self._told, self._frozen), worker)

    def _await(self, ref: Any, worker: int, *pieces: Any) -> None:
        self._awaited[ref] = _Awaited(worker, time.monotonic(), pieces)

    def _server(self, holding: Holding, recipe: Recipe) -> Any:
        return self._actor(_Server).remote(holding, recipe.to_json(), torch.get_num_threads())

    def _came(self, ref: Any) -> Came:
        awaited = self._awaited.pop(ref)
        try:
            came = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, DepthwiseError):
                raise DepthwiseError(f"worker {awaited.worker}: {cause}") from None
            self._check_servers()
            of_cluster = cause is None or isinstance(cause, self._ray.exceptions.RayError)
            if not of_cluster:
                raise
            return self._gone(awaited.worker, "its process ended")
        if not awaited.pieces:
            return Came(awaited.worker)
        window, weight = came
        return Came(awaited.worker, Brought(torch.tensor(window), weight, awaited.pieces))

    def _gone(self, worker: int, reason: str) -> Came:
        """A worker is lost, and another takes its place."""
        self._ray.kill(self._workers[worker])
        self._start(worker)
        return Came(worker, lost=reason)

    def _check_applied(self) -> None:
        """Forget the steps that have been taken; raise if one was not."""
        if self._applied:
            done, _ = self._ray.wait([*self._applied], num_returns=len(self._applied), timeout=0)
            for ref in done:
                self._asked(self._applied.pop(ref), ref, self._patience)

    def _answers(self, number: int) -> bool:
        try:
            self._asked(number, self._servers[number].ready.remote(), self._patience)
        except LostServerError:
            return False
        return True

    def _check_servers(self) -> None:
        for number, server in enumerate(self._servers):
            self._asked(number, server.ready.remote(), self._patience)

    def _asked(self, number: int, ref: Any, seconds: float) -> Any:
        """What a server answers."""
        try:
            return self._ray.get(ref, timeout=seconds)
        except self._ray.exceptions.GetTimeoutError:
            reason = f"said nothing for {seconds:g} s"
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, self._ray.exceptions.RayError):  # what it was to take is lost
                reason = "was sent what is lost"
            else:
                raise
        except self._ray.exceptions.RayError:
            reason = "ended"
        raise LostServerError(f"server {number} of {len(self._servers)} {reason}") from None


class _Server:
    """A shard, as an actor."""

    def __init__(self, holding: Holding, recipe: Mapping[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self._shard = Shard(holding, Recipe.from_json(recipe))

    def ready(self) -> None: ...

    def restore(self, tensors: dict[str, Tensor], version: int) -> None:
        self._shard.restore(tensors, version)

    def apply(self, piece: "_Packed", lr: float | None, version: int) -> None:
        batch, weight, *states = piece
        self._shard.apply(Piece(batch, weight, *map(_unpacked, states)), lr, version)

    def read(self, version: int) -> Mapping[str, Any]:
        return _packed(self._shard.read(version))

    def tensors(self, version: int) -> Mapping[str, Any]:
        return _packed(self._shard.tensors(version))


class _Worker:
    """A worker, as an actor."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def open(self, work: Work, told: Mapping[str, Any], frozen: dict[str, Tensor]) -> None:
        self._worker = work(told)
        module = self._worker.trainer.module
        # What is not pulled; all else is.
        restore_module(
            "model", module, {**{f"model.{k}": v for k, v in module.state_dict().items()}, **frozen}
        )

    def ready(self) -> None: ...

    def compute(self, batch: int, *parts: Mapping[str, Any]) -> tuple[Any, ...]:
        """What the images came to, and a piece for each server."""
        brought = self._worker.compute(batch, [_unpacked(part) for part in parts])
        packed = [
            (p.batch, p.weight, _packed(p.gradients), _packed(p.pulled), _packed(p.buffers))
            for p in brought.gradient
        ]
        return (brought.window.tolist(), brought.weight), *packed


_Packed = tuple[int, float, Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]


def _packed(state: State) -> dict[str, Any]:
    """Tensors as arrays, which Ray puts into shared memory and takes from there without a copy."""
    return {name: tensor.cpu().numpy() for name, tensor in state.items()}


def _unpacked(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.tensor(array) for name, array in arrays.items()}
