"""How synchronous and asynchronous training differ: by updates, by images, and by time.

The paper trained ImageNet synchronously and JFT asynchronously, each on 60 GPUs (Chollet 2017, section 4.5), and does
not compare them. Chen 2016 (arXiv 1604.00981) found synchronous training with backup workers better and quicker than
asynchronous; Zhang 2016 (arXiv 1511.05950) divides the learning rate by the staleness.

Workers are made up, with times that are drawn by the run's seed, and see as many images in all. Arms share the recipe,
learning rate and batch of a worker included, so an update of n workers that wait has n batches and a run has an n-th of
the updates. Momentum is 0 in all, for asynchrony adds its own, by the number of workers, and nothing corrects it.
"""

from dataclasses import replace

from depthwise.comparison.claims import Alike, Better, Claim
from depthwise.comparison.experiment import Arm, Curves, Dots, Experiment, Lines
from depthwise.comparison.outcome import Metric, Outcome
from depthwise.comparison.setting import Setting
from depthwise.train.asynchronous.simulation import Simulation
from depthwise.train.optimizer import SGD
from depthwise.train.recipe import Recipe

PARTS, EVALUATIONS, BATCH = 6, 4, 32
SLOW = 4.0  # times as long as the others take
CLOSE = 0.01
ONE = "1 worker"
ASYNC, STALE, SLOWED = "asynchronous", "asynchronous, rate by staleness", "asynchronous, one slow"
SYNC, WAITING, BACKUP = "synchronous", "synchronous, one slow", "synchronous, one slow, a backup worker"


def _time(outcome: Outcome) -> float:
    return max(float(line.get("time", 0.0)) for line in outcome.lines)


def _staleness(outcome: Outcome) -> float:
    """The mean over updates, of which a line tells those since the last."""
    lines = [line for line in outcome.lines if line["kind"] == "train"]
    steps = [0, *(line["step"] for line in lines)]
    total = sum(
        line["staleness"] * (line["step"] - before) for line, before in zip(lines, steps, strict=False)
    )
    return total / steps[-1]


TIME = Metric("time", "time", _time, scale=1.0, unit="batches", higher_is_better=False, resolution=1.0)
STALENESS = Metric(
    "staleness",
    "mean staleness",
    _staleness,
    scale=1.0,
    unit="updates",
    higher_is_better=False,
    resolution=0.01,
)


def sync_async(setting: Setting) -> Experiment:
    """Up to 60 workers that wait for nobody, and up to 16 that wait, with a slow one and without."""
    recipe, metric = _recipe(setting), setting.metric

    def arm(group: str, workers: int, **how: float | bool) -> Arm:
        simulate = Simulation(workers=workers, speed="lognormal", **how)  # type: ignore[arg-type]
        name = ONE if workers == 1 else f"{group}, {workers}"
        return Arm(name, recipe, group=group, place=workers, simulate=simulate)

    arms = (
        *(arm(ASYNC, workers) for workers in (1, 2, 4, 16, 60)),
        *(arm(STALE, workers, divide=True) for workers in (16, 60)),
        *(arm(SLOWED, workers, slow=SLOW) for workers in (4, 16, 60)),
        *(arm(SYNC, workers, backup=0) for workers in (4, 16)),
        *(arm(WAITING, workers, backup=0, slow=SLOW) for workers in (4, 16)),
        *(arm(BACKUP, workers, backup=1, slow=SLOW) for workers in (4, 16)),
    )
    shown = (ONE, *(f"{ASYNC}, {n}" for n in (4, 16, 60)), f"{SYNC}, 16", f"{BACKUP}, 16")
    return Experiment(
        question="How do synchronous and asynchronous training differ?",
        source="readers' question on Chollet 2017, section 4.5; Chen 2016; Zhang 2016",
        arms=arms,
        claims=_claims(metric),
        metrics=(metric, TIME, STALENESS),
        figures=(
            Lines("Final accuracy against workers", "workers", metric, log=True),
            Curves("Against updates", key=metric.key, arms=shown),
            Curves("Against images", "samples", key=metric.key, arms=shown),
            Curves("Against time", "time", key=metric.key, arms=shown),
            Dots("Time", TIME),
        ),
        notes=(
            "Workers are made up: time counts batches of an ordinary worker, and network and server take none",
        ),
    )


def _claims(metric: Metric) -> tuple[Claim, ...]:
    found: list[Claim] = [
        Alike("4 workers that do not wait are as good as 1.", f"{ASYNC}, 4", ONE, CLOSE, metric)
    ]
    for n in (4, 16):
        more = f"{n} workers learn more from the same images if they do not wait."
        unhurt = f"A slow one of {n} that do not wait costs no accuracy."
        quicker = f"With a slow one of {n}, a backup worker saves time."
        quickest = f"Not to wait for a slow one of {n} saves more time than a backup worker."
        found += [
            Better(more, f"{ASYNC}, {n}", f"{SYNC}, {n}", metric),
            Alike(unhurt, f"{SLOWED}, {n}", f"{ASYNC}, {n}", CLOSE, metric),
            Better(quicker, f"{BACKUP}, {n}", f"{WAITING}, {n}", TIME),
            Better(quickest, f"{SLOWED}, {n}", f"{BACKUP}, {n}", TIME),
        ]
    for n in (16, 60):
        divided = f"A learning rate divided by the staleness helps {n} workers."
        found.append(Better(divided, f"{STALE}, {n}", f"{ASYNC}, {n}", metric))
    return tuple(found)


def _recipe(setting: Setting) -> Recipe:
    base = setting.shortened(PARTS, EVALUATIONS)
    if setting.is_paper:
        return replace(base, optimizer=SGD(lr=0.045, momentum=0.0, weight_decay=1e-5))
    return replace(
        base,
        batch_size=BATCH,
        optimizer=SGD(lr=0.2, momentum=0.0, weight_decay=base.optimizer.weight_decay),
    )
