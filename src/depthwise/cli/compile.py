"""`depthwise compile`: the fast form of a trained network for this kind of machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from depthwise.cli.options import BundlePath, IgnoreUnknown, Json, Workers, flag
from depthwise.cli.output import console, print_json, showing, table
from depthwise.places import find_bundle, locate
from depthwise.words import number_of

if TYPE_CHECKING:
    from rich.table import Table

    from depthwise.ship.compiling import Compiled

SHOWN_LAYERS = 5


def compile(
    bundle: BundlePath,
    /,
    *,
    precision: Annotated[
        Literal["fp32", "bf16", "int8"],
        Parameter(
            help="fp32: the same answers; bf16: half the memory, and faster; int8: products in bytes, calibrated; a "
            "network that the native kernels cannot run is in bf16 or fp32 then."
        ),
    ] = "fp32",
    engine: Annotated[
        Literal["auto", "fastest", "native", "openvino", "onnxruntime", "torch"],
        Parameter(
            help="auto: the native kernels, or for a network that they cannot run the fastest of the others; fastest: "
            "of all that are installed."
        ),
    ] = "auto",
    out: Annotated[Path, Parameter(help="The bundle folder to write.")],
    data: Annotated[
        str | None,
        Parameter(
            help="Measure before and after what the network is worth on this: a folder of images, a manifest, shards, "
            "digits or fashion-mnist."
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        Parameter(
            help="Images that int8 is read off, of which no labels are needed; the training part of --data by default."
        ),
    ] = None,
    ignore_unknown: IgnoreUnknown = False,
    workers: Workers = 2,
    allow_drop: Annotated[bool, flag("Accept a loss of over half a point of accuracy.")] = False,
    force: Annotated[bool, flag("Replace the bundle that --out names.")] = False,
    json: Json = False,
) -> None:
    """Make a bundle that runs faster: batch norms folded, weights packed, the whole network one plan of native kernels.

    The new bundle is used as any other: predict, eval. Its answers are compared with the original's before it is
    written.

    Example: depthwise compile runs/first --precision bf16 --out fast --data photos/
    """
    find_bundle(bundle)  # before anything heavy is imported
    for spec in filter(None, (data, calibrate)):
        locate(spec)
    from depthwise.ship.compiling import compile_for

    result = compile_for(
        bundle,
        out,
        precision=precision,
        engine=engine,
        data=data,
        calibrate=calibrate,
        ignore_unknown=ignore_unknown,
        workers=workers,
        allow_drop=allow_drop,
        force=force,
        showing=showing(),
    )
    if json:
        print_json({"out": str(out), **result.to_json()})
        return
    _print(result)


def _print(result: "Compiled") -> None:
    rows = table("", str(result.out), right=(str(result.out),))
    instead = f", for {result.asked} is for native plans alone" if result.asked else ""
    rows.add_row("precision", result.precision + instead)
    rows.add_row("engine", result.engine)
    rows.add_row("one image", f"{result.milliseconds:.2f} ms, {_speed(result)}")
    rows.add_row("largest difference of a logit", f"{result.error:.1e} of the largest")
    if result.accuracy is not None and result.agreement is not None:
        before, after = result.accuracy
        rows.add_row(
            f"{result.headline} on {number_of(result.num_images, 'image')}",
            f"{before:.2%} before, {after:.2%} after",
        )
        rows.add_row("same answer", f"{result.agreement:.2%}")
    console().print(rows)
    if result.layers:
        console().print(_layers(result.layers))


def _speed(result: "Compiled") -> str:
    low, high = result.speedup_range
    if result.speedup is None:
        return (
            f"too noisy to compare with PyTorch ({low:.2f} to {high:.2f}x): measure again on a quiet machine"
        )
    return f"{result.speedup:.2f}x as fast as on PyTorch ({low:.2f} to {high:.2f})"


def _layers(layers: "tuple[dict[str, Any], ...]") -> "Table":
    """The convolutions with the largest errors, and all that stay in bfloat16."""
    ordered = sorted(layers, key=lambda layer: -layer["error"])
    shown = [layer for layer in ordered if layer["precision"] == "bf16"] + ordered[:SHOWN_LAYERS]
    in_int8 = sum(layer["precision"] == "int8" for layer in layers)
    title = f"{in_int8} of {len(layers)} convolutions in int8; largest errors"
    rows = table("convolution", "error", "precision", right=("error",), title=title)
    for layer in {layer["name"]: layer for layer in shown}.values():
        rows.add_row(layer["name"], f"{layer['error']:.2%}", layer["precision"])
    return rows
