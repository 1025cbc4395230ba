"""`depthwise data suspects`: which labels look wrong, which pictures are there twice, which are unlike all others."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from depthwise.bounds import Bounds
from depthwise.cli.options import Json, Workers, flag
from depthwise.cli.output import console, print_json, say, showing, table
from depthwise.places import locate
from depthwise.words import number_of, printable

if TYPE_CHECKING:
    from depthwise.suspects.found import Suspects

MOST_SHOWN = 10  # of each kind; the table, the page and --json have more


def suspects(
    run: Annotated[Path, Parameter(help="The directory of a training run.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="The folder for suspects.csv, suspects.html and folds/.")],
    folds: Annotated[
        int,
        Bounds(0, 100),
        Parameter(
            help="Judge the train part as well: divide it into so many folds, and train a network for each on the "
            "others. Stopped or killed, the same command goes on."
        ),
    ] = 0,
    data: Annotated[
        str | None, Parameter(help="Where the run's images lie now, if not where they lay at its training.")
    ] = None,
    workers: Workers = 2,
    force: Annotated[
        bool, flag("Replace what is in OUT; folds that are the same are kept, others trained anew.")
    ] = False,
    json: Json = False,
) -> None:
    """Rank what looks wrong in the images of a run: labels, copies of a picture, images unlike all others.

    A network judges images that it did not learn from: the run's own those of the val and test parts, and with --folds
    others, trained by the run's recipe, those of the train part. Pictures that are there more than once, though their
    files differ, are looked for in all parts.

    Example: depthwise data suspects runs/first --out suspects --folds 3
    """
    if data is not None:
        locate(data)  # before anything heavy is imported
    from depthwise.suspects.finding import suspects as find

    found = find(
        run,
        out,
        folds=folds,
        data=data,
        workers=workers,
        force=force,
        command=["depthwise", *sys.argv[1:]],
        showing=showing(),
    )
    if json:
        print_json(found.to_json())
    else:
        _print(found, out)


def _print(found: "Suspects", out: Path) -> None:
    shown = found.wrong_labels[:MOST_SHOWN]
    title = f"{number_of(len(found.wrong_labels), 'label')} of {printable(found.data)} that look wrong"
    if shown:
        rows = table("image", "part", "label", "looks like", "score", right=("score",), title=title)
        for of in shown:
            rows.add_row(of.image.name, of.image.part, of.image.label, of.suggested, f"{of.score:.3f}")
        console().print(rows)
    else:
        say(f"no label of {found.data} that was judged looks wrong")
    copies = [group for group in found.copies if group.different_labels or group.different_parts]
    if copies:
        rows = table(
            "copies", "there", title=f"{number_of(len(copies), 'picture')} in different classes or parts"
        )
        for group in copies[:MOST_SHOWN]:
            where = sorted({f"{image.part}: {image.label}" for image in group.images})
            rows.add_row(" = ".join(image.name for image in group.images[:4]), ", ".join(where))
        console().print(rows)
    say(
        f"{number_of(len(found.copies), 'picture is', 'pictures are')} there more than once, "
        f"{number_of(len(found.outliers), 'image is', 'images are')} unlike all others, {len(found.blank):,} of one "
        f"colour"
    )
    say(f"look at them: {out / 'suspects.html'}; all of them as a table: {out / 'suspects.csv'}")
