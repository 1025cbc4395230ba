"""`depthwise eval`: how good a trained network is on a data set."""

import sys
from dataclasses import asdict
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
    decoding,
)
from depthwise.cli.output import console, counting, note, print_json, printable, table
from depthwise.places import find_bundle, locate
from depthwise.words import number_of

if TYPE_CHECKING:
    from torch import nn

    from depthwise.bundle import BundleConfig
    from depthwise.data.measured import Measured
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
    from depthwise.bundle import read_bundle
    from depthwise.data import Batches
    from depthwise.evaluate.metrics import evaluate as measure
    from depthwise.ship.load import load_compiled, load_module

    source = read_bundle(bundle)
    module, config = load_compiled(source, engine=engine, precision=precision), source.config
    measured = open_part(
        data,
        config,
        split,
        workers,
        nested=nested,
        ignore_unknown=ignore_unknown,
        max_pixels=max_pixels,
        allow_truncated=allow_truncated,
    )
    num_classes = len(config.classes)
    batches = Batches(
        measured.split, config.preprocess, batch_size=batch_size, num_classes=num_classes, workers=workers
    )
    try:
        with counting("evaluating") as progress:
            evaluation = measure(module, batches, num_classes=num_classes, progress=progress)
    finally:
        batches.close()
    bad = [*measured.dataset.bad, *batches.bad]
    if bad:
        left_out = number_of(len(bad), "unreadable image is", "unreadable images are")
        note(f"{left_out} left out, {bad[0].path} ({bad[0].reason}) for one")
    if report:
        _write_report(report, load_module(source), config, measured, evaluation, data)
        note(f"the report is {report}")
    if json:
        chosen = {
            "data": data,
            "split": measured.part,
            "split_source": measured.dataset.split_source,
            "trained_on": measured.trained_on,
            "left_out": measured.left_out,
        }
        print_json({**chosen, "classes": list(config.classes), **evaluation.to_json()})
    else:
        _print(evaluation, config.classes, data, measured.part)


def open_part(
    data: str,
    config: "BundleConfig",
    part: str | None,
    workers: int,
    *,
    nested: bool = False,
    ignore_unknown: bool = False,
    max_pixels: int | None = None,
    allow_truncated: bool = False,
) -> "Measured":
    """The images that the bundle's network is measured on, see `open_measured`; what was chosen is said.

    Files are read as in its training, unless the options say otherwise.
    """
    from depthwise.data.measured import Network, open_measured

    with counting("looking images over") as progress:
        measured = open_measured(
            data,
            Network.of(config.classes, config.training),
            part,
            channels=config.preprocess.channels,
            workers=max(1, workers),
            progress=progress,
            nested=nested,
            ignore_unknown=ignore_unknown,
            decoding=decoding(
                max_pixels, allow_truncated, config.training.get("decoding"), config.preprocess.white_level
            ),
        )
    for text in measured.said:
        note(text)
    if kinds := measured.dataset.ignored_kinds:
        note(f"ignored: {', '.join(kinds)}")
    return measured


def _write_report(
    path: Path,
    module: "nn.Module",
    config: "BundleConfig",
    measured: "Measured",
    evaluation: "Evaluation",
    spec: str,
) -> None:
    from depthwise.analysis.cost import cost
    from depthwise.evaluate.report import ReportData, collect_mistakes, collect_samples, write_report

    dataset, split = measured.dataset, measured.split
    shape = (config.preprocess.channels, *config.preprocess.size)
    bill = cost(module, shape)
    num_classes = len(config.classes)
    report = ReportData(
        title=f"{config.model} on {dataset.name}",
        history=[],
        classes=config.classes,
        evaluation=evaluation,
        split=measured.part,
        mistakes=collect_mistakes(evaluation, split),
        samples=collect_samples(split, num_classes),
        counts={
            name: images.labels.bincount(minlength=num_classes).tolist()
            for name, images in dataset.splits.items()
        },
        cost={"parameters": bill.parameters, "macs": bill.macs, "input_shape": list(shape)},
        recipe={},
        versions={},
        command=["depthwise", *sys.argv[1:]],
        data={
            "spec": spec,
            "fingerprint": dataset.fingerprint,
            "split_source": dataset.split_source,
            "bad": len(dataset.bad),
            "ignored": list(dataset.ignored_kinds),
        },
        preprocess=asdict(config.preprocess),
    )
    write_report(report, path)


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
