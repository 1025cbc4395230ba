"""`depthwise eval`: how good a trained network is on a data set."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from depthwise.cli.manifest import Manifest, asked
from depthwise.cli.options import (
    AllowTruncated,
    BatchSize,
    BundlePath,
    Data,
    EngineOption,
    IgnoreUnknown,
    Json,
    MaxPixels,
    Nested,
    PrecisionOption,
    Workers,
    flag,
)
from depthwise.cli.output import console, print_json, showing, table
from depthwise.places import find_bundle, locate
from depthwise.words import printable
from depthwise.writing import check_free

if TYPE_CHECKING:
    from depthwise.evaluate.tables import Table


def evaluate(
    bundle: BundlePath,
    /,
    *,
    data: Data,
    split: Annotated[
        Literal["train", "val", "test", "all"] | None,
        Parameter(
            help="Which part to use: test by default, else val; all of a folder that is not divided, unless the "
            "network was trained on it."
        ),
    ] = None,
    batch_size: BatchSize = 64,
    workers: Workers = 2,
    ignore_unknown: IgnoreUnknown = False,
    miss_unknown: Annotated[
        bool,
        flag("Of images of any number of labels, count labels that the network does not know as missed."),
    ] = False,
    label_weights: Annotated[
        str | None,
        Parameter(
            help="How much each label counts in MAP@100: a CSV file of labels and weights, or frequency; by default "
            "all count alike."
        ),
    ] = None,
    nested: Nested = False,
    manifest: Manifest = None,
    report: Annotated[
        Path | None, Parameter(help="Write a page with curves, confusions and mistakes here.")
    ] = None,
    force: Annotated[bool, flag("Replace the file that --report names.")] = False,
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    max_pixels: MaxPixels = None,
    allow_truncated: AllowTruncated = False,
    json: Json = False,
) -> None:
    """Measure a trained network on a data set, with the preprocessing it was trained with.

    Nothing is divided for it: a folder without parts is measured whole, unless the network was trained on it; then on
    the part that its training kept from it. Classes are matched by name, so the data set may lack some of them.

    Loss is in nats: the natural logarithm of 1 / the probability it gave the right class, on average. Calibration
    error is how far its certainty is from how often it is right, on average. Where images have any number of labels,
    the loss is the sum over labels, and MAP@100, how well the labels of an image are ranked, is what counts.

    Example: depthwise eval runs/first --data digits --report digits.html
    """
    if report is not None:
        check_free(report, force)
    find_bundle(bundle)  # before anything heavy is imported
    locate(data)
    from depthwise.ship.measuring import measure

    result = measure(
        bundle,
        data,
        split=split,
        batch_size=batch_size,
        workers=workers,
        ignore_unknown=ignore_unknown,
        miss_unknown=miss_unknown,
        label_weights=label_weights,
        nested=nested,
        report=report,
        force=force,
        engine=engine,
        precision=precision,
        max_pixels=max_pixels,
        allow_truncated=allow_truncated or None,
        columns=asked(manifest),
        command=["depthwise", *sys.argv[1:]],
        showing=showing(),
    )
    measured, classes = result.measured, result.config.classes
    if json:
        chosen = {
            "data": data,
            "split": measured.part,
            "split_source": measured.dataset.split_source,
            "trained_on": measured.trained_on,
            "left_out": measured.left_out,
        }
        print_json({**chosen, "classes": list(classes), **result.evaluation.to_json()})
    else:
        _print(result.task.tables(result.evaluation, classes), data, measured.part)


def _print(tables: "Sequence[Table]", data: str, part: str) -> None:
    """The first of them is titled by what was measured."""
    title = f"{printable(data)}, {'all of it' if part == 'all' else f'{part} part'}"
    for number, given in enumerate(tables):
        right = tuple(column for column in given.columns if column not in given.left)
        shown = table(*given.columns, right=right, title=given.title if number else title)
        for row in given.rows:
            shown.add_row(*map(printable, row))
        console().print(shown)
