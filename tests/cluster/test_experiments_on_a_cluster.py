"""An experiment whose runs a cluster does: stopped, gone on with, a worker killed, equal to the local runner's."""

import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from tests.cluster.faulty import killing, raising
from tests.cluster.raylets import QUIET, Raylets
from tests.processes import Forked, start

from depthwise.bundle import digest
from depthwise.cluster.connection import connected
from depthwise.cluster.experiments import _check_shared
from depthwise.cluster.tasks import events, stand_in
from depthwise.comparison.conduct import Order, Printed, conduct
from depthwise.comparison.jobs import Answers, Assignment, Share
from depthwise.comparison.plan import place_of
from depthwise.errors import DepthwiseError
from depthwise.experiments.own import built, parsed, to_json
from depthwise.job import Job
from depthwise.train.recipe import Recipe

ARM = "samples=1280 batch_size=64 eval_every=640 log_every=1 width=0.5 middle=() entry=(64,) exit=(96,128)"
ARMS = (f"a={ARM}", f"b={ARM}")  # which are one run


def in_this_process(runs: Sequence[Assignment], share: Share) -> Answers:
    for run in runs:
        Job(run.out, run.data, recipe=Recipe.from_json(run.recipe)).do()
        yield run, {"ended": True}


def found(out: Path) -> tuple[dict, dict[str, str]]:
    """Results without what has a clock in it, and the SHA-256 of each run's weights."""
    results = json.loads((out / "results.json").read_text())
    for arm in results["arms"]:
        del arm["seconds"]
    weights = out.glob("runs/*/bundle/model.safetensors")
    return results, {file.parts[-3]: digest(file) for file in weights}


def begun(asked: Sequence[str], out: Path, more: int, raylets: Raylets) -> tuple[Forked, int, int]:
    """The command, its task and the process that trains, which is held, some updates on."""
    nodes = range(len(raylets.nodes))

    def pids(word: str) -> list[int]:
        return [pid for node in nodes for pid in raylets.workers(node, word)]

    def lines() -> int:
        return sum(file.read_bytes().count(b"\n") for file in out.glob("runs/*/metrics.jsonl"))

    before = lines()
    process = start(*asked, cwd=out.parent, **QUIET)
    process.wait_for(lambda: pids("comparison.worker"), seconds=400)
    (training,) = pids("comparison.worker")
    process.wait_for(lambda: lines() >= before + more, seconds=400)
    os.kill(training, signal.SIGSTOP)  # so that it does not end before it is stopped
    (task,) = pids("ray::_do")
    return process, task, training


def pipes(pid: int) -> set[str]:
    """What a process has open, pipes by their numbers."""
    found = set()
    with suppress(FileNotFoundError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.add(os.readlink(fd))
    return found


@pytest.mark.usefixtures("one_thread")
def test_stopped_and_with_a_worker_killed_it_ends_as_the_local_runner(
    tmp_path: Path, raylets: Raylets
) -> None:
    out = tmp_path / "there"
    asked = ["experiment", "run", "compare", *(f"--arm={arm}" for arm in ARMS), "--data=digits", "--seeds=1"]
    asked += ["--jobs=2", "--ray", raylets.address, "--out", str(out)]
    process, task, training = begun(asked, out, 3, raylets)
    asking = os.readlink(f"/proc/{training}/fd/0")
    os.kill(process.pid, signal.SIGINT)
    process.wait_for(lambda: asking not in pipes(task), seconds=400)  # the task has heard of it
    os.kill(training, signal.SIGCONT)
    done = process.wait()
    assert done.returncode == 130, done.stderr
    (checkpoint,) = out.glob("runs/*/checkpoints/last.safetensors")
    assert not (checkpoint.parents[1] / "report.html").exists()

    process, task, training = begun(asked, out, 2, raylets)
    os.kill(task, signal.SIGKILL)
    os.kill(training, signal.SIGCONT)
    done = process.wait()
    assert done.returncode == 0, done.stderr
    assert "goes on from its checkpoint: its worker or its node died" in done.stderr

    order = Order("compare", built(arms := to_json(parsed(ARMS), "")), "mini", "digits", 1, arms=arms)
    conduct(order, place_of(tmp_path / "here"), Share(), Printed(), carry=in_this_process)
    assert found(out) == found(tmp_path / "here")


def test_a_job_that_kills_its_workers_is_given_up_and_named(raylets: Raylets) -> None:
    with connected(raylets.address) as cluster:
        said: list[str] = []
        with pytest.raises(DepthwiseError, match="job 7 was lost 4 times"):
            [*events(cluster, killing, [("job 7", 7)], lost=lambda job, why: said.append(why))]
        assert said == ["its worker or its node died"] * 3
        with pytest.raises(DepthwiseError, match="job 7: ValueError on the cluster: seven"):
            [*events(cluster, raising, [("job 7", 7)], lost=lambda job, why: said.append(why))]
        with pytest.raises(DepthwiseError, match="no node of the cluster has 1000 CPUs"):
            [*events(cluster, raising, [("job 7", 7)], cpus=1000, lost=lambda job, why: None)]


def test_a_place_that_a_node_does_not_see_is_named(tmp_path: Path) -> None:
    with pytest.raises(DepthwiseError, match=r"is not seen on .* give runs a folder that all nodes share"):
        _check_shared(tmp_path / "mark")
    with pytest.raises(DepthwiseError, match=r"is not seen on .*No such file"):
        stand_in(str(tmp_path / "missing"))
