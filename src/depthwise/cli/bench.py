"""`depthwise bench`: the compiled network and the general engines on this machine."""

from typing import Annotated

from cyclopts import Parameter

from depthwise.cli.options import Json
from depthwise.cli.output import console, counting, print_json, printable, table
from depthwise.cli.subject import Settings, Size, build_subject, find_subject
from depthwise.errors import UsageError


def bench(
    name: Annotated[
        str, Parameter(help="A network of the catalogue, or a bundle for its shape.")
    ] = "xception",
    /,
    *,
    size: Size = None,
    batch: Annotated[int, Parameter(help="Images at a time.")] = 1,
    threads: Annotated[int | None, Parameter(help="Of each engine; all cores by default.")] = None,
    rounds: Annotated[int, Parameter(help="How often each engine has its turn.")] = 20,
    engines: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            consume_multiple=True,
            help="Only these, by their names in the table; all by default.",
        ),
    ] = None,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Time the native kernels against PyTorch, torch.compile, ONNX Runtime and OpenVINO, as far as they are installed.

    Each engine runs in a process of its own, in turns; its answers are compared with PyTorch's first. The weights are
    random: they do not change the time.

    Example: depthwise bench mobilenet_v2 --batch 16
    """
    if batch < 1 or rounds < 2 or (threads is not None and threads < 1):
        raise UsageError(f"batch {batch}, rounds {rounds} and threads {threads}: give at least 1, 2 and 1")
    import torch

    from depthwise.bench import ENGINES, bench
    from depthwise.cost import cost

    subject = find_subject(name, size, None, settings or [])
    if subject.layer:
        raise UsageError(f"{name} is a kind of layer: give a network")
    module, shape = build_subject(subject)
    threads = threads or torch.get_num_threads()
    with counting("timing") as progress:
        results = bench(
            subject.name,
            subject.arguments,
            (batch, *shape),
            engines=engines or list(ENGINES),
            threads=threads,
            rounds=rounds,
            progress=progress,
        )
    best = {
        result.precision: result
        for result in results
        if result.engine.startswith("depthwise ") and result.seconds
    }
    rows = [result.to_json(batch, best.get(result.precision)) for result in results]
    macs = batch * cost(module, shape).macs
    if json:
        document = {"network": subject.name, "shape": [batch, *shape], "threads": threads, "rounds": rounds}
        print_json({**document, "macs": macs, "engines": rows})
        return
    numbers = ("ms", "p10", "images/s", "GMAC/s", "largest difference", "ours is as fast by")
    title = f"{subject.name}, {'x'.join(map(str, (batch, *shape)))}, {threads} threads, {rounds} rounds"
    result = table("engine", *numbers, right=numbers, title=title)
    for row in sorted(rows, key=lambda row: row.get("milliseconds", float("inf"))):
        if "absent" in row:
            result.add_row(row["engine"], *[""] * 5, printable(f"left out: {row['absent']}"))
            continue
        ratio = (
            f"{row['ours']:.2f} ({row['ours_lowest']:.2f} to {row['ours_highest']:.2f})"
            if "ours" in row
            else ""
        )
        result.add_row(
            row["engine"],
            f"{row['milliseconds']:.2f}",
            f"{row['p10']:.2f}",
            f"{row['images_per_second']:.1f}",
            f"{macs / row['milliseconds'] / 1e6:.0f}",
            f"{row['error']:.0e}",
            ratio,
        )
    console().print(result)
