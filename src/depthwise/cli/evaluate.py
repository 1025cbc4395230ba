"""`depthwise eval`: how good a trained network is on a data set."""

import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import Parameter

from depthwise.cli.options import BundlePath, Data, Json
from depthwise.cli.output import console, counting, note, print_json, printable, table
from depthwise.errors import DepthwiseError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from depthwise.bundle import BundleConfig
    from depthwise.data import Dataset, Split
    from depthwise.evaluate.metrics import Evaluation

WEAKEST = 10  # classes in the table for people; --json and the report have them all


def evaluate(
    bundle: BundlePath,
    /,
    *,
    data: Data,
    split: Annotated[
        Literal["train", "val", "test"] | None,
        Parameter(help="Which part to use: test by default, else val."),
    ] = None,
    batch_size: Annotated[int, Parameter(help="How many images go through the network at once.")] = 64,
    workers: Annotated[int, Parameter(help="Processes that read image files.")] = 2,
    report: Annotated[
        Path | None, Parameter(help="Write a page with curves, confusions and mistakes here.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure a trained network on a data set, with the preprocessing it was trained with.

    Classes are matched by name, so the data set may lack some of them.

    Example: depthwise eval runs/first --data digits --report digits.html
    """
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size} must be at least 1")
    from depthwise.bundle import read_bundle
    from depthwise.data import Batches
    from depthwise.evaluate.metrics import evaluate as measure
    from depthwise.load import load_compiled, load_module

    source = read_bundle(bundle)
    module, config = load_compiled(source), source.config
    dataset, part, images = open_part(data, config, split, workers)
    num_classes = len(config.classes)
    batches = Batches(
        images, config.preprocess, batch_size=batch_size, num_classes=num_classes, workers=workers
    )
    try:
        with counting("evaluating") as progress:
            evaluation = measure(module, batches, num_classes=num_classes, progress=progress)
    finally:
        batches.close()
    bad = [*dataset.bad, *batches.bad]
    if bad:
        note(f"{len(bad)} unreadable images are left out, {bad[0].path} ({bad[0].reason}) for one")
    if report:
        _write_report(report, load_module(source), config, dataset, part, evaluation, data)
        note(f"the report is {report}")
    if json:
        print_json({"data": data, "split": part, "classes": list(config.classes), **evaluation.to_json()})
    else:
        _print(evaluation, config.classes, data, part)


def open_part(
    data: str, config: "BundleConfig", name: str | None, workers: int
) -> "tuple[Dataset, str, Split]":
    """The data set as the bundle's network numbers its classes, and a part of it: test unless named, else val."""
    from depthwise.data import open_dataset

    with counting("looking images over") as progress:
        dataset = open_dataset(
            data,
            channels=config.preprocess.channels,
            workers=max(1, workers),
            progress=progress,
            max_bad=1.0,
        )
    dataset = _renumbered(dataset, config.classes)
    return dataset, *_part(dataset, name)


def _renumbered(dataset: "Dataset", classes: tuple[str, ...]) -> "Dataset":
    """`dataset` with the numbers that the network gives the classes."""
    import torch

    unknown = [name for name in dataset.classes if name not in classes]
    if unknown:
        raise DepthwiseError(
            f"the network knows no class {unknown[0]!r}, nor {len(unknown) - 1} others of the data set: "
            f"evaluate it on what it was trained for: {', '.join(classes[:12])}"
        )
    numbers = torch.tensor([classes.index(name) for name in dataset.classes])
    splits = {
        part: cast("Split", replace(cast(Any, split), labels=numbers[split.labels]))
        for part, split in dataset.splits.items()
    }
    return replace(dataset, classes=classes, splits=splits)


def _part(dataset: "Dataset", name: str | None) -> "tuple[str, Split]":
    from depthwise.data import test_split

    if name is None:
        return test_split(dataset)
    if name not in dataset.splits:
        raise UsageError(f"{dataset.name} has no {name} part: it has {', '.join(dataset.splits)}")
    return name, dataset.splits[name]


def _write_report(
    path: Path,
    module: "nn.Module",
    config: "BundleConfig",
    dataset: "Dataset",
    part: str,
    evaluation: "Evaluation",
    spec: str,
) -> None:
    from depthwise.cost import cost
    from depthwise.evaluate.report import ReportData, collect_mistakes, collect_samples, write_report

    split = dataset.splits[part]
    shape = (config.preprocess.channels, *config.preprocess.size)
    bill = cost(module, shape)
    num_classes = len(config.classes)
    report = ReportData(
        title=f"{config.model} on {dataset.name}",
        history=[],
        classes=config.classes,
        evaluation=evaluation,
        split=part,
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
        },
    )
    write_report(report, path)


def _print(evaluation: "Evaluation", classes: tuple[str, ...], data: str, part: str) -> None:
    numbers = ("images", "wrong", "top-1", "top-5", "loss", "calibration error")
    result = table(*numbers, right=numbers, title=f"{printable(data)}, {part} part")
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
