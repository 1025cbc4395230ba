"""The page that a training run or an evaluation leaves for a person: one HTML file that carries all it shows.

It opens from disk, asks the network for nothing (its content policy forbids it), follows the reader's light or
dark setting and fits a phone. Every name that came with the data is escaped by the template engine.
"""

import base64
import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from torch import Tensor

from depthwise.evaluate import sections, settings
from depthwise.evaluate.order import natural_order
from depthwise.evaluate.pictures import picture
from depthwise.words import command_line, number_of, pace
from depthwise.writing import written_whole

SAMPLE_PIXELS = 96
# Up to this many classes each has a row of samples; of more, a wall shows one image of some of them.
MOST_ROWS = 60
MOST_SAMPLES = 240


@dataclass(frozen=True)
class Section:
    """A section of the page: `html` is a <section> whose id is `key`, under `title` in the navigation."""

    key: str
    title: str
    html: Markup


@dataclass(frozen=True)
class Page:
    """What a task shows of an evaluation: the `result` under the title, and sections between curves and data.

    charts: what the page's script draws in them. loss_unit: of the task's loss. tables: by the id of a table that the
    script fills, its columns beside the names of the classes, a value a class in natural order. scores: what the
    learning curves show beside the loss, with a note. counted: what is counted of each class.
    """

    result: Markup
    sections: Sequence[Section]
    charts: Mapping[str, Any] = field(default_factory=dict)
    loss_unit: str = ""
    tables: Mapping[str, Sequence[Sequence[Any]]] = field(default_factory=dict)
    scores: str = "Accuracy"
    scores_note: str = ""
    counted: str = "images"


@dataclass(frozen=True, eq=False)
class ReportData:
    """All that the report tells. A part that is empty is left out of the page.

    `evaluation`, `findings`, what the task looked up of the images, and `page`, which makes of all this what is shown
    of it, are the task's own. `history` holds the lines of metrics.jsonl; `samples` a few images (uint8 [C, H, W]) of
    each class; `counts` the number of images of each class in each split; `cost` has `parameters`, `macs` and
    `input_shape` (C, H, W); `preprocess` are the values that images were prepared with; `command` is what began the
    run, `resumes` what it went on with: of each the `command`, the `step`, and what had `changed` by then. `data` has
    `spec`, `fingerprint`, `split_source` and `bad`, the number of images left out as unreadable; `selection` says what
    evaluations on the way decided. `asynchronous` has `how` the gradients of an asynchronous run came in its own words,
    the `staleness` of those that counted, with `gradients` of each, and how many were `dropped`.
    """

    title: str
    history: list[dict[str, Any]]
    classes: Sequence[str]
    evaluation: Any
    page: Callable[["ReportData"], Page]
    split: str
    findings: Any
    samples: dict[int, list[Tensor]]
    counts: dict[str, list[int]]
    cost: dict[str, Any]
    recipe: dict[str, Any]
    versions: dict[str, str]
    command: list[str]
    data: dict[str, Any]
    selection: str = ""
    preprocess: dict[str, Any] = field(default_factory=dict)
    resumes: Sequence[Mapping[str, Any]] = ()
    asynchronous: Mapping[str, Any] = field(default_factory=dict)


def write_report(data: ReportData, path: str | PathLike[str]) -> None:
    """Write the page to `path`, whole or not at all; folders on the way are made.

    Raises what `written_whole` does.
    """
    # A file name that is no valid Unicode comes as lone surrogates, which UTF-8 cannot hold.
    page = render(data).encode("utf-8", errors="replace")
    with written_whole(Path(path)) as file:
        file.write(page)


def render(data: ReportData) -> str:
    """The page as text, with the classes in the order in which people count."""
    page, evaluation = data.page(data), data.evaluation
    data = _in_natural_order(data)
    headline = evaluation.headline
    learning = sections.learning(data.history, headline.key)
    wall = len(data.classes) > MOST_ROWS
    tables = {**page.tables, **({"counts": list(data.counts.values())} if wall else {})}
    return rendered(
        "report.html",
        title=data.title,
        page=page,
        headline={
            "value": headline.of(evaluation),
            "name": headline.name,
            "loss": sections.finite(evaluation.numbers["loss"]),
        },
        classes=data.classes,
        learning=learning,
        counts=sections.class_counts(data.counts, data.classes),
        samples=_sample_pictures(data.samples, len(data.classes)),
        wall=wall,
        cost=data.cost,
        recipe=settings.groups(data.recipe, data.preprocess),
        versions=data.versions,
        command=command_line(data.command),
        resumes=[{**resume, "command": command_line(resume["command"])} for resume in data.resumes],
        data=data.data,
        charts={
            "curves": learning["curves"],
            **({"staleness": data.asynchronous} if data.asynchronous else {}),
            **page.charts,
        },
        asynchronous=data.asynchronous and sections.staleness(data.asynchronous),
        tables={"names": data.classes, "columns": tables} if tables else {},
        style=page_part("report.css"),
        script=page_part("report.js") + page_part("report_tables.js"),
        plotly=packed_plotly(),
    )


def rendered(template: str, **values: Any) -> Markup:
    """A template beside this module, filled in; names in `values` are escaped."""
    return Markup(_environment().get_template(template).render(**values))


def plain_page(data: ReportData, parts: Sequence[Section] = (), *, loss_unit: str = "") -> Page:
    """The page of a task that shows its numbers as they are, and `parts`."""
    evaluation = data.evaluation
    result = rendered(
        "plain_result.html",
        split=data.split,
        selection=data.selection,
        headline=evaluation.headline,
        value=evaluation.headline.of(evaluation),
        images=evaluation.num_images,
        loss=sections.finite(evaluation.numbers["loss"]),
        unit=loss_unit,
    )
    return Page(result, parts, loss_unit=loss_unit)


def _in_natural_order(data: ReportData) -> ReportData:
    order = natural_order(data.classes)
    if order == sorted(order):
        return data
    place = {k: shown for shown, k in enumerate(order)}
    return replace(
        data,
        classes=[data.classes[k] for k in order],
        samples={place[k]: images for k, images in data.samples.items()},
        counts={part: [counts[k] for k in order] for part, counts in data.counts.items()},
    )


def _sample_pictures(samples: dict[int, list[Tensor]], num_classes: int) -> dict[int, list[Any]]:
    shown = {k: images for k, images in sorted(samples.items()) if images}
    if num_classes > MOST_ROWS:
        step = -(-len(shown) // MOST_SAMPLES)
        shown = {k: shown[k][:1] for k in list(shown)[:: max(step, 1)]}
    return {k: [picture(image, SAMPLE_PIXELS) for image in images] for k, images in shown.items()}


def page_environment(package: str) -> Environment:
    """For the templates beside the modules of `package`, which may include those beside this one."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader("depthwise.evaluate", "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _environment() -> Environment:
    environment = page_environment("depthwise.evaluate")
    environment.filters.update(
        duration=sections.duration,
        magnitude=sections.magnitude,
        pace=pace,
        number_of=number_of,
        cut_path=sections.cut_path,
        cut_name=sections.cut_name,
    )
    return environment


def page_part(name: str) -> Markup:
    """A file beside this one as it is: the style, for other pages too, or the script."""
    return Markup(resources.files("depthwise.evaluate").joinpath(name).read_text("utf-8"))


@cache
def packed_plotly() -> Markup:
    """plotly.js as a page carries it: gzip in base64."""
    # Packed it is 2 MB instead of 5; the browser unpacks it in the background while the page is already readable.
    packed = gzip.compress(get_plotlyjs().encode("utf-8"), compresslevel=9, mtime=0)
    return Markup(base64.b64encode(packed).decode("ascii"))
