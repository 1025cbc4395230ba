"""A trained network measured on a data set: what `depthwise eval` and `depthwise.evaluate` do."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any, Literal

from torch import nn

from depthwise.analysis.cost import cost
from depthwise.bounds import checked, fit
from depthwise.bundle import Bundle, BundleConfig, read_bundle
from depthwise.data import Batches, Dataset
from depthwise.data.columns import Columns
from depthwise.data.image import Decoding
from depthwise.data.measured import Measured, Network, open_measured
from depthwise.evaluate import metrics
from depthwise.evaluate.meters import run_meters
from depthwise.evaluate.report import ReportData, write_report
from depthwise.heat import looking
from depthwise.ship.label_weights import label_weights as weights_of
from depthwise.ship.load import Engine, load_compiled, load_module
from depthwise.ship.showing import Showing
from depthwise.tasks import DEFAULT, Task
from depthwise.words import number_of
from depthwise.writing import check_free

Part = Literal["train", "val", "test", "all"]


@dataclass(frozen=True, eq=False)
class Measurement:
    """What a bundle's network is worth on the images `measured`, by an evaluation of its task's own kind."""

    config: BundleConfig
    task: Task
    measured: Measured
    evaluation: Any


def open_part(
    data: str | os.PathLike[str] | Dataset,
    config: BundleConfig,
    part: str | None,
    workers: int,
    *,
    nested: bool = False,
    ignore_unknown: bool = False,
    miss_unknown: bool = False,
    max_pixels: int | None = None,
    allow_truncated: bool | None = None,
    columns: Columns | None = None,
    showing: Showing,
) -> Measured:
    """The images that the bundle's network is measured on, see `open_measured`; what was chosen is said.

    Files are read as in its training, unless the options say otherwise.
    """
    with showing.counting("looking images over") as progress:
        measured = open_measured(
            data,
            Network.of(config.classes, config.training, one_each=config.task == DEFAULT),
            part,
            channels=config.preprocess.channels,
            workers=max(1, workers),
            progress=progress,
            nested=nested,
            ignore_unknown=ignore_unknown,
            miss_unknown=miss_unknown,
            decoding=Decoding.asked(
                config.training.get("decoding"),
                max_pixels=max_pixels,
                allow_truncated=allow_truncated,
                white_level=config.preprocess.white_level,
            ),
            columns=columns,
        )
    for text in measured.said:
        showing.note(text)
    if kinds := measured.dataset.ignored_kinds:
        showing.note(f"ignored: {', '.join(kinds)}")
    return measured


@checked
def measure(
    path: str | os.PathLike[str],
    data: str | os.PathLike[str] | Dataset,
    *,
    split: str | None = None,
    batch_size: int = 64,
    workers: int = 2,
    ignore_unknown: bool = False,
    miss_unknown: bool = False,
    label_weights: str | os.PathLike[str] | None = None,
    nested: bool = False,
    report: str | os.PathLike[str] | None = None,
    force: bool = False,
    engine: Engine = "auto",
    precision: Literal["fp32", "bf16"] | None = None,
    max_pixels: int | None = None,
    allow_truncated: bool | None = None,
    columns: Columns | None = None,
    command: Sequence[str] = (),
    showing: Showing | None = None,
) -> Measurement:
    """Measure the network of the bundle or run `path` on `data`, see `open_measured`.

    report: a page to write; force: replace it if it exists. label_weights: how much each label counts in MAP@100, see
    `label_weights.label_weights`.

    Raises DepthwiseError and UsageError as the command's sentences.
    """
    showing = showing or Showing()
    if report is not None:
        check_free(Path(report), force)
    if isinstance(data, str | os.PathLike):  # a Dataset may have parts of other names
        fit(split, Part | None, "split")
    bundle = read_bundle(path)
    module, config = load_compiled(bundle, engine=engine, precision=precision), bundle.config
    measured = open_part(
        data,
        config,
        split,
        workers,
        nested=nested,
        ignore_unknown=ignore_unknown,
        miss_unknown=miss_unknown,
        max_pixels=max_pixels,
        allow_truncated=allow_truncated,
        columns=columns,
        showing=showing,
    )
    task = config.build_task()
    if label_weights is not None:
        task = task.weighted(weights_of(label_weights, config.classes, measured.split))
    batches = Batches(
        measured.split,
        config.preprocess,
        batch_size=batch_size,
        workers=workers,
        prepare=task.prepare(None),
    )
    try:
        with showing.counting("evaluating") as progress:
            evaluation = run_meters(module, batches, task.meters(), progress=progress)
    finally:
        batches.close()
    bad = [*measured.dataset.bad, *batches.bad]
    if bad:
        left_out = number_of(len(bad), "unreadable image is", "unreadable images are")
        showing.note(f"{left_out} left out, {bad[0].path} ({bad[0].reason}) for one")
    if report is not None:
        spec = data.name if isinstance(data, Dataset) else os.fspath(data)
        page = _report(bundle, task, measured, evaluation, spec, command)
        write_report(page, Path(report))
        showing.note(f"the report is {os.fspath(report)}")
    return Measurement(config, task, measured, evaluation)


@singledispatch
def evaluate(network: Any, data: Any, **options: Any) -> Any:
    """What a network is worth.

    network: the path of a bundle or a run, and `data` what `depthwise eval` takes, with its options (see `measure`); or
    an nn.Module, and `data` batches (see `evaluate.metrics.evaluate`).
    """
    return measure(network, data, **options).evaluation


evaluate.register(nn.Module, metrics.evaluate)


def _report(
    bundle: Bundle, task: Task, measured: Measured, evaluation: Any, spec: str, command: Sequence[str]
) -> ReportData:
    config, dataset, split = bundle.config, measured.dataset, measured.split
    shape = config.preprocess.shape
    network = load_module(bundle)
    bill = cost(network, shape)
    return ReportData(
        title=f"{config.model} on {dataset.name}",
        history=[],
        classes=config.classes,
        evaluation=evaluation,
        split=measured.part,
        page=task.page,
        findings=task.findings(evaluation, split, looking(network, config.preprocess)),
        samples=task.samples(split),
        counts={name: task.counts(images) for name, images in dataset.splits.items()},
        cost={"parameters": bill.parameters, "macs": bill.macs, "input_shape": list(shape)},
        recipe={},
        versions={},
        command=list(command),
        data={
            "spec": spec,
            "fingerprint": dataset.fingerprint,
            "split_source": dataset.split_source,
            "bad": len(dataset.bad),
            "ignored": list(dataset.ignored_kinds),
        },
        preprocess=asdict(config.preprocess),
    )
