"""What a cluster does: batch prediction, each image answered once whatever dies, and experiments as they are here."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cluster.faulty import killing, raising
from tests.cluster.raylets import CPUS, QUIET, Raylets
from tests.processes import Forked, start

from depthwise.batch.pictures import find_pictures
from depthwise.batch.pieces import cut
from depthwise.bundle import digest
from depthwise.cli.app import run as cli
from depthwise.cluster.connection import connected
from depthwise.cluster.experiments import _check_shared
from depthwise.cluster.tasks import events, stand_in
from depthwise.comparison.conduct import Order, Printed, conduct
from depthwise.comparison.jobs import Answers, Assignment, Share
from depthwise.comparison.plan import place_of
from depthwise.data import open_dataset
from depthwise.data.pack import pack
from depthwise.errors import DepthwiseError
from depthwise.experiments.own import built, parsed, to_json
from depthwise.job import Job
from depthwise.train.recipe import Recipe

PER_SHARD = 25
SHARDS = 24
ARM = "samples=1280 batch_size=64 eval_every=640 log_every=1 width=0.5 middle=() entry=(64,) exit=(96,128)"
ARMS = (f"a={ARM}", f"b={ARM}")  # which are one run


def enter(address: str) -> None:
    with connected(address):
        pass


def test_connected_and_left(raylets: Raylets) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with connected(raylets.address) as cluster:
        assert cluster.cpus == 2 * CPUS
        assert cluster.gpus == 0
        # As in a program that has connected itself.
        enter("auto")
        enter(raylets.address)
        with pytest.raises(DepthwiseError, match=f"is connected to the cluster at {raylets.address} already"):
            enter("127.0.0.9:1")
        assert cluster.ray.is_initialized()
    assert not cluster.ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_cluster_that_asks_for_its_token_is_told_of(raylets: Raylets, tmp_path: Path) -> None:
    words = ("--data", "digits", "--out", str(tmp_path / "run"), "--ray", raylets.address)
    driver = start("train", *words, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="", HOME=str(tmp_path))
    assert driver.code() == 1
    assert driver.printed[1].endswith(  # after lines of Ray's own
        f"error: --ray {raylets.address}: the cluster asks for its token: set RAY_AUTH_MODE=token here, and "
        "RAY_AUTH_TOKEN to it unless it is in ~/.ray/auth_token\n"
    )
    assert not (tmp_path / "run").exists()


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


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of small pictures in shards, one of the pictures damaged."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for k in range(SHARDS * PER_SHARD):
        path = folder / "set" / f"{k % 2}" / f"{k:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    pack(open_dataset(folder / "set", whole=True), folder / "shards", shard_bytes=130_000)
    shard = folder / "shards" / "all-00007.arrow"
    data = bytearray(shard.read_bytes())
    data[data.index(b"IDAT") + 100] ^= 1
    shard.write_bytes(data)
    return folder / "shards"


def wait_for(process: Forked, found: Callable[[], list[int]]) -> int:
    """The first of the processes that `found` gives at last, while `process` runs."""
    process.wait_for(found, seconds=400)
    there = found()
    assert there, process.printed
    return there[0]


def test_each_image_is_answered_once_though_a_worker_and_a_node_are_killed(
    tiny_bundle: Path, shards: Path, tmp_path: Path, raylets: Raylets
) -> None:
    asked = ("predict", str(tiny_bundle), str(shards), "--topk", "2", "--out")
    assert cli([*asked, str(tmp_path / "here")]) == 1  # an image is damaged
    raylets.start()
    raylets.wait()
    out, last = tmp_path / "there", len(raylets.nodes) - 1
    process = start(*asked, str(out), "--ray", raylets.address, "--jobs", "2", cwd=tmp_path, **QUIET)
    every = [node for node in range(len(raylets.nodes)) if raylets.nodes[node].poll() is None]
    working = [lambda node=node: raylets.workers(node, "ray::_answer") for node in every]
    os.kill(wait_for(process, lambda: [pid for pids in working for pid in pids()]), signal.SIGKILL)
    os.kill(wait_for(process, working[-1]), signal.SIGSTOP)  # so it is in the middle of a piece
    process.wait_for(lambda: len(list(out.glob("*.jsonl"))) > 2, seconds=400)
    raylets.kill(last)
    done = process.wait()
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("is answered again: its worker or its node died") >= 2
    assert f"1 of {SHARDS * PER_SHARD} images could not be read" in done.stderr
    here, there = ({f.name: f.read_bytes() for f in (tmp_path / o).iterdir()} for o in ("here", "there"))
    assert there == here
    assert len(here) == len(cut(find_pictures([str(shards)], note=print))) + 1


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
