"""Batch prediction of 5,000 images on a Ray cluster of two nodes, of which a worker and then a whole node are killed.

    OMP_NUM_THREADS=1 python benchmarks/cluster_answers.py --lab FOLDER

The images are the first 5,000 of Fashion-MNIST's test part in shards, the network a small one after a short training,
the nodes two raylets on this machine, which is therefore no measure of speed. Writes
benchmarks/results/cluster-answers.json: pieces that were answered again, images that were answered any other number of
times than once, and whether the files are those of a prediction without a cluster, byte for byte.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.cluster.raylets import QUIET, Raylets, cluster

import depthwise
from depthwise.data.dataset import ArraySplit
from depthwise.data.pack import pack
from depthwise.data.sources.open import open_dataset

RESULTS = Path(__file__).parent / "results/cluster-answers.json"
IMAGES, AT_ONCE = 5000, 2


def prepare(lab: Path) -> list[str]:
    """The words of the prediction, without where its answers go."""
    if not (lab / "shards" / "manifest.json").exists():
        dataset = open_dataset("fashion-mnist")
        test = dataset.splits["test"]
        assert isinstance(test, ArraySplit)
        some = ArraySplit(test.images[:IMAGES], test.labels[:IMAGES], test.prefix)
        pack(replace(dataset, splits={"test": some}), lab / "shards", shard_bytes=64 * 1024)
    if not (lab / "run" / "report.html").exists():
        depthwise.train("fashion-mnist", out=lab / "run", samples=25_600, force=True)
    return [sys.executable, "-m", "depthwise", "predict", str(lab / "run"), str(lab / "shards"), "--out"]


def files(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.glob("*.jsonl")}


def kill_both(process: "subprocess.Popen[str]", out: Path, num_files: int, raylets: Raylets) -> None:
    """A worker in the middle of a piece when a fifth of the files is there, and the second node at a half."""
    for share, node in ((0.2, 0), (0.5, 1)):
        while len(files(out)) < share * num_files and process.poll() is None:
            time.sleep(0.005)
        while not (workers := raylets.workers(node, "ray::_answer")) and process.poll() is None:
            time.sleep(0.005)
        if node:
            raylets.kill(node)
        else:
            os.kill(workers[0], signal.SIGKILL)


def measured(lab: Path) -> dict[str, Any]:
    asked, seconds = prepare(lab), {}
    begun = time.monotonic()
    subprocess.run([*asked, str(lab / "here"), "--force"], check=True, env={**os.environ, **QUIET})
    seconds["here"] = round(time.monotonic() - begun, 1)
    here = files(lab / "here")
    with cluster() as raylets:
        words = [*asked, str(lab / "there"), "--force", "--ray", raylets.address, "--jobs", str(AT_ONCE)]
        begun = time.monotonic()
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, **QUIET})
        while not (lab / "there" / "question.json").exists():
            time.sleep(0.005)
        kill_both(process, lab / "there", len(here), raylets)
        said = process.communicate()[1]
        seconds["on the cluster, with the kills"] = round(time.monotonic() - begun, 1)
    there = files(lab / "there")
    times = Counter(
        json.loads(line)["image"] for content in there.values() for line in content.decode().splitlines()
    )
    return {
        "images": len(times),
        "exit code": process.returncode,
        "files": len(there),
        "pieces answered again": re.findall(r"(.*) is answered again", said),
        "images not answered exactly once": IMAGES - sum(number == 1 for number in times.values()),
        "files equal to those without a cluster": there == here,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", type=Path, required=True, help="where images, network and answers are made")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    found = measured(given.lab.resolve())
    print(json.dumps(found, indent=2))
    given.results.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
