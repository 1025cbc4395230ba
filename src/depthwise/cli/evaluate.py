"""`depthwise eval`: how good a trained network is on a data set."""

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

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
)
from depthwise.cli.output import console, print_json, showing, table
from depthwise.places import find_bundle, locate
from depthwise.words import printable

if TYPE_CHECKING:
    from depthwise.evaluate.metrics import Evaluation

WEAKEST = 10  # classes in the table for people; --json and the report have them all


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
    nested: Nested = False,
    report: Annotated[
        Path | None, Parameter(help="Write a page with curves, confusions and mistakes here.")
    ] = None,
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
    error is how far its certainty is from how often it is right, on average.

    Example: depthwise eval runs/first --data digits --report digits.html
    """
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
        nested=nested,
        report=report,
        engine=engine,
        precision=precision,
        max_pixels=max_pixels,
        allow_truncated=allow_truncated or None,
        command=["depthwise", *sys.argv[1:]],
        showing=showing(),
    )
    evaluation, measured, classes = result.evaluation, result.measured, result.config.classes
    if json:
        chosen = {
            "data": data,
            "split": measured.part,
            "split_source": measured.dataset.split_source,
            "trained_on": measured.trained_on,
            "left_out": measured.left_out,
        }
        print_json({**chosen, "classes": list(classes), **evaluation.to_json()})
    else:
        _print(evaluation, classes, data, measured.part)


def _print(evaluation: "Evaluation", classes: tuple[str, ...], data: str, part: str) -> None:
    numbers = ("images", "wrong", "top-1", "top-5", "loss", "calibration error")
    result = table(
        *numbers,
        right=numbers,
        title=f"{printable(data)}, {'all of it' if part == 'all' else f'{part} part'}",
    )
    result.add_row(
        f"{evaluation.num_images:,}",
        f"{evaluation.num_wrong:,}",
        f"{evaluation.top1:.2%}",
        "-" if evaluation.top5 is None else f"{evaluation.top5:.2%}",
        f"{evaluation.loss:.4f}",
        f"{evaluation.calibration_error:.2%}",
    )
    console().print(result)
    columns = ("precision", "recall", "F1", "images")
    title = f"The {WEAKEST} weakest of {len(classes)} classes" if len(classes) > WEAKEST else None
    weakest = table("class", *columns, right=columns, title=title)
    per_class = evaluation.per_class
    present = (k for k in per_class.f1.argsort(stable=True).tolist() if per_class.support[k])
    for k in islice(present, WEAKEST):
        ratios = (per_class.precision, per_class.recall, per_class.f1)
        weakest.add_row(
            printable(classes[k]),
            *(f"{float(ratio[k]):.1%}" for ratio in ratios),
            f"{int(per_class.support[k]):,}",
        )
    console().print(weakest)
