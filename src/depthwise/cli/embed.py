"""`depthwise embed` and `depthwise similar`: features of images, and the images whose features are most alike."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from depthwise.bounds import Bounds
from depthwise.cli.manifest import ImageRoot, PathColumn
from depthwise.cli.options import (
    AllowTruncated,
    BatchSize,
    BundlePath,
    EngineOption,
    Json,
    MaxPixels,
    PrecisionOption,
    decoding,
    flag,
)
from depthwise.cli.output import console, counting, note, print_json, table
from depthwise.cli.pictures import answers_of, columns_of, expand
from depthwise.places import find_bundle
from depthwise.words import number_of
from depthwise.writing import check_free

if TYPE_CHECKING:
    import numpy as np

    from depthwise.data import BadImage
    from depthwise.embeddings.nearest import Neighbour

    Row = np.ndarray | BadImage
    Answer = tuple[str, Sequence[Neighbour], str]
    """A picture's name, the images most like it, and why it cannot be read, or ""."""

Sources = Annotated[
    list[str],
    Parameter(
        negative="",
        help="Image files, folders (with their subfolders), quoted patterns such as 'photos/*.jpg', shards, manifests, "
        "or - for one image on standard input.",
    ),
]


def embed(
    bundle: BundlePath,
    source: Sources,
    /,
    *,
    out: Annotated[
        Path, Parameter(help="FILE.parquet or FILE.npy: a row an image, its name and its features.")
    ],
    force: Annotated[bool, flag("Replace the file that --out names.")] = False,
    batch_size: BatchSize = 32,
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    path_column: PathColumn = None,
    image_root: ImageRoot = None,
    max_pixels: MaxPixels = None,
    allow_truncated: AllowTruncated = False,
    json: Json = False,
) -> int:
    """Write what the network's classifier reads of images, its pooled features, to a file: for `similar`, and for you.

    An image that cannot be read is named with its reason and has no row, and the exit code is 1.

    Example: depthwise embed runs/first holiday/ --out holiday.parquet
    """
    check_free(out, force)
    find_bundle(bundle)  # before anything heavy is imported
    reading = decoding(max_pixels, allow_truncated)
    pictures = expand(source, reading, columns_of(path_column, image_root))
    from depthwise.embeddings import files
    from depthwise.ship.load import load, weights_digest

    files.check_suffix(out)
    predictor = load(bundle, engine=engine, precision=precision, decoding=reading)
    with counting("embedding") as progress:
        rows = answers_of(predictor.feature_stream, pictures, batch_size=batch_size)
        shown = _told(rows, len(pictures), progress)
        bad = files.write(out, [picture.name for picture in pictures], shown, weights_digest(bundle))
    for each in bad:
        note(f"{each.path} cannot be read: {each.reason}")
    written = len(pictures) - len(bad)
    if json:
        unreadable = [{"image": each.path, "error": each.reason} for each in bad]
        print_json({"out": str(out), "images": written, "unreadable": unreadable})
    else:
        note(f"the features of {number_of(written, 'image')} are in {out}")
    return 1 if bad else 0


def similar(
    embeddings: Annotated[Path, Parameter(help="What `depthwise embed` has written.")],
    image: Sources,
    /,
    *,
    bundle: Annotated[str, Parameter(help="The bundle or run that the embeddings were made with.")],
    topk: Annotated[
        int, Bounds(1, 10_000), Parameter(help="How many images to name for each picture, at most.")
    ] = 5,
    out: Annotated[Path | None, Parameter(help="Write a page of pictures here as well.")] = None,
    force: Annotated[bool, flag("Replace the file that --out names.")] = False,
    source: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help="Where the page finds the pictures of images that are no files of their own: the shards or the "
            "manifest that were embedded.",
        ),
    ] = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    max_pixels: MaxPixels = None,
    allow_truncated: AllowTruncated = False,
    json: Json = False,
) -> int:
    """Name the images most like a picture, by the cosine between their features; the picture itself is left out.

    Example: depthwise similar holiday.parquet cat.jpg --bundle runs/first --out similar.html
    """
    if out is not None:
        check_free(out, force)
    find_bundle(bundle)  # before anything heavy is imported
    reading = decoding(max_pixels, allow_truncated)
    pictures = expand(image, reading)
    from depthwise.data import BadImage
    from depthwise.embeddings import files
    from depthwise.ship.alike import alike, check_same_network, write_page
    from depthwise.ship.load import load, weights_digest

    known = files.read(embeddings)
    check_same_network(known, weights_digest(bundle))
    predictor = load(bundle, engine=engine, precision=precision, decoding=reading)
    names = [picture.name for picture in pictures]
    found = alike(known, names, answers_of(predictor.feature_stream, pictures), topk)
    if out is not None:
        held: dict[str, Any] = {each.name: each.image for each in expand(source or [], reading)}
        shown = [
            (name, image, neighbours)
            for (name, image), neighbours in zip(pictures, found, strict=True)
            if not isinstance(neighbours, BadImage) and not isinstance(image, BadImage)
        ]
        write_page(out, shown, held, embeddings, predictor, ["depthwise", *sys.argv[1:]])
        note(f"the page is {out}")
    reasons = [each.reason if isinstance(each, BadImage) else "" for each in found]
    neighbours = [[] if isinstance(each, BadImage) else each for each in found]
    (_as_json if json else _as_table)(list(zip(names, neighbours, reasons, strict=True)))
    return 1 if any(reasons) else 0


def _told(rows: "Iterable[Row]", total: int, progress: Callable[[int, int], None]) -> "Iterator[Row]":
    for done, row in enumerate(rows, start=1):
        yield row
        progress(done, total)


def _as_json(found: "Sequence[Answer]") -> None:
    print_json(
        {
            "images": [
                {"image": name, "error": reason}
                if reason
                else {
                    "image": name,
                    "similar": [{"image": n.name, "likeness": n.likeness} for n in neighbours],
                }
                for name, neighbours, reason in found
            ]
        }
    )


def _as_table(found: "Sequence[Answer]") -> None:
    rows = table("image", "similar", "likeness", right=("likeness",))
    for name, neighbours, reason in found:
        if reason:
            rows.add_row(name, f"cannot be read: {reason}", "", style="red")
        elif not neighbours:
            rows.add_row(name, "there is no other image", "")
        for rank, (other, likeness) in enumerate(neighbours):
            rows.add_row("" if rank else name, other, f"{likeness:.3f}")
    console().print(rows)
