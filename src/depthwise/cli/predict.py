"""`depthwise predict`: classes and probabilities for files, folders, patterns and standard input."""

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from cyclopts import Parameter

from depthwise.bounds import Bounds
from depthwise.cli import answers as forms
from depthwise.cli.answers import Result
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
    decoding,
    flag,
)
from depthwise.cli.output import note
from depthwise.errors import UsageError
from depthwise.places import find_bundle
from depthwise.reading import read_bounded
from depthwise.words import inert, number_of, printable
from depthwise.writing import check_free, written_whole

if TYPE_CHECKING:
    from depthwise.data import BadImage, Columns
    from depthwise.data.image import Decoding
    from depthwise.infer import Prediction, Predictor


A = TypeVar("A")

SUFFIXES = (".csv", ".json", ".jsonl")


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
            help="Write the answers here instead: FILE.csv, FILE.json or FILE.jsonl, a line an image; --json prints "
            "them as well."
        ),
    ] = None,
    cam: Annotated[
        Path | None,
        Parameter(
            help="A folder for a PNG of each picture, where the network looked for the likeliest class laid over it."
        ),
    ] = None,
    force: Annotated[
        bool, flag("Replace the file that --out names, and write to a folder for --cam that has files.")
    ] = False,
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
    if json and as_csv:
        raise UsageError("--json and --csv exclude each other: give one of them")
    if as_csv and out is not None:
        raise UsageError(
            "--csv prints, and --out writes a file instead: leave --csv out, and name FILE.csv for CSV"
        )
    if image.count(STANDARD_INPUT) > 1:
        raise UsageError("standard input (-) is named twice: it holds one image")
    if out is not None:
        _check_out(out, force)
    find_bundle(bundle)  # before anything heavy is imported
    reading = decoding(max_pixels, allow_truncated)
    pictures = expand(image, reading, columns_of(path_column, image_root))
    from depthwise.ship.load import load

    sources = sources_of(pictures)
    predictor = load(bundle, engine=engine, precision=precision, decoding=reading)
    names = [picture.name for picture in pictures]
    stream = predictor.stream if cam is None else _with_overlays(predictor, names, sources, cam, force)
    answers = answers_of(stream, sources, topk=topk, threshold=threshold, batch_size=batch_size)
    results = _results(names, answers)
    spell = str if exact else inert
    if out is not None:
        kept = list(results) if json else results
        num_bad = _write(out, kept, spell)
        note(f"{number_of(len(pictures), 'image')} in {out}")
        results = iter(kept)
    if json:
        num_bad = forms.as_json(results, sys.stdout.write)
    elif as_csv:
        shown = (lambda text: printable(spell(text))) if sys.stdout.isatty() else spell
        num_bad = forms.as_csv(results, sys.stdout.write, shown)
    elif out is None:
        num_bad = forms.as_table(results, threshold)
    if num_bad:
        where = "" if out is None else f", the reasons are in {out}"
        note(f"{num_bad} of {number_of(len(pictures), 'image')} could not be read{where}")
    return 1 if num_bad else 0


def _check_out(out: Path, force: bool) -> None:
    """Before anything is read."""
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{out} ends in none of {', '.join(SUFFIXES)}, which are what is written: name it {out.stem}.csv, for "
            f"example"
        )
    check_free(out, force)


def _write(out: Path, results: Iterable[Result], spell: Callable[[str], str]) -> int:
    with written_whole(out) as file:

        def write(text: str) -> None:
            file.write(text.encode(errors="surrogateescape"))

        match out.suffix.lower():
            case ".csv":
                return forms.as_csv(results, write, spell)
            case ".json":
                return forms.as_json(results, write)
            case _:
                return forms.as_json_lines(results, write)


class Picture(NamedTuple):
    """An image and what a person calls it: a path, a function that gives it when its turn has come, or why there is
    none."""

    name: str
    image: "str | Callable[[], bytes] | BadImage"


def expand(
    arguments: list[str], reading: "Decoding | None" = None, columns: "Columns | None" = None
) -> list[Picture]:
    """The images that the command's arguments mean, in order: folders and patterns replaced by their files, shards and
    manifests by their images.

    reading: how a manifest's files are looked over; columns: where it has their paths. A file that does not exist
    stays in the list, to be reported among the others. Raises UsageError for a folder or a pattern without images.
    """
    from depthwise.data.sources.listing import images_below

    pictures: list[Picture] = []
    for argument in arguments:
        if argument != STANDARD_INPUT and _is_table(Path(argument)):
            pictures += _pictures_of(argument, reading, columns)
            continue
        if os.path.isdir(argument):
            found = images_below(argument)
        elif argument != STANDARD_INPUT and not os.path.lexists(argument) and glob.has_magic(argument):
            found = [
                name
                for match in _matches(argument)
                for name in (images_below(match) if os.path.isdir(match) else [match])
            ]
        else:
            found = [argument]
        if not found:
            raise UsageError(
                f"{argument!r} holds no image: name an image file, or a folder or a pattern with some"
            )
        pictures += (Picture("-" if name == STANDARD_INPUT else name, name) for name in found)
    return pictures


def columns_of(path_column: str | None, image_root: Path | None) -> "Columns | None":
    if path_column is None and image_root is None:
        return None
    from depthwise.data import Columns

    return Columns(path_column=path_column, image_root=None if image_root is None else str(image_root))


def _is_table(path: Path) -> bool:
    """Whether it is shards, or a manifest."""
    from depthwise.data.sources.manifest import SUFFIXES as TABLES
    from depthwise.data.sources.shard_manifest import is_shards

    return is_shards(path) if path.is_dir() else path.suffix.lower() in TABLES and path.is_file()


def _pictures_of(spec: str, reading: "Decoding | None", columns: "Columns | None") -> list[Picture]:
    """The images of a data set, labelled or not, in its order, and after them what of it cannot be read."""
    from depthwise.data.dataset import encoded
    from depthwise.data.image import DEFAULT
    from depthwise.data.sources.open import open_images

    found = open_images(spec, decoding=reading or DEFAULT, columns=columns)
    for text in found.notes:
        note(text)
    images = [
        Picture(split.name(index), partial(encoded, split, index))
        for split in found.splits.values()
        for index in range(len(split))
    ]
    return images + [Picture(bad.path, bad) for bad in found.bad]


def _matches(pattern: str) -> list[str]:
    """What `pattern` means, without what training would pass over, unless the pattern itself has its name."""
    from depthwise.data.sources.listing import passed_over

    named = set(Path(pattern).parts)
    return sorted(
        match
        for match in glob.glob(pattern, recursive=True)
        if not any(passed_over(part) for part in Path(match).parts if part not in named)
    )


def sources_of(pictures: Sequence[Picture]) -> "list[str | bytes | Callable[[], bytes] | BadImage]":
    """What is read for each picture; standard input is read now."""
    return [_standard_input() if picture.image == STANDARD_INPUT else picture.image for picture in pictures]


def _standard_input() -> "bytes | BadImage":
    from depthwise.data import BadImage

    if sys.stdin is None:
        return BadImage("-", "standard input is closed")
    if sys.stdin.isatty():
        raise UsageError("- reads an image from standard input, and that is the terminal: pipe one in")
    try:
        return read_bounded(sys.stdin.buffer, "-")
    except OSError as error:
        return BadImage("-", error.strerror or str(error))


def _with_overlays(
    predictor: "Predictor", names: Sequence[str], sources: Sequence[Any], folder: Path, force: bool
) -> "Callable[..., Iterator[Prediction | BadImage]]":
    """What `predictor.stream` does, leaving an overlay of each picture in `folder`."""
    from depthwise.data import BadImage
    from depthwise.ship.overlays import check_folder, overlay_files, predict_with_overlays

    check_folder(folder, force)
    files = zip(overlay_files(folder, names), sources, strict=True)
    readable = [file for file, source in files if not isinstance(source, BadImage)]
    return lambda images, **options: predict_with_overlays(predictor, images, readable, **options)


def answers_of(
    stream: "Callable[..., Iterator[A | BadImage]]",
    sources: "Sequence[str | bytes | Callable[[], bytes] | BadImage]",
    **options: Any,
) -> "Iterator[A | BadImage]":
    """What `stream` gives for those of the `sources` that are images, in the order of all."""
    from depthwise.data import BadImage

    images = [source for source in sources if not isinstance(source, BadImage)]
    answers = stream(images, **options)
    for source in sources:
        yield source if isinstance(source, BadImage) else next(answers)


def _results(names: list[str], answers: "Iterable[Prediction | BadImage]") -> Iterator[Result]:
    from depthwise.data import BadImage

    for name, answer in zip(names, answers, strict=True):
        yield (name, None, answer.reason) if isinstance(answer, BadImage) else (name, answer, "")
