"""The page of an experiment: its question, what came of each claim, figures, and every number with its seeds."""

import json
from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

from depthwise.comparison.experiment import Arm
from depthwise.comparison.figures import draw_all
from depthwise.comparison.outcome import Metric
from depthwise.comparison.plan import Place
from depthwise.comparison.results import Results
from depthwise.data.columns import Columns
from depthwise.evaluate.report import page_environment, page_part
from depthwise.train.files import write_json
from depthwise.words import command_line, number_of
from depthwise.writing import written_whole

VERDICTS = {"shows": "right", "does not show": "wrong", "cannot be told": "open"}


def write_page(results: Results, place: Place) -> None:
    """results.json, the figures, and report.html, each whole or not at all."""
    document = results.to_json()
    write_json(place.results, document)
    figures = draw_all(results, place.figures)
    page = (
        page_environment("depthwise.comparison")
        .get_template("experiment.html")
        .render(
            name=results.asked.name,
            document=document,
            kinds=VERDICTS,
            figures=[{"title": figure.title, "svg": svg} for figure, svg in figures],
            metrics=[{"name": metric.name, "key": metric.key} for metric in results.experiment.metrics],
            rows=[_row(results, arm) for arm in results.experiment.arms],
            paired=_paired(results, document),
            speed=speed_tables(results),
            recipe=json.dumps(document["recipe"], indent=2),
            command=_again(results, place),
            style=page_part("report.css"),
            number_of=number_of,
        )
    )
    with written_whole(place.report) as file:
        file.write(page.encode("utf-8", errors="replace"))


def _row(results: Results, arm: Arm) -> dict[str, Any]:
    outcomes = results.of[arm.name]
    return {
        "arm": arm,
        "cost": results.cost(arm),
        "scores": [
            _score(metric, arm, [metric.of(o) for o in outcomes]) for metric in results.experiment.metrics
        ],
        "minutes": fmean(o.seconds for o in outcomes) / 60 if outcomes else None,
    }


def _score(metric: Metric, arm: Arm, values: list[float]) -> dict[str, str]:
    """The mean with the deviation over seeds, each seed's number, and the paper's."""
    paper = arm.paper.get(metric.key)
    mean = metric.shown(fmean(values)) if values else ""
    spread = f" ± {metric.shown(stdev(values))}" if len(values) > 1 else ""
    return {
        "mean": mean + spread,
        "seeds": ", ".join(map(metric.shown, values)),
        "paper": "" if paper is None else metric.shown(paper),
    }


def _paired(results: Results, document: Mapping[str, Any]) -> list[dict[str, str]]:
    """The differences behind all findings, as text."""
    metrics = {claim.metric.key: claim.metric for claim in results.experiment.claims}
    rows = []
    for finding in document["findings"]:
        metric = metrics[finding["metric"]]
        for each in finding["compared"]:
            interval, bootstrap = (
                " to ".join(map(metric.difference, each[name] or ())) for name in ("interval", "bootstrap")
            )
            chance = each["probability"]
            rows.append(
                {
                    "pair": f"{each['one']} over {each['other']}",
                    "metric": metric.name,
                    "mean": metric.difference(each["mean"]),
                    "interval": interval,
                    "bootstrap": bootstrap,
                    "probability": "" if chance is None else f"{chance:.0%}",
                    "seeds": ", ".join(metric.difference(d) for d in each["differences"]),
                }
            )
    return list({tuple(row.values()): row for row in rows}.values())


def speed_tables(results: Results) -> list[dict[str, Any]]:
    """Of each kind that was timed, each arm's milliseconds an image, and how many times as fast as the first it is."""
    taken = results.speed
    if taken is None:
        return []
    tables = []
    for kind, arms in taken.seconds.items():
        first = next(iter(arms))
        rows = []
        for name in arms:
            times = taken.times_as_fast(kind, name, first)
            rows.append(
                {
                    "arm": name,
                    "milliseconds": taken.milliseconds(kind, name),
                    "rate": 1000 / taken.milliseconds(kind, name),
                    "times": "" if name == first else _times(times),
                    "paper": results.experiment.arm(name).paper.get(kind),
                }
            )
        tables.append({"kind": kind, "first": first, "rows": rows})
    return tables


def _times(times: Any) -> str:
    if times.times is None:
        return "too noisy to say"
    return f"{times.times:.2f} ({times.tenth:.2f} to {times.ninetieth:.2f})"


def _again(results: Results, place: Place) -> str:
    """What does all of it again: a command, or, of arms that are recipes, the call in Python."""
    asked = results.asked
    own = asked.arms or {"arms": {}, "match": ""}
    arms = own["arms"]
    if any("recipe" in given for given in arms.values()):
        given = f"out={str(place.root)!r}, match={own['match']!r}, scale={asked.scale!r}, seeds={asked.seeds}"
        also, theirs = (", columns=columns", "arms and columns") if asked.columns else ("", "arms")
        return f"depthwise.compare(arms, {asked.data!r}, {given}{also})  # {theirs}: those of experiment.json"
    words = ["depthwise", "experiment", "run", asked.name, "--scale", asked.scale, "--data", asked.data]
    for name, given in arms.items():
        words += [
            "--arm",
            f"{name}={command_line(f'{key}={value}' for key, value in given['settings'].items())}",
        ]
    if own["match"]:
        words += ["--match", own["match"]]
    columns = Columns.from_json(asked.columns) if asked.columns else Columns()
    words += columns.words()
    words += ["--seeds", str(asked.seeds), "--out", str(place.root)]
    if place.runs.absolute() != (place.root / "runs").absolute():
        words += ["--runs", str(place.runs)]
    in_files = columns.in_files()
    return command_line(words) + (f"  # {', '.join(in_files)}: those of experiment.json" if in_files else "")
