"""Batch prediction by a cluster: what a dead worker or node leaves open is answered by others, each image once."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cluster.raylets import QUIET, Raylets
from tests.processes import Forked, start

from depthwise.batch.pictures import find_pictures
from depthwise.batch.pieces import cut
from depthwise.cli.app import run
from depthwise.data import open_dataset
from depthwise.data.pack import pack

PER_SHARD = 25
SHARDS = 24


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
    assert run([*asked, str(tmp_path / "here")]) == 1  # an image is damaged
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
