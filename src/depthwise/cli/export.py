"""`depthwise export`: a trained network as a file for another runtime."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from depthwise.cli.options import BundlePath, Json, flag
from depthwise.cli.output import console, note, print_json, showing, table
from depthwise.places import find_bundle, locate, name_note
from depthwise.writing import check_free


def export(
    bundle: BundlePath,
    /,
    *,
    format: Annotated[
        Literal["onnx", "openvino", "torch"],
        Parameter(help="onnx: FILE.onnx; openvino: FILE.xml and FILE.bin; torch: torch.export's FILE.pt2."),
    ],
    out: Annotated[Path, Parameter(help="The file to write.")],
    data: Annotated[
        str | None,
        Parameter(
            help="Images to compare on: a folder (with its subfolders), a manifest, shards, digits or fashion-mnist; "
            "without it they are made up."
        ),
    ] = None,
    force: Annotated[bool, flag("Replace the file that --out names.")] = False,
    json: Json = False,
) -> None:
    """Write a network for another runtime, which must answer there as here before the file is left behind.

    It takes "images", normalised float32 [N, C, H, W] for any N, and gives "logits" [N, K], without a softmax.
    The preprocessing and the names of the classes are inside, as JSON under the key "depthwise".

    Example: depthwise export runs/first --format onnx --out digits.onnx --data digits
    """
    check_free(out, force)
    find_bundle(bundle)  # before anything heavy is imported
    if data is not None:
        locate(data)
    with console(stderr=True).status(f"exporting as {format}"):
        from depthwise.ship.exporting import export as write

        result = write(bundle, out=out, format=format, data=data, force=force, showing=showing())
    if data is not None and (text := name_note(data)):
        note(text)
    if data is None:
        note(f"compared on {result.num_images} made-up images: --data compares on real ones")
    if json:
        document = {**vars(result), "files": [str(file) for file in result.files], "data": data}
        print_json(document)
        return
    columns = ("size", "largest difference of a logit")
    rows = table("file", *columns, "runtime", right=columns)
    rows.add_row(
        " + ".join(map(str, result.files)),
        f"{result.num_bytes / 1e6:,.2f} MB",
        f"{result.error:.1e} of the largest",
        f"{result.runtime} {result.version}",
    )
    console().print(rows)
