"""`depthwise bench`: the compiled network and the general engines on this machine, or the ways to train it."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from depthwise.bounds import Bounds, fit
from depthwise.cli.options import Json, flag
from depthwise.cli.output import console, counting, print_json, say, table
from depthwise.cli.subject import Settings, Size, Subject, build_subject, find_subject
from depthwise.errors import UsageError, shown, unknown_name
from depthwise.words import number_of
from depthwise.writing import check_free

if TYPE_CHECKING:
    from depthwise.bench import Comparison

Kind = Literal["inference", "training"]

Batch = Annotated[int, Bounds(1, 4096)]
Threads = Annotated[int, Bounds(1, 1024)]
SWEEPS = {"batch": Batch, "threads": Threads}
BATCH = {"inference": 1, "training": 8}
ROUNDS = {"inference": 20, "training": 9}


def bench(
    name: Annotated[
        str, Parameter(help="A network of the catalogue, or a bundle for its shape.")
    ] = "xception",
    /,
    *,
    train: Annotated[bool, flag("Time updates of a training, not answers.")] = False,
    size: Size = None,
    batch: Annotated[Batch | None, Parameter(help="Images at a time; by default 1, in training 8.")] = None,
    threads: Annotated[Threads | None, Parameter(help="Of each engine; all cores by default.")] = None,
    rounds: Annotated[
        Annotated[int, Bounds(2, 10_000)] | None,
        Parameter(help="How often each engine has its turn; by default 20 times, in training 9 times."),
    ] = None,
    precision: Annotated[
        list[Literal["fp32", "bf16", "int8"]] | None,
        Parameter(
            negative="",
            consume_multiple=True,
            help="Only engines of these, and PyTorch as what answers are compared with; all by default.",
        ),
    ] = None,
    engines: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            consume_multiple=True,
            help="Only these, by their names in the table; all by default.",
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            consume_multiple=True,
            help="batch=1,4,16 or threads=1,2 or both: images a second for each of these.",
        ),
    ] = None,
    settings: Settings = None,
    out: Annotated[Path | None, Parameter(help="The JSON document as a file, as well.")] = None,
    chart: Annotated[
        Path | None, Parameter(help="A page with bars, or lines over a sweep, to open in a browser.")
    ] = None,
    force: Annotated[bool, flag("Replace the files that --out and --chart name.")] = False,
    json: Json = False,
) -> None:
    """Time this project against others, in answering or, with --train, in training.

    Without --train the native kernels run against PyTorch, torch.compile, ONNX Runtime and OpenVINO, as far as they
    are installed.

    Each engine runs in a process of its own, in turns; its answers are compared with PyTorch's first, to find one that
    is broken. Weights and the images that int8 is calibrated on are random: speed is measured, accuracy is not. Beside
    them native loops measure what the processor can do at most, in each precision: an engine's share of the peak is its
    multiply-adds a second over that. Memory is what its process grew by for the network. Throughput mode, which runs
    the images of a batch side by side, needs a batch.

    With --train a run is one update by SGD with momentum on one batch of drawn images in memory: of the loop of
    `depthwise train`, with and without recompute=true, and of a plain loop in PyTorch, eager and under torch.compile,
    on the same architecture of timm or torchvision; where they do not have it with these arguments, on the same
    network without native kernels. The multiply-adds are those of the forward pass and of the gradients of maps and
    weights, each as many, without the images' gradient, which nobody needs, and without what is computed a second
    time. Memory is the most that the process grew by during an update.

    Example: depthwise bench mobilenet_v2 --batch 16
    Example: depthwise bench xception --train --precision bf16
    """
    kind: Kind = "training" if train else "inference"
    sweeps = dict(_values(text) for text in sweep or [])
    for file in filter(None, (out, chart)):
        check_free(file, force)
    document = _document(
        kind,
        find_subject(name, size, None, settings or []),
        batch or BATCH[kind],
        threads,
        sweeps,
        rounds or ROUNDS[kind],
        _chosen(kind, engines, precision),
    )
    if out:
        from depthwise.train.files import write_json

        write_json(out, document)
    if chart:
        from depthwise.bench.chart import write_chart

        write_chart(document, chart)
    if json:
        print_json(document)
        return
    for key in sweeps:
        _print_sweep(document, key)
    if not sweeps:
        _print_run(document, document["runs"][0])


def _document(
    kind: Kind,
    subject: Subject,
    batch: int,
    threads: int | None,
    sweeps: dict[str, list[int]],
    rounds: int,
    engines: list[str],
) -> dict[str, Any]:
    """All that is measured, and on what; `macs` are those of an image."""
    import torch

    from depthwise.analysis.cost import multiply_adds, training_multiply_adds
    from depthwise.bench import peer
    from depthwise.bench.machine import machine

    if subject.layer:
        raise UsageError(f"{subject.name} is a kind of layer: give a network")
    cores = os.cpu_count() or 1
    if (most := max([threads or 1, *sweeps.get("threads", [])])) > cores:
        raise UsageError(
            f"{most} threads are more than this machine's {number_of(cores, 'core')}, on which they would only wait "
            f"for each other: give at most {cores}"
        )
    module, shape = build_subject(subject)
    macs = multiply_adds(module, shape) if kind == "inference" else training_multiply_adds(module, shape)
    threads = threads or torch.get_num_threads()
    runs = _measure(kind, subject, shape, _points(batch, threads, sweeps), engines, rounds)
    return {
        "kind": kind,
        "peer": peer(subject.name, subject.arguments).title if kind == "training" else "",
        "network": subject.name,
        "arguments": subject.arguments,
        "image": list(shape),
        "macs": macs,
        "batch": batch,
        "threads": threads,
        "sweeps": sweeps,
        "rounds": rounds,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "runs": [run.to_json(macs) for run in runs],
    }


def _values(text: str) -> tuple[str, list[int]]:
    """The key and the numbers that `text`, key=number,number,..., gives."""
    key, _, listed = text.partition("=")
    if key not in SWEEPS:
        raise unknown_name("sweep", key, SWEEPS)
    values = listed.split(",")
    if not all(re.fullmatch("[1-9][0-9]{0,8}", value) for value in values):
        raise UsageError(f"--sweep {shown(text)}: give numbers from 1 on, for example {key}=1,2,4")
    return key, [fit(int(value), SWEEPS[key], f"--sweep {key}", 4) for value in dict.fromkeys(values)]


def _points(batch: int, threads: int, sweeps: dict[str, list[int]]) -> list[tuple[int, int]]:
    """The batch sizes and numbers of threads to measure: each sweep leaves the other at its own value."""
    points = [(each, threads) for each in sweeps.get("batch", [])]
    points += [(batch, each) for each in sweeps.get("threads", [])]
    return list(dict.fromkeys(points)) or [(batch, threads)]


def _chosen(kind: Kind, engines: list[str] | None, precision: Sequence[str] | None) -> list[str]:
    """The engines of these precisions; those that nobody knows are left to be refused."""
    from depthwise.bench import ENGINES, LOOPS

    tables: dict[str, Mapping[str, Any]] = {"inference": ENGINES, "training": LOOPS}
    known = tables[kind]
    chosen = [
        engine
        for engine in engines or known
        if not precision or engine not in known or known[engine].precision in precision
    ]
    if not chosen:
        asked = " and ".join(precision or [])
        raise UsageError(
            f"--precision {asked}: no engine that is asked for has it: give another or leave it out"
        )
    return chosen


def _measure(
    kind: Kind,
    subject: Subject,
    shape: tuple[int, ...],
    points: list[tuple[int, int]],
    engines: list[str],
    rounds: int,
) -> "list[Comparison]":
    from depthwise.bench import bench, bench_training

    measured = {"inference": bench, "training": bench_training}[kind]
    with counting("timing") as progress:
        return [
            measured(
                subject.name,
                subject.arguments,
                (batch, *shape),
                engines=engines,
                threads=threads,
                rounds=rounds,
                progress=partial(_count, progress, number, len(points)),
            )
            for number, (batch, threads) in enumerate(points)
        ]


def _count(progress: Callable[[int, int], None], number: int, points: int, done: int, total: int) -> None:
    """Progress in one of the points as progress in all of them."""
    progress(number * total + done, points * total)


def _title(document: dict[str, Any], batch: int | str, threads: int | str) -> str:
    shape = "x".join(map(str, (batch, *document["image"])))
    turns = number_of(document["rounds"], "round")
    many = number_of(threads, "thread") if isinstance(threads, int) else f"{threads} threads"
    what = "training " if document["kind"] == "training" else ""
    return f"{what}{document['network']}, {shape}, {many}, {turns}"


def _print_run(document: dict[str, Any], run: dict[str, Any]) -> None:
    own = ("steps/s", "third loss") if document["kind"] == "training" else ("error",)
    numbers = ("ms", "p10", "images/s", "GMAC/s", "of the peak", "memory, MB", *own)
    last = "ours is as fast by"
    result = table(
        "engine", *numbers, last, right=(*numbers, last), title=_title(document, run["batch"], run["threads"])
    )
    for row in sorted(run["engines"], key=lambda row: row.get("milliseconds", float("inf"))):
        if "absent" in row:
            result.add_row(row["engine"], *[""] * len(numbers), f"left out: {row['absent']}")
            continue
        ratio = ""
        if "ours" in row:
            said = "too noisy" if row["ours"] is None else f"{row['ours']:.2f}"
            ratio = f"{said} ({row['ours_lowest']:.2f} to {row['ours_highest']:.2f})"
        result.add_row(
            row["engine"],
            f"{row['milliseconds']:.2f}",
            f"{row['p10']:.2f}",
            f"{row['images_per_second']:.1f}",
            f"{row['gmacs_per_second']:.0f}",
            "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}",
            "" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}",
            *_own(row),
            ratio,
        )
    console().print(result)
    if document["peer"]:
        say(f"pytorch and torch.compile train {document['peer']}")
    if _noisy(run):
        say("too noisy: the rounds are too far apart to say more, measure again on a quiet machine")
    peaks = [f"{name} {rate:.0f}" for name, rate in run["peak_gmacs_per_second"].items()]
    if peaks:
        memory = run["memory_gb_per_second"]
        say(f"measured peak, GMAC/s: {', '.join(peaks)}; memory is read at {memory:.0f} GB/s")


def _noisy(run: dict[str, Any]) -> bool:
    """Whether there is a ratio that its rounds contradict."""
    return any("ours" in row and row["ours"] is None for row in run["engines"])


def _own(row: dict[str, Any]) -> tuple[str, ...]:
    """What is said of a training alone, or of answers alone."""
    if "losses" in row:
        return f"{row['steps_per_second']:.2f}", f"{row['losses'][-1]:.4f}"
    return (f"{row['error']:.0e}",)


def _print_sweep(document: dict[str, Any], key: str) -> None:
    """Images a second, a column for each value of the sweep."""
    from depthwise.bench import swept

    runs = swept(document, key)
    values = {**{name: document[name] for name in SWEEPS}, key: "N"}
    columns = [f"{key} {run[key]}" for run in runs]
    title = f"{_title(document, **values)}: images/s"
    result = table("engine", *columns, right=tuple(columns), title=title)
    for rows in zip(*(run["engines"] for run in runs), strict=True):
        cells = [f"{row['images_per_second']:.1f}" if "milliseconds" in row else "" for row in rows]
        if any(cells):
            result.add_row(rows[0]["engine"], *cells)
    console().print(result)
    if noisy := [str(run[key]) for run in runs if _noisy(run)]:
        say(
            f"too noisy: {key} {', '.join(noisy)}, where the rounds are far apart: measure again on a quiet machine"
        )
    if document["peer"]:
        say(f"pytorch and torch.compile train {document['peer']}")
    for engine, reason in {
        row["engine"]: row["absent"] for run in runs for row in run["engines"] if "absent" in row
    }.items():
        say(f"{engine} left out: {reason}")
