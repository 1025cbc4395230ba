"""The figures of an experiment, by matplotlib: an SVG and a PNG each, and the SVG in a page's own colours."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from markupsafe import Markup

from depthwise.comparison.experiment import Arm, Axis, Costs, Curves, Dots, Figure, Lines
from depthwise.comparison.outcome import Metric, Outcome
from depthwise.comparison.results import Results
from depthwise.writing import written_whole

# Those of the page in its light form, which becomes the reader's form where the SVG stands in the page.
COLOURS = ("#20618f", "#c0751a", "#2f7d57", "#b23c24", "#7a4f9e", "#6b6f2a")
INK, MUTED, GRID = "#1c1d20", "#5c5f66", "#eeece7"
STYLES = ("-", "--", ":", "-.")

AXES: dict[Axis, str] = {
    "updates": "updates",
    "samples": "images",
    "seconds": "seconds of training",
    "time": "time, in batches of an ordinary worker",
    "macs": "multiply-adds spent",
}
UNITS = {"parameters": "parameters", "macs": "multiply-adds an image", "milliseconds": "ms an image"}
BACKWARD = 3
"""A training step costs about three forward passes: forward, gradients of inputs, gradients of weights."""


# Text stays text, in the SVG as in names with a dollar; the same numbers give the same file.
STYLE: Any = {
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "svg.hashsalt": "depthwise",
    "text.parse_math": False,
}


def draw_all(results: Results, folder: Path) -> list[tuple[Figure, Markup]]:
    """Each figure of which there is something to draw, for a page; NAME.svg and NAME.png in `folder`."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return _draw_all(results, folder)


def _draw_all(results: Results, folder: Path) -> list[tuple[Figure, Markup]]:
    drawn = []
    for number, figure in enumerate(results.experiment.figures, 1):
        canvas = _drawn(figure, results)
        if canvas is None:
            continue
        name = f"{number}-{re.sub('[^a-z0-9]+', '-', figure.title.lower()).strip('-')[:60]}"
        svg = _saved(canvas, "svg")
        for ending, content in (("svg", svg), ("png", _saved(canvas, "png"))):
            with written_whole(folder / f"{name}.{ending}") as file:
                file.write(content)
        drawn.append((figure, in_page(svg.decode())))
    return drawn


def in_page(svg: str) -> Markup:
    """An SVG of `draw_all` as a page carries it: in the page's colours, and as wide as there is room."""
    svg = svg[svg.index("<svg") :]
    for number, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--line-{number})")
    for colour, name in ((INK, "ink"), (MUTED, "muted"), (GRID, "grid")):
        svg = svg.replace(colour, f"var(--{name})")
    head, rest = svg.split(">", 1)
    svg = re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest
    return Markup(re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S))


def _saved(canvas: Any, kind: str) -> bytes:
    file = io.BytesIO()
    form: Any = {"dpi": 160, "facecolor": "white"}
    if kind == "svg":
        form = {"transparent": True, "metadata": {"Date": None}}
    canvas.savefig(file, format=kind, **form)
    return file.getvalue()


def _drawn(figure: Figure, results: Results) -> Any:
    match figure:
        case Curves():
            return _curves(figure, results)
        case Dots():
            return _dots(figure, results)
        case Lines():
            return _lines(figure, results)
        case Costs():
            return _costs(figure, results)


def _axes(height: float = 3.8) -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.4, height), layout="constrained")
    axes = canvas.add_subplot()
    axes.set_facecolor("none")
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=MUTED, labelsize=10)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(MUTED)
    return canvas, axes


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, color=INK, fontsize=10)
    axes.set_ylabel(y, color=INK, fontsize=10)


def _legend(axes: Any) -> None:
    axes.legend(frameon=False, fontsize=10, labelcolor=INK)


def _of(number: int) -> dict[str, Any]:
    """How the line of this number looks."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": STYLES[number // len(COLOURS) % len(STYLES)],
    }


def _arms(results: Results, names: Sequence[str]) -> list[Arm]:
    return [
        arm for arm in results.experiment.arms if (not names or arm.name in names) and results.of[arm.name]
    ]


def _curves(figure: Curves, results: Results) -> Any:
    arms = _arms(results, figure.arms)
    canvas, axes = _axes()
    some = False
    for number, arm in enumerate(arms):
        series = [
            points for outcome in results.of[arm.name] if len((points := _on_the_way(outcome, figure))[0])
        ]
        if not series:
            continue
        some = True
        # Runs of an arm are evaluated at the same updates; seconds differ, and are averaged.
        x = np.mean([xs for xs, _ in series], axis=0)
        ys = 100 * np.array([y for _, y in series])
        axes.plot(x, ys.mean(0), label=arm.name, linewidth=1.8, **_of(number))
        axes.fill_between(x, ys.min(0), ys.max(0), color=_of(number)["color"], alpha=0.15, linewidth=0)
    if not some:
        return None
    _label(axes, AXES[figure.x], f"{figure.key.replace('_', ' ')}, %")
    _legend(axes)
    return canvas


def _on_the_way(outcome: Outcome, figure: Curves) -> tuple[np.ndarray, np.ndarray]:
    """The evaluations of the weights that the bundle holds: x and the figure's key."""
    lines = [line for line in outcome.lines if line["kind"] == "eval" and figure.key in line]
    kinds = {line["weights"] for line in lines}
    kind = "averaged" if "averaged" in kinds else "raw"
    lines = [line for line in lines if line["weights"] == kind]
    spent = BACKWARD * outcome.macs
    x = {
        "updates": [line["step"] for line in lines],
        "samples": [line["samples"] for line in lines],
        "seconds": [line["seconds"] for line in lines],
        "time": [line.get("time", 0.0) for line in lines],
        "macs": [line["samples"] * spent for line in lines],
    }
    return np.array(x[figure.x], dtype=float), np.array([line[figure.key] for line in lines])


def _dots(figure: Dots, results: Results) -> Any:
    arms = _arms(results, figure.arms)
    if not arms:
        return None
    canvas, axes = _axes(1.0 + 0.42 * len(arms))
    scale = figure.metric.scale
    for row, arm in enumerate(arms):
        values = [scale * figure.metric.of(outcome) for outcome in results.of[arm.name]]
        axes.plot(
            values, [row] * len(values), "o", color=COLOURS[0], alpha=0.55, markersize=6, markeredgewidth=0
        )
        axes.plot([fmean(values)], [row], "|", color=INK, markersize=17, markeredgewidth=2)
    axes.set_yticks(range(len(arms)), [arm.name for arm in arms])
    axes.invert_yaxis()
    axes.margins(y=0.6 / len(arms))
    _label(axes, _named(figure.metric), "")
    return canvas


def _named(metric: Metric) -> str:
    return f"{metric.name}, %" if metric.scale == 100 else f"{metric.name}, {metric.unit}"


def _lines(figure: Lines, results: Results) -> Any:
    groups: dict[str, list[Arm]] = {}
    for arm in _arms(results, ()):
        groups.setdefault(arm.group, []).append(arm)
    if not groups:
        return None
    canvas, axes = _axes()
    scale = figure.metric.scale
    for number, (group, arms) in enumerate(groups.items()):
        arms = sorted(arms, key=lambda arm: arm.place)
        values = [[scale * figure.metric.of(o) for o in results.of[arm.name]] for arm in arms]
        x, means = [arm.place for arm in arms], [fmean(each) for each in values]
        axes.plot(x, means, "o", markersize=5, label=group or None, linewidth=1.8, **_of(number))
        for place, each in zip(x, values, strict=True):
            axes.plot([place] * len(each), each, ".", color=_of(number)["color"], alpha=0.5, markersize=5)
    if figure.log:
        axes.set_xscale("log", base=2)
        places = sorted({arm.place for arms in groups.values() for arm in arms})
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.minorticks_off()
    _label(axes, figure.x, _named(figure.metric))
    if len(groups) > 1:
        _legend(axes)
    return canvas


def _costs(figure: Costs, results: Results) -> Any:
    arms = _arms(results, ())
    if figure.x == "milliseconds" and results.speed is None:
        return None
    if not arms:
        return None
    canvas, axes = _axes(4.4)
    groups = list(dict.fromkeys(arm.group for arm in arms))
    points = []
    for arm in arms:
        if figure.x == "milliseconds":
            assert results.speed is not None
            x = results.speed.milliseconds("inference", arm.name)
        else:
            x = float(results.cost(arm)[figure.x])
        y = figure.metric.scale * fmean(figure.metric.of(outcome) for outcome in results.of[arm.name])
        colour = COLOURS[groups.index(arm.group) % len(COLOURS)]
        axes.plot([x], [y], "o", color=colour, markersize=6)
        axes.annotate(arm.name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=9, color=INK)
        points.append((x, y))
    front = _front(points)
    axes.plot([x for x, _ in front], [y for _, y in front], "-", color=MUTED, linewidth=1, alpha=0.6)
    if max(x for x, _ in points) > 3 * min(x for x, _ in points):
        axes.set_xscale("log")
    _label(axes, UNITS[figure.x], _named(figure.metric))
    return canvas


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other beats in both: as cheap, and better."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front
