"""A run on a Ray cluster of two nodes has the bits of one on this machine, whatever is killed."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import processes
from tests.cluster.raylets import QUIET, Raylets, cluster
from tests.train.shared_runs import begin, left

SETTINGS = [
    *("stem=small", "width=0.05", "entry=(128,)", "middle=(128,)", "exit=(128,256)", "dropout=0.2", "size=8"),
    *("crop_fraction=1.0", "virtual_shards=4", "batch_size=64", "epochs=4", "averaging=0.9", "log_every=2"),
    *("eval_every=2", "precision=float32"),
]


def words(out: Path, *more: str) -> list[str]:
    return begin(Path("digits"), out, SETTINGS, "--checkpoint-steps", "5", *more)


def start(words: list[str]) -> processes.Forked:
    """The command on the machine of the head."""
    return processes.start(*words, **QUIET)


def finish(run: processes.Forked, code: int = 0) -> str:
    done = run.wait(timeout=240)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def wait_for_lines(out: Path, number: int, run: processes.Forked) -> None:
    metrics = out / "metrics.jsonl"

    def there() -> bool:
        return metrics.exists() and metrics.read_bytes().count(b"\n") >= number

    run.wait_for(there, seconds=400, every=0.02)
    assert there(), run.printed
    assert not run.ended, run.printed


def wait_for_none(raylets: Raylets) -> None:
    """Until no process of a run is left on any node, which Ray ends when the driver is gone."""
    end = time.monotonic() + 60
    while any(raylets.workers(node, "RayTrain") for node in range(len(raylets.nodes))):
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def raylets() -> Iterator[Raylets]:
    """Nodes so small that three processes need both: each process takes seconds to start."""
    with cluster(cpus=2) as running:
        yield running


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on this machine, alone."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    finish(start(words(out)))
    return out


def test_a_worker_and_a_node_are_killed(raylets: Raylets, unbroken: Path, tmp_path: Path) -> None:
    """What is left goes on, on fewer processes where MIN:MAX allows it, to the same bits."""
    out = tmp_path / "run"
    # More than one node has room for, so that both have some.
    run = start(words(out, "--ray", raylets.address, "--processes", "2:3", "--patience", "20"))
    wait_for_lines(out, 4, run)
    os.kill(raylets.workers(0, "RayTrainWorker")[0], signal.SIGKILL)
    lines = (out / "metrics.jsonl").read_bytes().count(b"\n")
    wait_for_lines(out, lines + 6, run)
    raylets.kill(len(raylets.nodes) - 1)
    finish(run)
    raylets.start()
    assert left(out) == left(unbroken)


def test_a_stop_leaves_a_checkpoint(raylets: Raylets, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = start(words(out, "--ray", raylets.address, "--processes", "2"))
    wait_for_lines(out, 4, run)
    os.kill(run.pid, signal.SIGINT)
    assert "--resume" in finish(run, 130)
    wait_for_none(raylets)
    finish(start(["train", "--out", str(out), "--resume", "--workers", "0"]))
    assert left(out) == left(unbroken)


def test_what_cannot_be_is_one_sentence(raylets: Raylets, unbroken: Path) -> None:
    """Of the process that finds it out, on another machine or here."""
    printed = finish(start(words(unbroken, "--ray", raylets.address, "--processes", "2")), 1)
    assert printed.startswith("error: ")
    assert "--force" in printed
    assert printed.count("\n") == 1
    many = [each.replace("virtual_shards=4", "virtual_shards=64") for each in SETTINGS]
    printed = finish(
        start(begin(Path("digits"), unbroken, many, "--ray", raylets.address, "--processes", "64")), 1
    )
    assert "64 processes of 1 thread need 64 CPUs, and the cluster has" in printed
    printed = finish(start(words(unbroken, "--processes", "1:2")), 2)
    assert "--processes MIN:MAX are those of a cluster: add --ray, or give one number" in printed
