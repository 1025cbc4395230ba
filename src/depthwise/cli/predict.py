"""`depthwise predict`: classes and probabilities for files, folders, patterns and standard input."""

import csv
import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from depthwise.cli.options import STANDARD_INPUT, BundlePath, Json, flag
from depthwise.cli.output import console, note, print_json, printable, table
from depthwise.errors import UsageError
from depthwise.reading import read_bounded

if TYPE_CHECKING:
    from depthwise.data import BadImage
    from depthwise.infer import Prediction, Predictor


Results = Iterator[tuple[str, "Prediction | None", str]]
"""Of each image its name, and the answer or the reason why there is none."""


def predict(
    bundle: BundlePath,
    image: Annotated[
        list[str],
        Parameter(
            negative="",
            help="Image files, folders (with their subfolders), quoted patterns such as 'photos/*.jpg', "
            "or - for one image on standard input.",
        ),
    ],
    /,
    *,
    topk: Annotated[int, Parameter(help="How many classes to name for each image.")] = 5,
    batch_size: Annotated[int, Parameter(help="How many images go through the network at once.")] = 32,
    json: Json = False,
    as_csv: Annotated[bool, flag("Print one line for each image and class.", name="--csv")] = False,
) -> int:
    """Say what is on images: the likeliest classes and their probabilities.

    An image that cannot be read is named with its reason, the others are answered, and the exit code is 1.

    Example: depthwise predict runs/first holiday/ 'scans/*.png' --topk 3
    """
    if json and as_csv:
        raise UsageError("--json and --csv exclude each other: give one of them")
    names = expand(image)
    from depthwise.load import load

    sources = [_standard_input() if name == STANDARD_INPUT else name for name in names]
    predictor = load(bundle)
    shown = ["-" if name == STANDARD_INPUT else name for name in names]
    results = _results(shown, _answers(predictor, sources, topk, batch_size))
    num_bad = _as_json(results) if json else _as_csv(results) if as_csv else _as_table(results)
    if num_bad:
        note(f"{num_bad} of {len(names)} images could not be read")
    return 1 if num_bad else 0


def expand(arguments: list[str]) -> list[str]:
    """The images that the command's arguments mean, in order: folders and patterns replaced by their files.

    A file that does not exist stays in the list, to be reported among the others. Raises UsageError for a folder
    or a pattern without images, and for standard input named twice.
    """
    if arguments.count(STANDARD_INPUT) > 1:
        raise UsageError("standard input (-) is named twice: it holds one image")
    from depthwise.data.listing import images_below

    names: list[str] = []
    for argument in arguments:
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
        names += found
    return names


def _matches(pattern: str) -> list[str]:
    """What `pattern` means, without what training would pass over, unless the pattern itself has its name."""
    from depthwise.data.listing import passed_over

    named = set(Path(pattern).parts)
    return sorted(
        match
        for match in glob.glob(pattern, recursive=True)
        if not any(passed_over(part) for part in Path(match).parts if part not in named)
    )


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


def _answers(
    predictor: "Predictor", sources: "Sequence[str | bytes | BadImage]", topk: int, batch_size: int
) -> "Iterator[Prediction | BadImage]":
    from depthwise.data import BadImage

    images = (source for source in sources if not isinstance(source, BadImage))
    answers = predictor.stream(images, topk, batch_size)
    for source in sources:
        yield source if isinstance(source, BadImage) else next(answers)


def _results(names: list[str], answers: "Iterable[Prediction | BadImage]") -> Results:
    from depthwise.data import BadImage

    for name, answer in zip(names, answers, strict=True):
        yield (name, None, answer.reason) if isinstance(answer, BadImage) else (name, answer, "")


def _as_table(results: Results) -> int:
    """Print and return how many images could not be read, as the other two do."""
    rows = table("image", "class", "probability", right=("probability",))
    num_bad = 0
    for name, prediction, reason in results:
        if prediction is None:
            num_bad += 1
            rows.add_row(printable(name), f"cannot be read: {printable(reason)}", "", style="red")
            continue
        for rank, (label, probability) in enumerate(
            zip(prediction.classes, prediction.probabilities, strict=True)
        ):
            rows.add_row("" if rank else printable(name), printable(label), f"{probability:.2%}")
    console().print(rows)
    return num_bad


def _as_csv(results: Results) -> int:
    num_bad = 0
    lines = csv.writer(sys.stdout, lineterminator="\n")
    lines.writerow(["image", "rank", "class", "index", "probability", "error"])
    for name, prediction, reason in results:
        if prediction is None:
            num_bad += 1
            lines.writerow([name, "", "", "", "", reason])
            continue
        answers = zip(prediction.classes, prediction.indices, prediction.probabilities, strict=True)
        lines.writerows([name, rank, *answer, ""] for rank, answer in enumerate(answers, start=1))
    return num_bad


def _as_json(results: Results) -> int:
    images: list[dict[str, Any]] = []
    num_bad = 0
    for name, prediction, reason in results:
        if prediction is None:
            num_bad += 1
            images.append({"image": name, "error": reason})
            continue
        answers = zip(prediction.classes, prediction.indices, prediction.probabilities, strict=True)
        images.append(
            {
                "image": name,
                "predictions": [{"class": c, "index": i, "probability": p} for c, i, p in answers],
            }
        )
    print_json({"images": images})
    return num_bad
