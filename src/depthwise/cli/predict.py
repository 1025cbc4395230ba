"""`depthwise predict`: classes and probabilities for files, folders, patterns, shards and standard input."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter

from depthwise.batch import forms
from depthwise.batch.forms import Document
from depthwise.bounds import Bounds
from depthwise.cli.answers import as_table
from depthwise.cli.manifest import ImageRoot, PathColumn
from depthwise.cli.options import (
    STANDARD_INPUT,
    AllowTruncated,
    BatchSize,
    BundlePath,
    EngineOption,
    Json,
    MaxPixels,
    PrecisionOption,
    RayAddress,
    decoding,
    flag,
)
from depthwise.cli.output import counting, note, print_json
from depthwise.cli.pictures import answers_of, columns_of, find
from depthwise.errors import UsageError
from depthwise.places import find_bundle
from depthwise.words import inert, number_of, printable
from depthwise.writing import check_free, written_whole

if TYPE_CHECKING:
    from depthwise.batch.kept import Kept
    from depthwise.batch.pictures import Picture, Pictures
    from depthwise.batch.run import Carry
    from depthwise.batch.work import Asked
    from depthwise.data import BadImage
    from depthwise.infer import Prediction, Predictor


def predict(
    bundle: BundlePath,
    image: Annotated[
        list[str],
        Parameter(
            negative="",
            help="Image files, folders (with their subfolders), quoted patterns such as 'photos/*.jpg', shards, "
            "manifests, or - for one image on standard input.",
        ),
    ],
    /,
    *,
    topk: Annotated[
        int | None,
        Bounds(1, 1_000_000),
        Parameter(
            help="How many classes to name for each image, at most; by default 5 where each is of one class, and of "
            "any number of labels those that reach their thresholds."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        Bounds(0, 1),
        Parameter(help="Name only classes of at least this probability, from 0 to 1; maybe none."),
    ] = None,
    batch_size: BatchSize = 32,
    out: Annotated[
        Path | None,
        Parameter(
            help="Write the answers here instead: FILE.csv, FILE.json, FILE.jsonl or FILE.parquet, or without a suffix "
            "a folder, in it a file for each shard or for every 1,000 images. Stopped or killed, the same command goes "
            "on. --json prints them as well, of a folder how many they are."
        ),
    ] = None,
    form: Annotated[
        Literal["jsonl", "csv", "parquet"] | None,
        Parameter(help="Of the files in a folder that --out names [default: jsonl]."),
    ] = None,
    cam: Annotated[
        Path | None,
        Parameter(
            help="A folder for a PNG of each picture, where the network looked for the likeliest class laid over it."
        ),
    ] = None,
    force: Annotated[
        bool, flag("Replace what --out names, and write to a folder for --cam that has files.")
    ] = False,
    ray: RayAddress = None,
    jobs: Annotated[
        int | None,
        Bounds(1, 65536),
        Parameter(help="With --ray: pieces at once, each on one CPU [default: as many as there are CPUs]."),
    ] = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    path_column: PathColumn = None,
    image_root: ImageRoot = None,
    max_pixels: MaxPixels = None,
    allow_truncated: AllowTruncated = False,
    json: Json = False,
    as_csv: Annotated[bool, flag("Print one line for each image and class.", name="--csv")] = False,
    exact: Annotated[
        bool,
        flag(
            "In CSV, leave a name that begins as a formula does (=, +, -, @) as it is; by default an apostrophe before "
            "it keeps spreadsheets from running it."
        ),
    ] = False,
) -> int:
    """Say what is on images: the likeliest classes and their probabilities.

    An image that cannot be read is named with its reason, the others are answered, and the exit code is 1.

    Example: depthwise predict runs/first holiday/ 'scans/*.png' --topk 3
    """
    _check_forms(image, out, json, as_csv)
    _check_pieces(out, form, ray, jobs, cam)
    if out is not None:
        _check_out(out, force)
    find_bundle(bundle)  # before anything heavy is imported
    reading = decoding(max_pixels, allow_truncated)
    found = find(image, reading, columns_of(path_column, image_root))
    total = sum(map(len, found))
    options: dict[str, Any] = {"topk": topk, "threshold": threshold, "batch_size": batch_size}
    how: dict[str, Any] = {"engine": engine, "precision": precision, "decoding": reading}
    if out is None or cam is not None:
        documents = _documents(bundle, found, cam, force, how, options)
        shown = Shown(out, json, as_csv, str if exact else inert, threshold)
        num_bad = _print(documents, shown)
        if out is not None:
            note(f"{number_of(total, 'image')} in {out}")
    else:
        from depthwise.batch.work import asked_of

        asked = asked_of(bundle, total, form=form or "jsonl", exact=exact, **how, **options)
        num_bad = _write(asked, found, out, force, _carry(ray, jobs), json)
    if num_bad:
        where = "" if out is None else f", the reasons are in {out}"
        note(f"{num_bad} of {number_of(total, 'image')} could not be read{where}")
    return 1 if num_bad else 0


def _check_forms(image: Sequence[str], out: Path | None, json: bool, as_csv: bool) -> None:
    if json and as_csv:
        raise UsageError("--json and --csv exclude each other: give one of them")
    if as_csv and out is not None:
        raise UsageError(
            "--csv prints, and --out writes a file instead: leave --csv out, and name FILE.csv for CSV"
        )
    if image.count(STANDARD_INPUT) > 1:
        raise UsageError("standard input (-) is named twice: it holds one image")


def _check_pieces(
    out: Path | None, form: str | None, ray: str | None, jobs: int | None, cam: Path | None
) -> None:
    if ray is not None and out is None:
        raise UsageError("--ray answers into files: name them with --out")
    if jobs is not None and ray is None:
        raise UsageError("--jobs says how many pieces a cluster answers at once: name the cluster with --ray")
    if form is not None and (out is None or not _is_folder(out)):
        raise UsageError("--form is for a folder of answers: name one with --out, without a suffix")
    if cam is not None and (ray is not None or (out is not None and _is_folder(out))):
        raise UsageError("--cam makes pictures here, as images come: leave out --ray, and give --out a file")


def _check_out(out: Path, force: bool) -> None:
    """Before anything is read."""
    if _is_folder(out):
        return
    if out.suffix.lower() not in forms.FOR_FILES:
        raise UsageError(
            f"{out} ends in none of {', '.join(forms.FOR_FILES)}, which are what is written: name it {out.stem}.csv, "
            f"for example, or without a suffix for a folder"
        )
    check_free(out, force)


def _is_folder(out: Path) -> bool:
    return not out.suffix or (out.is_dir() and out.suffix.lower() not in forms.FOR_FILES)


class Shown(NamedTuple):
    """How answers are shown: in a file `out`, as JSON, CSV or a table. spell: a cell of text in CSV."""

    out: Path | None
    json: bool
    as_csv: bool
    spell: Callable[[str], str]
    threshold: float | None


def _print(documents: Iterator[Document], how: Shown) -> int:
    """Show the answers as they come; returns how many images have none."""
    num_bad = 0

    def counted() -> Iterator[Document]:
        nonlocal num_bad
        for each in documents:
            num_bad += "error" in each
            yield each

    shown: Iterable[Document] = counted()
    if how.out is not None:
        shown = list(shown) if how.json else shown
        with written_whole(how.out) as file:
            forms.write_as(how.out.suffix.lower().lstrip("."), shown, file, how.spell)
    if how.json:
        forms.as_json(shown, sys.stdout.write)
    elif how.as_csv:
        spell = how.spell
        forms.as_csv(
            shown, sys.stdout.write, (lambda text: printable(spell(text))) if sys.stdout.isatty() else spell
        )
    elif how.out is None:
        as_table(shown, how.threshold)
    return num_bad


def _write(
    asked: "Asked", found: "Sequence[Pictures]", out: Path, force: bool, carry: "Carry", json: bool
) -> int:
    """How many images there is no answer for."""
    from depthwise.batch.kept import kept_in
    from depthwise.batch.pieces import cut
    from depthwise.batch.run import answer_all, documents_in, hidden_for, joined

    is_file = not _is_folder(out)
    folder = hidden_for(out) if is_file else out
    pieces, digests = cut(found), [pictures.digest for pictures in found]
    with kept_in(folder, asked, pieces, digests, afresh=force and not is_file, hidden=is_file) as kept:
        _say_found(kept)
        with counting("images") as progress:
            num_bad = answer_all(kept, found, carry, progress)
        total = number_of(sum(map(len, pieces)), "image")
        if is_file:
            documents = list(documents_in(kept)) if json else documents_in(kept)
            joined(kept, out, documents)
            note(f"{total} in {out}")
            if json:
                forms.as_json(documents, sys.stdout.write)
            return num_bad
        note(f"{total} in {number_of(len(pieces), 'file')} in {out}")
        if json:
            files = {kept.file(piece).name: len(piece) for piece in pieces}
            print_json(
                {"out": str(out), "images": sum(files.values()), "unreadable": num_bad, "files": files}
            )
        return num_bad


def _say_found(kept: "Kept") -> None:
    if done := len(kept.num_bad):
        note(f"{done:,} of {number_of(len(kept.pieces), 'piece')} answered already, and taken as they are")


def _carry(ray: str | None, jobs: int | None) -> "Carry":
    if ray is None:
        from depthwise.batch.run import here

        return here
    from depthwise.cluster.answers import on_cluster

    return on_cluster(ray, jobs, note)


def _documents(
    bundle: str,
    found: "Sequence[Pictures]",
    cam: Path | None,
    force: bool,
    how: dict[str, Any],
    options: dict[str, Any],
) -> Iterator[Document]:
    """Of each image, as it is answered."""
    from depthwise.batch.pictures import each_of
    from depthwise.ship.load import load

    predictor, pictures = load(bundle, **how), list(each_of(found))
    stream = predictor.stream if cam is None else _with_overlays(predictor, pictures, cam, force)
    for picture, answer in zip(pictures, answers_of(stream, pictures, **options), strict=True):
        yield forms.document(picture.name, answer)


def _with_overlays(
    predictor: "Predictor", pictures: "Sequence[Picture]", folder: Path, force: bool
) -> "Callable[..., Iterator[Prediction | BadImage]]":
    """What `predictor.stream` does, leaving an overlay of each picture in `folder`."""
    from depthwise.data import BadImage
    from depthwise.ship.overlays import check_folder, overlay_files, predict_with_overlays

    check_folder(folder, force)
    files = zip(overlay_files(folder, [picture.name for picture in pictures]), pictures, strict=True)
    readable = [file for file, picture in files if not isinstance(picture.image, BadImage)]
    return lambda images, **options: predict_with_overlays(predictor, images, readable, **options)
