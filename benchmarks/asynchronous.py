"""Real asynchronous workers beside their simulated twins: 1, 2 and 4, by the recipe of the experiment sync-async.

    OMP_NUM_THREADS=1 python benchmarks/asynchronous.py --ray HOST:PORT

Each real run is on the cluster at the address, with two servers, and its log is repeated in one process, to the same
SHA-256 of weights, for which both need as many threads. The twin is a simulation of as many workers of equal speed.
Runs that are finished in `--lab` are taken as they are. Writes benchmarks/results/asynchronous.json: top-1, mean
staleness, gradients by staleness and by worker, seconds. `--parts N` takes an N-th of the images.
"""

import argparse
import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from depthwise.comparison.setting import FASHION_MNIST, SCALES, Setting
from depthwise.data import open_dataset
from depthwise.experiments.sync_async import sync_async
from depthwise.job import Job
from depthwise.recipes import Traits
from depthwise.train.asynchronous.pushes import read_log
from depthwise.train.asynchronous.service import Service
from depthwise.train.asynchronous.simulation import Simulation
from depthwise.train.files import environment
from depthwise.train.options import Options
from depthwise.train.recipe import Recipe
from depthwise.train.run import Silent, choose_device

RESULTS = Path(__file__).parent / "results/asynchronous.json"
WORKERS, SERVERS = (1, 2, 4), 2


def done(job: Job) -> dict[str, Any]:
    """What the run comes to, which goes on if it was begun before."""
    out = Path(job.out)
    if (out / "run.json").exists():
        job = Job(out, job.data, ray=job.ray, options=job.options)
        run = job.do("resume", watcher=Silent())
    else:
        run = job.do(watcher=Silent())
    pushes = [push for push in read_log(out / "pushes.jsonl").pushes if push.written]
    return {
        "top1": run.evaluation.top1,
        "updates": len(pushes),
        "seconds": round(run.result.seconds, 1),
        "staleness": fmean(push.staleness for push in pushes),
        "by_staleness": dict(sorted(Counter(push.staleness for push in pushes).items())),
        "by_worker": dict(sorted(Counter(push.worker for push in pushes).items())),
        "sha256": hashlib.sha256((out / "bundle/model.safetensors").read_bytes()).hexdigest(),
    }


def measured(recipe: Recipe, workers: int, data: str, address: str, lab: Path) -> dict[str, Any]:
    """A real run, its repetition, and its twin."""
    options = Options(workers=0)
    given: dict[str, Any] = {"data": data, "options": options}
    name = f"{workers}-{recipe.seed}"
    service = Service(workers=workers, servers=SERVERS)
    real = done(Job(lab / f"real-{name}", recipe=recipe, asynchronous=service, ray=address, **given))
    again = done(Job(lab / f"again-{name}", replay=lab / f"real-{name}" / "pushes.jsonl", **given))
    twin = done(Job(lab / f"twin-{name}", recipe=recipe, simulate=Simulation(workers=workers), **given))
    return {
        "workers": workers,
        "seed": recipe.seed,
        "real": real,
        "twin": twin,
        "repeated": again["sha256"] == real["sha256"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ray", required=True)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--lab", type=Path, default=Path("runs/asynchronous"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    dataset = open_dataset(given.data)
    traits = FASHION_MNIST if given.data == "fashion-mnist" else Traits.of(dataset)
    recipe = sync_async(Setting(SCALES["mini"], traits, dataset.channels)).arms[0].recipe
    samples = recipe.samples // given.parts
    warmup = replace(recipe.schedule, warmup=recipe.schedule.warmup / given.parts)
    recipe = replace(recipe, samples=samples, eval_every=samples, schedule=warmup)
    rows = []
    for seed in range(given.seeds):
        for workers in WORKERS:
            one = replace(recipe, seed=seed)
            rows.append(measured(one, workers, given.data, given.ray, given.lab))
            print(json.dumps(rows[-1]), flush=True)
            facts = {"recipe": recipe.to_json(), "servers": SERVERS, "data": given.data}
            facts["environment"] = environment(choose_device(), "", "")
            given.results.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
