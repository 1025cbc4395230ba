"""`depthwise compile`: the fast form of a trained network for this kind of machine."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from depthwise.cli.evaluate import open_part
from depthwise.cli.options import BundlePath, Json, flag
from depthwise.cli.output import console, print_json, printable, table


def compile(
    bundle: BundlePath,
    /,
    *,
    precision: Annotated[
        Literal["fp32", "bf16"], Parameter(help="fp32: the same answers; bf16: half the memory, and faster.")
    ] = "fp32",
    engine: Annotated[
        Literal["auto", "native", "openvino", "onnxruntime", "torch"],
        Parameter(
            help="auto: the native kernels, or for a network that they cannot run the fastest of the others."
        ),
    ] = "auto",
    out: Annotated[Path, Parameter(help="The bundle folder to write.")],
    data: Annotated[
        str | None,
        Parameter(
            help="Measure the accuracy before and after on this: a folder of images, digits or fashion-mnist."
        ),
    ] = None,
    workers: Annotated[int, Parameter(help="Processes that read image files.")] = 2,
    allow_drop: Annotated[bool, flag("Accept a loss of over half a point of accuracy.")] = False,
    force: Annotated[bool, flag("Replace the bundle that --out names.")] = False,
    json: Json = False,
) -> None:
    """Make a bundle that the native kernels run: batch norms folded, weights packed, one plan for the whole network.

    The new bundle is used as any other: predict, eval. Its answers are compared with the original's before it is
    written.

    Example: depthwise compile runs/first --precision bf16 --out fast --data photos/
    """
    from depthwise.bundle import read_bundle
    from depthwise.compiling import compile_bundle

    split = None
    if data is not None:
        _, _, split = open_part(data, read_bundle(bundle).config, None, workers)
    result = compile_bundle(
        bundle,
        out,
        precision=precision,
        engine=engine,
        split=split,
        workers=workers,
        allow_drop=allow_drop,
        overwrite=force,
    )
    if json:
        print_json({"out": str(out), **result.to_json()})
        return
    rows = table("", printable(str(out)), right=(printable(str(out)),))
    rows.add_row("precision", result.precision)
    rows.add_row("engine", result.engine)
    rows.add_row("one image", f"{result.milliseconds:.2f} ms, {result.speedup:.2f}x as fast as on PyTorch")
    rows.add_row("largest difference of a logit", f"{result.error:.1e} of the largest")
    if result.accuracy is not None and result.agreement is not None:
        before, after = result.accuracy
        rows.add_row(f"top-1 on {result.num_images:,} images", f"{before:.2%} before, {after:.2%} after")
        rows.add_row("same answer", f"{result.agreement:.2%}")
    console().print(rows)
