"""Training on several processes: what it costs, and twenty kills against the run that was never broken.

    python benchmarks/processes.py speed [--rounds 8] [--width W]
    python benchmarks/processes.py kills [--kills 20]

speed: the recipe `small` on Fashion-MNIST, one process with two threads beside two with one thread each, in turns, by
updates after a few that are not counted; the two once with the fixed tree and once with the framework's all-reduce.
--width: of a network that is so many times as wide. Of the time that gradients travel, the part that the backward
pass does not hide is what the process waits for.

kills: a run on digits with four virtual shards goes on with 1, 2, 3 or 4 processes after each of these: -9, SIGTERM or
Ctrl-C to a drawn process or to all, and stop and continue. Then its weights, averaged weights and metrics are compared
with those of one process that was never stopped. The seconds from a signal to the end of all processes are stated.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from depthwise.data import open_dataset
from depthwise.data.dataset import Dataset
from depthwise.recipes import Traits, find_recipe
from depthwise.ship.starting import network_for
from depthwise.timing import ratio
from depthwise.train.launch import started
from depthwise.train.loop import Trainer
from depthwise.train.run import choose_precision
from depthwise.train.together import follow
from depthwise.train.world import ALONE, World

RESULTS = Path(__file__).parent / "results"
UNCOUNTED, COUNTED = 5, 40
CPU = torch.device("cpu")
SETTINGS = ("epochs=12", "width=0.1", "eval_every=1.3", "virtual_shards=4", "batch_size=32", "log_every=5")


def trainer(data: Dataset, world: World, num_shards: int, reduction: str, width: float) -> Trainer:
    """One of the recipe `small`."""
    recipe = find_recipe("small")(Traits.of(data))
    recipe = replace(
        recipe,
        model_args={**recipe.model_args, "width": recipe.model_args["width"] * width},
        precision=choose_precision("auto", CPU),
        virtual_shards=num_shards,
        reduction=reduction,
    )
    return Trainer(recipe, network_for(recipe, data, None, lambda _: None), data, device=CPU, world=world)


def follow_with(reduction: str, width: float, world: World) -> None:
    """What the second process does."""
    data = open_dataset("fashion-mnist")
    follow(trainer(data, world, world.size, reduction, width), data, workers=0)


def timed(work: Trainer) -> dict[str, float]:
    """Images a second, and of the time: what buckets travelled, and what was waited for them."""
    for _ in range(UNCOUNTED):
        work.update()
    sums = work._sums
    travelled, waited = (sums.seconds, sums.waited) if sums else (0.0, 0.0)
    began = time.monotonic()
    for _ in range(COUNTED):
        work.update()
    took = time.monotonic() - began
    if sums:
        travelled, waited = sums.seconds - travelled, sums.waited - waited
    work.close()
    return {
        "images_per_second": COUNTED * work.samples_per_step / took,
        "travelling": travelled / took,
        "waiting": waited / took,
    }


def speed(rounds: int, width: float) -> dict[str, Any]:
    """Ratios of the same round."""
    data = open_dataset("fashion-mnist")
    found: dict[str, list[dict[str, float]]] = {"one": [], "tree": [], "all-reduce": []}
    for _ in range(rounds):
        torch.set_num_threads(2)
        found["one"].append(timed(trainer(data, ALONE, 1, "tree", width)))
        for reduction in ("tree", "all-reduce"):
            with started(2, partial(follow_with, reduction, width), patience=120) as world:
                found[reduction].append(timed(trainer(data, world, 2, reduction, width)))
                world.lead("end")
    rates = {name: [each["images_per_second"] for each in runs] for name, runs in found.items()}
    return {
        "rounds": rounds,
        "width": width,
        "images_per_second": {name: round(statistics.median(each), 1) for name, each in rates.items()},
        "two_processes_over_one": {
            name: ratio(rates[name], rates["one"]).to_json() for name in ("tree", "all-reduce")
        },
        "share_of_time": {
            name: {
                part: round(statistics.median(each[part] for each in found[name]), 4)
                for part in ("travelling", "waiting")
            }
            for name in ("tree", "all-reduce")
        },
    }


def processes_of(session: int) -> list[int]:
    """Those that train, the leader first."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            # User time in hundredths of a second: the server that starts processes, and their trackers, have none.
            if int(fields[3]) == session and (int(entry.name) == session or int(fields[11]) > 20):
                found.append(int(entry.name))
    return sorted(found, key=lambda pid: pid != session)


def words(out: Path, size: int) -> list[str]:
    """The command that goes on, or begins."""
    own = ["train", "--out", str(out), "--processes", str(size), "--workers", "0", "--checkpoint-steps", "4"]
    new = ["--data", "digits", "--model", "xception", "--set", *SETTINGS]
    return [sys.executable, "-m", "depthwise", *own, *(["--resume"] if out.exists() else new)]


def left(out: Path) -> list[Any]:
    """What is compared."""
    files = [out / "bundle" / name for name in ("model.safetensors", "model.raw.safetensors")]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    clock = {"seconds", "images_per_second"}
    kept = [{key: value for key, value in line.items() if key not in clock} for line in lines]
    return [*(hashlib.sha256(file.read_bytes()).hexdigest() for file in files), kept]


def kills(number: int) -> dict[str, Any]:
    """Broken off so often, and compared."""
    drawn = random.Random(0)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "env": environment, "text": True}
    hits: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        whole, out = Path(folder) / "whole", Path(folder) / "run"
        subprocess.run(words(whole, 1), check=True, **quiet)
        while sum(map(len, hits.values())) < number:
            process = subprocess.Popen(words(out, drawn.randint(1, 4)), start_new_session=True, **quiet)
            before = (out / "metrics.jsonl").stat().st_size if out.exists() else 0
            while process.poll() is None and not (
                (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size > before + 200
            ):
                time.sleep(0.01)
            time.sleep(drawn.uniform(0, 0.3))
            if process.poll() is not None:
                print("it ended before it was hit:", process.communicate()[1][-300:], file=sys.stderr)
                break
            kind = drawn.choice(
                ["-9 to one", "-9 to the leader", "SIGTERM to one", "SIGTERM to all", "pause"]
            )
            own = processes_of(process.pid)
            one = drawn.choice(own[1:] or own)
            began = time.monotonic()
            if kind == "pause":
                os.kill(one, signal.SIGSTOP)
                time.sleep(1)
                os.kill(one, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGINT)
            elif kind == "SIGTERM to all":
                os.killpg(process.pid, signal.SIGTERM)
            elif kind == "SIGTERM to one":
                os.kill(one, signal.SIGTERM)
            else:
                os.kill(one if kind == "-9 to one" else process.pid, signal.SIGKILL)
            _, printed = process.communicate(timeout=300)
            while any(pid in processes_of(process.pid) for pid in own):
                time.sleep(0.01)
            hits.setdefault(kind, []).append(round(time.monotonic() - began, 2))
            print(
                len(own), kind, hits[kind][-1], "s:", printed.strip().splitlines()[-1][:160], file=sys.stderr
            )
        subprocess.run(words(out, 4), check=True, **quiet)
        equal = left(out) == left(whole)
    return {"hits": sum(map(len, hits.values())), "seconds_to_the_end": hits, "equal": equal}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["speed", "kills"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--width", type=float, default=1.0)
    options = parser.parse_args()
    found = speed(options.rounds, options.width) if options.what == "speed" else kills(options.kills)
    RESULTS.mkdir(exist_ok=True)
    name = options.what if options.width == 1 else f"{options.what}-{options.width:g}-times-as-wide"
    (RESULTS / f"processes-{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
