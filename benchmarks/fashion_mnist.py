"""Fashion-MNIST by one call, three seeds: test accuracy against minutes of training.

    python benchmarks/fashion_mnist.py [--seeds 0 1 2] [--out runs/fashion-mnist]

Each seed is one `depthwise.train("fashion-mnist", model="xception", ...)`, the default recipe. Minutes are wall time
in the training process, evaluations and checkpoints included. A finished seed is not trained again. The figures
go to benchmarks/results/fashion-mnist.json and the curves to benchmarks/results/fashion-mnist.svg.
"""

import argparse
import json
import platform
from pathlib import Path
from statistics import mean

import depthwise

RESULTS = Path(__file__).parent / "results"
MARKS = (2, 7)  # minutes


def train(seed: int, out: Path) -> list[dict]:
    """The lines of metrics of the run with `seed`, trained if it is not there yet."""
    if not (out / "report.html").exists():
        depthwise.train("fashion-mnist", model="xception", out=out, seed=seed)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def curve(lines: list[dict], weights: str) -> list[tuple[float, float]]:
    """(minutes, test accuracy in percent) at each evaluation."""
    return [
        (line["seconds"] / 60, 100 * line["top1"])
        for line in lines
        if line["kind"] == "eval" and line["weights"] == weights
    ]


def accuracy_after(points: list[tuple[float, float]], minutes: float) -> float:
    """The last evaluation within the first `minutes`, not the best one."""
    return [accuracy for when, accuracy in points if when <= minutes][-1]


def summarise(runs: dict[int, list[dict]], out: Path) -> dict:
    """What the three runs came to, with what they ran on."""
    facts = json.loads((out / f"seed-{min(runs)}" / "run.json").read_text())
    seeds = []
    for seed, lines in runs.items():
        averaged = curve(lines, "averaged")
        final = next(line for line in lines if line["kind"] == "test" and line["weights"] == "averaged")
        within = {f"within_{mark}_minutes": round(accuracy_after(averaged, mark), 2) for mark in MARKS}
        seeds.append(
            {
                "seed": seed,
                "minutes": round(final["seconds"] / 60, 1),
                "test": round(100 * final["top1"], 2),
                **within,
            }
        )
    keys = ["test", *(f"within_{mark}_minutes" for mark in MARKS)]
    return {
        "command": "python benchmarks/fashion_mnist.py",
        "parameters": facts["cost"]["parameters"],
        "epochs": facts["recipe"]["epochs"],
        "versions": facts["versions"],
        "processor": processor(),
        "seeds": seeds,
        "mean": {key: round(mean(seed[key] for seed in seeds), 2) for key in keys},
    }


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def draw(runs: dict[int, list[dict]], path: Path) -> None:
    """Accuracy against minutes: the averaged weights drawn strong, the raw ones faint."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for seed, lines in runs.items():
        color = f"C{seed}"
        axes.plot(
            *zip(*curve(lines, "averaged"), strict=True), color=color, label=f"seed {seed}, averaged weights"
        )
        axes.plot(
            *zip(*curve(lines, "raw"), strict=True),
            color=color,
            alpha=0.35,
            linewidth=1,
            label=f"seed {seed}, raw",
        )
    axes.set(
        ylim=(90, 95), xlabel="minutes", ylabel="test accuracy, %", title="Fashion-MNIST, Xception, 2 cores"
    )
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/fashion-mnist"))
    arguments = parser.parse_args()
    runs = {seed: train(seed, arguments.out / f"seed-{seed}") for seed in arguments.seeds}
    summary = summarise(runs, arguments.out)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fashion-mnist.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw(runs, RESULTS / "fashion-mnist.svg")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
