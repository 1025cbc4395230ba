"""The paper's experiments at the scale mini, and docs/paper.md, which says claim by claim what came of them.

    python benchmarks/paper.py [NAME ...] [--lab runs/paper] [--tags TAGS] [--page]

Each NAME, all of `depthwise experiment list` unless given, is run as the command does it, with three seeds on
Fashion-MNIST, and what is finished in `lab` is not run again; table2 needs images of several labels, `--tags`
(benchmarks/openclipart_tags.py --thumbnails 64 makes them). The numbers go to benchmarks/results/paper, the figures to
docs/paper. `--page` runs nothing, and writes the page of the numbers that are there.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from depthwise.experiments import EXPERIMENTS, claim
from depthwise.timing import ratio
from depthwise.words import number_of

ROOT = Path(__file__).parent.parent
RESULTS, FIGURES, PAGE = ROOT / "benchmarks/results/paper", ROOT / "docs/paper", ROOT / "docs/paper.md"
SEEDS = 3
VERDICTS = {"shows": "**shows**", "does not show": "**does not show**", "cannot be told": "cannot be told"}

COUNTED = {"begins": ("updates", ",.0f"), "time": ("batches", ",.1f"), "staleness": ("updates", ",.2f")}
"""Metrics that are no shares: their unit, and how a number is written."""

HEAD = """# The paper, run again

What Chollet (2017), and the papers around it, say of their networks, and what becomes of it in minutes on two CPU
cores: {number} at the scale `mini`, with three seeds each. `benchmarks/paper.py` runs them and writes this.

Networks have 0.17 million parameters unless said, and see 180,000 images of 28x28 (three epochs of Fashion-MNIST), or
as many as stand beside the experiment's command. table2 has the drawings of openclipart with their tags, which `python
benchmarks/openclipart_tags.py --thumbnails 64 --out FOLDER` makes. That is a small part of the paper's work, so what
cannot be told here may well be true there; each verdict is one for this scale. A verdict's rule was fixed before
anything ran (`depthwise experiment show NAME`), and goes by the paired differences of runs that share a seed: the 95%
interval of their mean is Student's. Three seeds make wide intervals.

"""


def command(name: str, data: str) -> list[str]:
    """What runs the experiment, as a person would type it."""
    words = ["experiment", "run", name, "--scale", "mini", "--data", data, "--seeds", str(SEEDS)]
    return ["depthwise", *words, "--out", f"runs/paper/{name}", "--runs", "runs/paper/runs"]


def run(name: str, lab: Path, data: str) -> None:
    """Do what is left of it, and keep its numbers and figures."""
    words = [*command(name, data)[1:-4], "--out", str(lab / name), "--runs", str(lab / "runs")]
    subprocess.run([sys.executable, "-m", "depthwise", *words], check=True)
    publish(name, lab)


def publish(name: str, lab: Path) -> None:
    """Its numbers and figures from `lab`, made anew, where no path of this machine stands."""
    subprocess.run([sys.executable, "-m", "depthwise", "experiment", "report", str(lab / name)], check=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    results = json.loads((lab / name / "results.json").read_text())
    results["data"]["data"] = Path(results["data"]["data"]).name
    results["command"] = " ".join(command(name, results["data"]["data"]))
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    FIGURES.mkdir(parents=True, exist_ok=True)
    for old in FIGURES.glob(f"{name}-[0-9]*.svg"):
        old.unlink()
    for figure in sorted((lab / name / "figures").glob("*.svg")):
        shutil.copyfile(figure, FIGURES / f"{name}-{figure.name}")


def page() -> str:
    """docs/paper.md, of the numbers that are kept."""
    found = {name: RESULTS / f"{name}.json" for name in EXPERIMENTS if (RESULTS / f"{name}.json").exists()}
    parts = [HEAD.format(number=number_of(len(found), "experiment"))]
    parts.append("| experiment | claim | at this scale | difference |\n|---|---|---|---|\n")
    for name, file in found.items():
        for finding in json.loads(file.read_text())["findings"]:
            verdict = VERDICTS[finding["verdict"]]
            parts.append(f"| [{name}](#{name}) | {finding['claim']} | {verdict} | {difference(finding)} |\n")
    parts += [section(name, json.loads(file.read_text())) for name, file in found.items()]
    if missing := [name for name in EXPERIMENTS if name not in found]:
        parts.append(f"\nNot run yet at this scale: {', '.join(missing)}.\n")
    return "".join(parts)


def difference(finding: dict[str, Any]) -> str:
    """Of a pair its mean and interval, of a line its best."""
    if not finding["compared"]:
        return finding["sentence"]
    if "details" in finding:
        details = finding["details"]
        near = f"; not told apart: {', '.join(details['near'][1:])}" if details["near"][1:] else ""
        return f"best: {details['best']}{near}"
    (pair,) = finding["compared"]
    counted = COUNTED.get(finding["metric"])
    scale, unit = (1, counted[0]) if counted else (100, "points")
    if pair["interval"] is None:
        return f"{scale * pair['mean']:+.2f} {unit}, one seed"
    low, high = (scale * end for end in pair["interval"])
    return f"{scale * pair['mean']:+.2f} {unit} ({low:+.2f} to {high:+.2f})"


def section(name: str, results: dict[str, Any]) -> str:
    """An experiment: its claim, its findings, every arm, its figures, the command."""
    lines = [f"\n## {name}\n", claim(name), ""]
    lines += [
        f"- {VERDICTS[each['verdict']]}: {each['claim']} {each['sentence']}." for each in results["findings"]
    ]
    keys = list(results["arms"][0]["scores"])
    if keys:
        lines += [
            "",
            f"| arm | parameters | MMAC | {' | '.join(keys)} | paper |",
            "|---|--:|--:|" + "--:|" * (len(keys) + 1),
        ]
        lines += [row(arm, keys) for arm in results["arms"]]
    if results["speed"]:
        lines += ["", *speed(results)]
    lines += ["", *(f"{note}." for note in results["unmatched"] + results["notes"])]
    figures = sorted(FIGURES.glob(f"{name}-[0-9]*.svg"))
    lines += ["", *(f"![{name}](paper/{figure.name})" for figure in figures)]
    minutes = sum(sum(arm["seconds"]) for arm in results["arms"]) / 60
    runs = results["runs"]
    images = f"{results['recipe']['samples']:,} images each"
    took = f", {images}, {minutes:,.0f} min of training in all, on one thread a run" if minutes else ""
    lines += ["", f"`{results['command']}` ({runs['finished']} of {runs['planned']} runs{took})", ""]
    return "\n".join(lines)


def row(arm: dict[str, Any], keys: list[str]) -> str:
    """An arm's costs and scores."""
    cells = []
    for key in keys:
        score = arm["scores"].get(key)
        scale, form = (1, COUNTED[key][1]) if key in COUNTED else (100, ".2f")
        cells.append(
            "" if not score else f"{scale * score['mean']:{form}} ± {scale * (score['sd'] or 0):{form}}"
        )
    paper = ", ".join(f"{100 * value:.2f}" for value in arm["paper"].values())
    return f"| {arm['name']} | {arm['parameters']:,} | {arm['macs'] / 1e6:,.2f} | {' | '.join(cells)} | {paper} |"


def speed(results: dict[str, Any]) -> list[str]:
    """Milliseconds an image, and how many times as fast as the first arm: medians, of times and of their ratios."""
    taken = results["speed"]
    kinds = taken["milliseconds_an_image"]
    heads = [f"{kind}, ms an image | times as fast" for kind in kinds]
    lines = [f"| arm | {' | '.join(heads)} |", "|---|" + "--:|--:|" * len(kinds)]
    first = results["arms"][0]["name"]
    for arm in results["arms"]:
        cells = [
            f"{each[arm['name']]:.3g} | {times(taken['seconds'][kind], first, arm['name'])}"
            for kind, each in kinds.items()
        ]
        lines.append(f"| {arm['name']} ({arm['parameters']:,} parameters) | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"Batches of {taken['batch']}, {taken['precision']}, {taken['threads']} threads, in turns.",
    ]


def times(seconds: dict[str, list[float]], first: str, name: str) -> str:
    found = ratio(seconds[first], seconds[name]).times
    return "too noisy to say" if found is None else f"{found:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--lab", type=Path, default=Path("runs/paper"))
    parser.add_argument("--tags", help="a manifest of images of several labels, for table2")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    for name in options.names or EXPERIMENTS:
        if not options.page and (name != "table2" or options.tags):
            run(name, options.lab, options.tags if name == "table2" else "fashion-mnist")
            PAGE.write_text(page())
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
