"""A run whose processes Ray Train starts, and starts again, fewer or more, where one is lost.

What a run goes on from is its own checkpoint in its own directory, which the process that leads must see wherever it
is: so nothing is reported to Ray but the end.
"""

import os
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from depthwise.cluster.connection import Cluster, connected
from depthwise.cluster.mailbox import SECONDS, Mailbox, Sent
from depthwise.errors import DepthwiseError, UsageError
from depthwise.train.options import Options
from depthwise.train.session import Watcher
from depthwise.train.signals import StopRequest
from depthwise.train.world import LostProcessError, World, join
from depthwise.words import in_a_shell, number_of, spoken

RESTARTS = 10
"""Times that a run is begun again after a loss."""

LAST_WORDS = 10.0
"""Seconds in which a process that finds itself alone waits to hear that the run has ended."""


@dataclass(frozen=True)
class Part:
    """What each process does, pickled: `lead`(world, watcher) in the one that leads, which tells what came of it in
    plain values, and `follow`(world) in the others."""

    lead: Callable[[World, Watcher], dict[str, Any]]
    follow: Callable[[World], Any]
    options: Options


def train_on_ray(address: str, part: Part, watcher: Watcher) -> dict[str, Any]:
    """Let `part.options.processes` of them train on the cluster at `address`; what the one that leads tells.

    Each has as many threads as OMP_NUM_THREADS says, or 1, and as many of the cluster's CPUs. With `fewest` they may be
    fewer, where nodes are missing or go. Raises DepthwiseError with the sentence of the process that had it, and
    KeyboardInterrupt, after a checkpoint, for Ctrl-C.
    """
    with connected(address) as cluster:
        threads = int(os.environ.get("OMP_NUM_THREADS") or 1)
        gpu = _on_gpu(part.options.device, cluster)
        _check_room(cluster, part.options, threads, gpu)
        mailbox = _beside_this(cluster)
        failed: list[BaseException] = []

        def fit() -> None:
            try:
                _fit(part, mailbox, threads, gpu)
            except BaseException as error:  # told from the thread that waits
                failed.append(error)

        # Not here: in its main thread Ray answers Ctrl-C itself, and lets no process save anything.
        thread = threading.Thread(target=fit, daemon=True)
        thread.start()
        _watch(cluster, mailbox, thread, watcher)
        kind, value = cluster.ray.get(mailbox.ended.remote()) or ("", None)
    if kind == "result":
        return dict(value or {})
    if kind == "stopped":
        raise KeyboardInterrupt(spoken(str(value)))
    if kind:
        raise (UsageError if kind == "usage" else DepthwiseError)(value)
    raise LostProcessError(_what_failed(failed))


def _watch(cluster: Cluster, mailbox: Any, thread: threading.Thread, watcher: Watcher) -> None:
    """Pass on what is said, and a stop, until the run has ended."""
    told = False
    with StopRequest() as stop:
        while thread.is_alive():
            thread.join(SECONDS)
            for name, values in cluster.ray.get(mailbox.take.remote()):
                getattr(watcher, name)(*values)
            if stop.requested and not told:
                told = True
                cluster.ray.get(mailbox.stop.remote())
    for name, values in cluster.ray.get(mailbox.take.remote()):
        getattr(watcher, name)(*values)


def _fit(part: Part, mailbox: Any, threads: int, gpu: bool) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    options = part.options
    resources = {"CPU": float(threads), **({"GPU": 1.0} if gpu else {})}
    workers: Any = (options.fewest, options.processes) if options.fewest else options.processes
    name = f"depthwise-{uuid.uuid4().hex[:12]}"
    with tempfile.TemporaryDirectory() as folder:  # Ray's own notes on the run
        TorchTrainer(
            _work,
            train_loop_config={"part": part, "mailbox": mailbox, "launch": name},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=resources),
            torch_config=TorchConfig(
                backend="cpu:gloo,cuda:nccl" if gpu else "gloo", timeout_s=max(1, round(options.patience))
            ),
            run_config=RunConfig(
                name=name, storage_path=folder, failure_config=FailureConfig(max_failures=RESTARTS)
            ),
        ).fit()


def _work(given: dict[str, Any]) -> None:
    """One process of the run, in which Ray has made a process group."""
    import ray

    part, mailbox = given["part"], given["mailbox"]
    os.environ["TORCHELASTIC_RUN_ID"] = given["launch"]  # by which a run that is begun again knows itself
    world = join(part.options.patience)
    ended = threading.Event()

    def tell(kind: str, value: Any) -> None:
        ray.get(mailbox.end.remote(kind, value))

    def listen() -> None:
        while not ended.wait(SECONDS):
            world.stop_asked = world.stop_asked or ray.get(mailbox.stopping.remote())

    try:
        if world.rank:
            part.follow(world)
            return
        threading.Thread(target=listen, daemon=True).start()
        with in_a_shell():  # sentences are put into Python's words, if at all, where they are read
            told = part.lead(world, Sent(mailbox))
        tell("result", told)
    except LostProcessError as error:
        # Without a word of the end it is one that Ray shall begin again after.
        if not _ended_soon(ray, mailbox, ended):
            raise RuntimeError(str(error)) from None
    except DepthwiseError as error:
        where = f"process {world.rank}: " if world.rank else ""
        tell("usage" if isinstance(error, UsageError) else "error", f"{where}{error.args[0]}")
    except KeyboardInterrupt as error:
        if not world.rank:
            tell("stopped", str(error))
    finally:
        ended.set()
        world.close()


def _ended_soon(ray: Any, mailbox: Any, ended: threading.Event) -> bool:
    for _ in range(int(LAST_WORDS / SECONDS)):
        if ray.get(mailbox.ended.remote()):
            return True
        ended.wait(SECONDS)
    return False


def _beside_this(cluster: Cluster) -> Any:
    """A Mailbox on this machine, which the loss of another does not touch."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(cluster.ray.get_runtime_context().get_node_id(), soft=False)
    return cluster.ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()


def _on_gpu(device: str, cluster: Cluster) -> bool:
    """Whether each process has a GPU of the cluster."""
    return device.startswith("cuda") or (device == "auto" and cluster.gpus > 0)


def _check_room(cluster: Cluster, options: Options, threads: int, gpu: bool) -> None:
    """Refuse what Ray would wait for without end."""
    fewest = options.fewest or options.processes
    for kind, wanted, there in (
        ("CPU", fewest * threads, cluster.cpus),
        ("GPU", fewest * gpu, cluster.gpus),
    ):
        if wanted > there:
            raise DepthwiseError(
                f"{number_of(fewest, 'process', 'processes')} of {number_of(threads, 'thread')} need "
                f"{number_of(wanted, kind)}, and the cluster has {there}: ask for fewer, or add nodes by ray start"
            )


def _what_failed(failed: list[BaseException]) -> str:
    reason = " ".join(str(failed[0]).split())[-300:] if failed else "Ray says nothing of why"
    return f"the run was lost {RESTARTS} times, or Ray gave it up ({reason}); --resume goes on from its last checkpoint"
