"""A manifest: a table, or one for each part, that names images or holds them, and says their labels."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from depthwise.data.columns import Columns
from depthwise.data.dataset import BadImage
from depthwise.data.names import some
from depthwise.data.sources.chosen import Chosen, choose
from depthwise.data.sources.labelled import Labelled
from depthwise.data.sources.listing import part_of, passed_over
from depthwise.data.sources.rows import PARTS, Read, Rows, gather
from depthwise.data.sources.tables import HOLDING, SUFFIXES, TAR, DamagedTableError, Table, open_table
from depthwise.data.sources.verify import Files, Looking
from depthwise.errors import DepthwiseError
from depthwise.words import number_of

if TYPE_CHECKING:
    from depthwise.data.sources.parquet import Images
    from depthwise.data.sources.tars import Members

Manifests = Mapping[str, Sequence[Path]]
"""Files by their part, "" if they do not say any."""


def manifests(path: Path) -> Manifests:
    """The manifest that `path` is, or those of the parts that the folder holds, in order; or nothing.

    A part can be parquet or tar files: train-00000-of-00002.parquet and so on, in the folder or in its data/ or train/.
    Tars that lie in a folder by themselves need not say any.
    """
    if path.is_file():
        return {"": [path]} if path.suffix.lower() in SUFFIXES else {}
    found: dict[str, list[Path]] = {}
    for file in _files(path):
        stem, suffix = file.stem, file.suffix.lower()
        part = part_of(stem)
        if suffix in HOLDING:
            part = part or part_of(stem.partition("-")[0]) or part_of(file.parent.name)
        if suffix == TAR and not _has_folders(path):
            part = part or ""
        if part is not None and suffix in SUFFIXES:
            others = found.setdefault(part, [])
            if others and not (suffix in HOLDING and suffix == others[0].suffix.lower()):
                raise DepthwiseError(
                    f"{path} has {others[0].name} and {file.name}, both its {part} part: keep one of them"
                )
            others.append(file)
    return {part: found[part] for part in PARTS if part in found} or found


def _has_folders(path: Path) -> bool:
    return any(entry.is_dir() and not passed_over(entry.name) for entry in path.iterdir())


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        return
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and (entry.name == "data" or part_of(entry.name)):
            yield from sorted(file for file in entry.iterdir() if file.suffix in HOLDING and file.is_file())
        elif entry.is_file():
            yield entry


def read_manifest(
    path: Path,
    files: Manifests,
    columns: Columns,
    looking: Looking,
    chooser: Callable[[Table, Columns], Chosen] = choose,
) -> Labelled:
    """Reads the `files` that `path` means, the columns that `chooser` chooses, and verifies the images they name.

    Raises DepthwiseError.
    """
    root = Path(columns.image_root or next(iter(files.values()))[0].parent)
    reads, lost = [], []
    for part, of_part in files.items():
        for file in of_part:
            called = str(file.relative_to(path)) if path.is_dir() else file.name
            try:
                table = open_table(file, called)
                chosen = chooser(table, columns)
            except DamagedTableError as error:
                if sum(map(len, files.values())) == 1:
                    raise
                lost.append(BadImage(called, str(error)))
                continue
            reads.append(Read(table, chosen._replace(part=None) if part else chosen, part or None))
    if not reads:
        raise DepthwiseError(lost[0].reason)
    return replace(labelled(path, reads, root, columns, looking), lost=tuple(lost))


def labelled(path: Path, reads: Sequence[Read], root: Path, columns: Columns, looking: Looking) -> Labelled:
    """What tables say of images whose paths begin in `root`, verified; `path` is what a person calls it all."""
    rows = gather(reads, root, columns)
    store = _store(reads) or Files(root)
    verified = looking.verify(store, rows.names)
    names = some([read.table.path.name for read in reads], joint=" and ", most=3)
    first = reads[0].chosen
    given = names if reads[0].part else f"column {first.part}"
    what = "path" if isinstance(store, Files) else "image"
    about = f"{what}s from {first.path}"
    if first.label or first.flags:
        about = f"{_about(rows, first)}, {'its' if what == 'path' else 'the'} {what} from {first.path}"
    notes = (f"{names}: {about}", *first.notes, *about_labels(rows))
    return Labelled(path, store, rows, given, notes, columns, *verified, looking.decoding, looking.channels)


def _store(reads: Sequence[Read]) -> "Images | Members | None":
    """The images, if the tables hold them. Raises DepthwiseError if some of them do."""
    kinds = [read.table.path.suffix.lower() if read.table.path.is_file() else "" for read in reads]
    if not set(kinds) & set(HOLDING):
        return None
    if TAR not in kinds:
        from depthwise.data.sources.parquet import Parquet, images_of

        tables = [read.table for read in reads if isinstance(read.table, Parquet)]
        names = [read.chosen.path for read in reads if isinstance(read.table, Parquet)]
        found = images_of(tables, names)
        if found is None or len(tables) == len(reads):
            return found
    elif set(kinds) == {TAR}:
        from depthwise.data.sources.tars import Members, Tar

        return Members.of([read.table for read in reads if isinstance(read.table, Tar)])
    holding = next(read for read, kind in zip(reads, kinds, strict=True) if kind in HOLDING)
    other = next(read for read, kind in zip(reads, kinds, strict=True) if kind != kinds[reads.index(holding)])
    raise DepthwiseError(
        f"{holding.table.path} holds its images and {other.table.path} does not, or otherwise: make the parts alike"
    )


def _about(rows: Rows, chosen: Chosen) -> str:
    kind = "any number of labels" if rows.several else "one label"
    parted = f" parted by {chosen.separator!r}" if chosen.separator else ""
    others = {"parts": chosen.part, "labels that it has not": chosen.negative}
    more = "".join(f", {what} from {name}" for what, name in others.items() if name)
    source = chosen.label or f"{len(chosen.flags)} columns of 0 and 1 ({some(chosen.flags)})"
    return f"an image has {kind}, from {source}{parted}{more}"


def about_labels(rows: Rows) -> Iterator[str]:
    if rows.contradicted:
        count = number_of(len(rows.contradicted), "image is", "images are")
        yield f"{count} said to have a label and to lack it, and taken to have it: {some(rows.contradicted)}"
    if rows.ignored:
        yield f"{number_of(rows.ignored, 'label')} ignored as asked"
    if rows.further:
        yield f"{number_of(rows.further, 'label')} left out, after the first of an image"
