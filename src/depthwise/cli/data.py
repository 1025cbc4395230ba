"""`depthwise data`: look a data set over before training on it, and write one out as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from depthwise.bounds import Bounds, parse_bytes
from depthwise.cli.manifest import Manifest, asked
from depthwise.cli.options import (
    AllowTruncated,
    Data,
    Json,
    MaxPixels,
    Nested,
    SkipBad,
    command,
    decoding,
    flag,
)
from depthwise.cli.output import console, counting, note, print_json, say, table
from depthwise.errors import UsageError
from depthwise.places import locate
from depthwise.words import number_of, printable, quote_path
from depthwise.writing import check_free

if TYPE_CHECKING:
    from depthwise.data.check import Check, Range, Stats
    from depthwise.data.dataset import Deep
    from depthwise.data.pack import Packed

MOST_CLASSES = 40  # of more, the table for people has the totals only
MOST_CHARACTERS = (
    240  # of a line of findings, and of more of them people are told the number; --json has them all
)
MOST_COPIES = 4  # names of one image that is there more often

app = App(name="data", help="Look a data set over before training on it.")


@app.command
@command
def check(
    data: Data,
    /,
    *,
    nested: Nested = False,
    max_pixels: MaxPixels = None,
    allow_truncated: AllowTruncated = False,
    manifest: Manifest = None,
    json: Json = False,
) -> int:
    """Look for what is wrong: unreadable images, images in two parts or two classes, classes too small.

    Every file is read anew. The exit code is 1 if something should be mended before training.

    Example: depthwise data check photos/
    """
    locate(data)  # before anything heavy is imported
    from depthwise.data.check import check as look

    with counting("looking images over") as progress:
        read = decoding(max_pixels, allow_truncated)
        found = look(data, progress=progress, nested=nested, decoding=read, columns=asked(manifest))
    if json:
        print_json(found.to_json())
    else:
        _print_counts(found.data, found.counts, found.images)
        _print_check(found)
    return 0 if found.ok else 1


@app.command
@command
def stats(
    data: Data,
    /,
    *,
    sheet: Annotated[
        Path | None, Parameter(help="Write a contact sheet, a few images of each class, here.")
    ] = None,
    force: Annotated[bool, flag("Replace the file that --sheet names.")] = False,
    nested: Nested = False,
    max_pixels: MaxPixels = None,
    allow_truncated: AllowTruncated = False,
    white_level: Annotated[
        int | None,
        Parameter(help="The value of 16 bits that is white, as in --set white_level [default: 65535]."),
    ] = None,
    manifest: Manifest = None,
    json: Json = False,
) -> None:
    """Show a data set in numbers: classes, sizes, balance and colour.

    Example: depthwise data stats photos/ --sheet photos.png
    """
    locate(data)
    if sheet:
        check_free(sheet, force)
    from depthwise.data import open_dataset
    from depthwise.data.check import contact_sheet, picture_format
    from depthwise.data.check import stats as measure

    if sheet:
        picture_format(sheet)

    read = decoding(max_pixels, allow_truncated, white_level=white_level)
    with counting("looking images over") as progress:
        found = measure(data, progress=progress, nested=nested, decoding=read, columns=asked(manifest))
    if sheet:
        contact_sheet(
            open_dataset(data, max_bad=1.0, nested=nested, decoding=read, columns=asked(manifest)), sheet
        )
        note(f"the contact sheet is {sheet}")
    if json:
        print_json(found.to_json())
    else:
        _print_counts(found.data, found.counts, found.images)
        _print_stats(found)


@app.command
@command
def export(
    data: Data,
    /,
    *,
    out: Annotated[Path, Parameter(help="The folder to write to.")],
    split: Annotated[
        Literal["train", "val", "test"] | None, Parameter(help="One part only, not all.")
    ] = None,
    limit: Annotated[
        Annotated[int, Bounds(1, 2**40)] | None,
        Parameter(help="At most this many images of a part, evenly spaced over it."),
    ] = None,
    nested: Nested = False,
    manifest: Manifest = None,
    force: Annotated[bool, flag("Write into a folder that holds something already.")] = False,
) -> None:
    """Write a data set as PNG files: OUT/PART/CLASS/NAME.png, or OUT/CLASS/NAME.png for one part.

    Images of any number of labels go to OUT/images/, and OUT/PART.jsonl lists them with their labels.

    Example: depthwise data export digits --split test --limit 8 --out pictures
    """
    locate(data)  # before anything heavy is imported
    from depthwise.data import open_dataset
    from depthwise.data.export import export as write
    from depthwise.data.export import written_images
    from depthwise.data.targets import SEVERAL

    with written_images(out, force=force) as folder:
        with counting("looking images over") as progress:
            dataset = open_dataset(data, progress=progress, nested=nested, columns=asked(manifest))
        for text in dataset.notes:
            note(text)
        if split is not None and split not in dataset.splits:
            raise UsageError(f"{data} has no {split} part: it has {', '.join(dataset.splits)}")
        num_images = sum(
            write(
                images,
                dataset.classes,
                folder if split or dataset.task in SEVERAL else folder / part,
                prefix=part,
                limit=limit,
                nested=nested,
            )
            for part, images in dataset.splits.items()
            if split in (None, part)
        )
    note(f"{number_of(num_images, 'image')} written to {out}")


@app.command
@command
def shard(
    data: Data,
    /,
    *,
    out: Annotated[Path, Parameter(help="The folder to write to.")],
    format: Annotated[
        Literal["arrow", "parquet"],
        Parameter(help="arrow: to train on; parquet: as the Hugging Face hub has images, to publish."),
    ] = "arrow",
    shard_size: Annotated[
        str, Parameter(help="About how large a shard is; each worker has one in memory.")
    ] = "256MiB",
    workers: Annotated[int, Bounds(1, 256), Parameter(help="Shards that are written at a time.")] = 2,
    undivided: Annotated[
        bool,
        flag("Pack a folder that is not divided as it lies, to measure on; else as training divides it."),
    ] = False,
    nested: Nested = False,
    manifest: Manifest = None,
    skip_bad: SkipBad = False,
    max_pixels: MaxPixels = None,
    allow_truncated: AllowTruncated = False,
    force: Annotated[bool, flag("Replace the shards that are in OUT, or write beside other files.")] = False,
    json: Json = False,
) -> None:
    """Pack a data set into a few large files, which any command takes in its place.

    Each image's file is kept byte for byte, beside its labels, its path and a checksum. Give the command again after it
    was stopped or killed, and it goes on with the shards that it lacks.

    Example: depthwise data shard photos/ --out shards
    """
    size = parse_bytes(shard_size, "--shard-size")
    locate(data)  # before anything heavy is imported
    from depthwise.data import open_dataset
    from depthwise.data.pack import check_out, pack
    from depthwise.data.remarks import worth_saying
    from depthwise.data.sources.source import MAX_BAD_FRACTION

    check_out(out, force)
    read_from = Path(data).resolve()
    if out.resolve() == (read_from.parent if read_from.suffix == ".parquet" else read_from):
        raise UsageError(
            f"{out} is where {data} lies, and packing would replace what it reads: choose another folder"
        )
    read = decoding(max_pixels, allow_truncated)
    with counting("looking images over") as progress:
        dataset = open_dataset(
            data,
            progress=progress,
            max_bad=1.0 if skip_bad else MAX_BAD_FRACTION,
            nested=nested,
            whole=undivided,
            decoding=read,
            columns=asked(manifest),
        )
    for text in worth_saying(dataset, data, resumed=False):
        note(text)
    with counting("packing images") as progress:
        packed = pack(
            dataset, out, format=format, shard_bytes=size, workers=workers, force=force, progress=progress
        )
    if packed.kept:
        note(
            f"{number_of(packed.kept, 'shard')} of an earlier run kept, every image compared with its checksum"
        )
    if json:
        print_json(packed.to_json())
    else:
        _print_packed(packed, out)


def _print_packed(packed: "Packed", out: Path) -> None:
    rows = table("part", "images", "shards", "MB", right=("images", "shards", "MB"))
    for part, records in packed.manifest.records.items():
        size = sum(record.bytes for record in records) / 1e6
        rows.add_row(
            part, f"{sum(record.images for record in records):,}", f"{len(records):,}", f"{size:,.1f}"
        )
    console().print(rows)
    if "train" in packed.manifest.parts:
        say(f"train on them: depthwise train --data {quote_path(out)} --out RUN")
    else:
        say(f"measure on them: depthwise eval RUN --data {quote_path(out)}")


def _print_counts(data: str, counts: dict[str, dict[str, int]], images: dict[str, int]) -> None:
    """A row a class, a column a part."""
    from depthwise.data.names import natural_key

    labels = sorted({label for by_class in counts.values() for label in by_class}, key=natural_key)
    rows = table("class", *counts, right=tuple(counts), title=f"Images of {printable(data)}")
    if len(labels) <= MOST_CLASSES:
        for label in labels:
            rows.add_row(printable(label), *(f"{by_class.get(label, 0):,}" for by_class in counts.values()))
    rows.add_row(f"all {len(labels)}", *(f"{images[part]:,}" for part in counts))
    console().print(rows)


def _print_check(found: "Check") -> None:
    from depthwise.data.repeated import problems

    say(f"width   {_span(found.widths)}")
    say(f"height  {_span(found.heights)}")
    if found.deep:
        say(f"values  {_values(found.deep)}")
    if found.labels_per_image != (1, 1, 1):
        say(f"labels  {_labels(found)}")
    say(f"format  {', '.join(f'{count:,} {printable(mode)}' for mode, count in found.modes.items())}")
    for text in _notes(found):
        say(f"note: {text}")
    if found.ignored_kinds:
        say(f"note: ignored: {', '.join(found.ignored_kinds)}")
    harmful = {*found.conflicts, *found.leaks}
    if harmless := [group for group in found.duplicates if group not in harmful]:
        say(
            f"note: {number_of(len(harmless), 'image is', 'images are')} there more than once: {_groups(harmless)}"
        )
    if found.together:
        count = number_of(len(found.together), "group")
        say(f"note: {count} of labels that always come together: {_groups(found.together)}")
    if found.unreadable:
        missing = f", of which {found.missing:,} are not there" if found.missing else ""
        bad = [f"{image.path} ({image.reason})" for image in found.unreadable]
        say(f"problem: {number_of(len(bad), 'image')} cannot be read{missing}: {_some(bad)}")
    for clause, groups in problems(
        found.conflicts, found.leaks, several=found.labels_per_image != (1, 1, 1)
    ).items():
        say(f"problem: {clause}: {_groups(groups)}")
    if found.error:
        say(f"problem: {printable(found.error)}")
    say("ready to train on" if found.ok else "mend the problems before you train")


def _print_stats(found: "Stats") -> None:
    facts = {
        "division": found.split_source,
        "balance": f"the largest class has {found.imbalance:.3g} times the images of the smallest",
        **({"labels": _labels(found)} if found.labels_per_image != (1, 1, 1) else {}),
        "width": _span(found.widths),
        "height": _span(found.heights),
        "channels": str(found.channels),
        "mean": _channels(found.mean),
        "std": f"{_channels(found.std)} (of {number_of(found.measured, 'image')})",
        "unreadable": f"{found.unreadable:,}",
        **({"values": _values(found.deep)} if found.deep else {}),
    }
    for name, value in facts.items():
        say(f"{name:<11} {printable(value)}")
    for text in _notes(found):
        say(f"note: {printable(text)}")


def _notes(found: "Check | Stats") -> list[str]:
    deep = found.deep.note(found.white_level) if found.deep else ""
    return [*found.notes, *([deep] if deep else [])]


def _values(deep: "Deep") -> str:
    return f"{deep.low} to {deep.high} of 65535, in {number_of(deep.files, 'image')} with 16 bits"


def _span(pixels: "Range") -> str:
    return f"{pixels.lowest} to {pixels.highest} pixels, median {pixels.median:g}"


def _labels(found: "Check | Stats") -> str:
    labels = found.labels_per_image
    without = f"; {number_of(found.unlabelled, 'image')} without" if found.unlabelled else ""
    return f"{labels.lowest} to {labels.highest} an image, median {labels.median:g}{without}"


def _channels(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _groups(groups: Sequence[Sequence[str]]) -> str:
    from depthwise.data.names import some

    return _some([some(group, MOST_COPIES, " = ") for group in groups])


def _some(items: Sequence[str]) -> str:
    """As many of them as fit in a line, at least one, and how many more there are."""
    from depthwise.data.names import shortened

    shown = printable(shortened(items[0], MOST_CHARACTERS))
    for count, item in enumerate(items[1:], start=1):
        if len(shown) + len(item) > MOST_CHARACTERS:
            return f"{shown}; and {len(items) - count:,} more, which --json lists"
        shown += f"; {printable(item)}"
    return shown
