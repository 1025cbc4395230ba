"""A data set from what a person calls it: the one place that tells kinds of sources apart."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from depthwise.data.columns import Columns
from depthwise.data.dataset import BadImage, Dataset, FileSplit, Split
from depthwise.data.image import CHANNELS, DEFAULT, Decoding
from depthwise.data.sources.arrays import open_arrays
from depthwise.data.sources.chosen import choose, choose_images
from depthwise.data.sources.folder import look_at
from depthwise.data.sources.listing import has_part_folders, images_below, part_of
from depthwise.data.sources.manifest import manifests, read_manifest
from depthwise.data.sources.parted import read_parts
from depthwise.data.sources.shard_manifest import is_shards
from depthwise.data.sources.source import MAX_BAD_FRACTION, Ready, Source
from depthwise.data.sources.tagged import FOR_TABLES, read_tagged
from depthwise.data.sources.verify import Looking, Progress
from depthwise.errors import DepthwiseError, UsageError
from depthwise.places import is_uri, locate, name_note, named_parts


def open_dataset(
    spec: str | os.PathLike[str] | Dataset,
    *,
    seed: int = 0,
    channels: int | None = None,
    workers: int = 2,
    progress: Progress | None = None,
    max_bad: float = MAX_BAD_FRACTION,
    nested: bool = False,
    whole: bool = False,
    decoding: Decoding = DEFAULT,
    columns: Columns | None = None,
    kept_columns: Any = None,
) -> Dataset:
    """The data set `spec`: one of ARRAY_SETS, a folder of CLASS/IMAGE with or without train, val, test above, or a
    manifest (CSV, TSV, JSON lines, parquet, tar), or a folder with one a part, train.csv and val.csv; or any of these
    for each part, as train=a.csv,val=b.csv.

    A Dataset that is made already is taken as it is.

    seed: divides a folder that is not (80/20, every class alike). channels: 1, 3 or 4, None for the set's own.
    Every file is decoded once, by `workers` threads, and remembered; `progress` is told (done, all) meanwhile. What
    cannot be decoded is left out and named in `Dataset.bad`, up to the fraction `max_bad` of all files. nested: every
    folder with images is a class by its path. whole: to be measured, not trained on, see `build`. decoding: how
    files are read. columns, kept_columns: as for `open_source`.

    Raises DepthwiseError: no such set or folder, no images, one class, a class without training images, or more
    than `max_bad` of the files unreadable (TooManyUnreadableError, whose `bad` lists them).
    """
    source = open_source(
        spec,
        channels=channels,
        workers=workers,
        progress=progress,
        nested=nested,
        decoding=decoding,
        columns=columns,
        kept_columns=kept_columns,
    )
    return source.dataset(seed=seed, max_bad=max_bad, whole=whole)


def open_source(
    spec: str | os.PathLike[str] | Dataset,
    *,
    channels: int | None = None,
    workers: int = 2,
    progress: Progress | None = None,
    nested: bool = False,
    decoding: Decoding = DEFAULT,
    columns: Columns | None = None,
    kept_columns: Any = None,
    afresh: bool = False,
) -> Source:
    """What `spec` means, looked over; the arguments are as for `open_dataset`.

    columns: how a manifest is read; nothing else has any. kept_columns: as a run has
    kept them (JSON), for what `columns` do not say of a manifest. afresh: every file is read again.
    """
    if channels is not None and channels not in CHANNELS:
        raise DepthwiseError(f"{channels} channels: ask for 1 (grey), 3 (RGB) or 4 (RGBA)")
    if isinstance(spec, Dataset):
        _refuse_columns(columns, spec.name)
        return Ready(spec)
    if is_uri(spec):
        _refuse_columns(columns, os.fspath(spec))
        from depthwise.data.sources.shards import open_remote

        return open_remote(
            os.fspath(spec),
            channels=channels,
            workers=workers,
            progress=progress,
            decoding=decoding,
            afresh=afresh,
        )
    folder = locate(spec)
    if folder is None:
        _refuse_columns(columns, os.fspath(spec))
        dataset, note = open_arrays(os.fspath(spec), channels), name_note(spec)
        return Ready(replace(dataset, notes=(note, *dataset.notes)) if note else dataset)
    looking = Looking(workers, progress, afresh, decoding, channels)
    if is_shards(folder):
        _refuse_columns(columns, os.fspath(spec))
        # Arrow takes a moment to import, and sets of other kinds do without.
        from depthwise.data.sources.shards import open_shards

        return open_shards(folder, **looking._asdict())
    asked = Columns.asked(kept_columns, columns) or Columns()
    if parts := named_parts(spec):
        _refuse_columns(columns, os.fspath(spec), ("labels_from",))
        return read_parts(
            os.fspath(spec), parts, replace(asked, labels_from=None), looking, choose, nested=nested
        )
    if asked.labels_from and folder.is_dir():
        _refuse_columns(columns, os.fspath(spec), FOR_TABLES)
        return read_tagged(folder, asked, looking)
    files = manifests(folder)
    if files and not (folder.is_dir() and has_part_folders(folder)):
        _refuse_columns(columns, os.fspath(spec), ("labels_from",))
        return read_manifest(folder, files, replace(asked, labels_from=None), looking)
    _refuse_columns(columns, os.fspath(spec))
    return look_at(folder, nested=nested, **looking._asdict())


@dataclass(frozen=True, eq=False)
class Images:
    """Images without what they show, by part ("all" where none is given), those that cannot be read, and sentences."""

    splits: Mapping[str, Split]
    bad: tuple[BadImage, ...] = ()
    notes: tuple[str, ...] = ()


def open_images(
    spec: str | os.PathLike[str] | Dataset,
    *,
    channels: int | None = None,
    workers: int = 2,
    progress: Progress | None = None,
    decoding: Decoding = DEFAULT,
    columns: Columns | None = None,
    kept_columns: Any = None,
) -> Images:
    """The images of `spec`, labelled or not; the arguments are as for `open_source`.

    A manifest need not have labels, and a folder of images no classes: of such a folder all images below it are meant,
    and they are not looked over. kept_columns: used as far as a manifest has them. Raises DepthwiseError.
    """
    folder = None if isinstance(spec, Dataset) else locate(spec)
    called = spec.name if isinstance(spec, Dataset) else os.fspath(spec)
    if folder is None or is_shards(folder):
        _refuse_columns(columns, called)
        source = open_source(spec, channels=channels, workers=workers, progress=progress, decoding=decoding)
        dataset = source.dataset(max_bad=1.0, whole=True)
        return Images(dataset.splits, dataset.bad, dataset.notes)
    kept, asked = (Columns.asked(kept_columns, given) or Columns() for given in (None, columns))
    chosen = partial(choose_images, kept=kept)
    looking = Looking(workers, progress, False, decoding, channels)
    if parts := named_parts(spec):
        read = read_parts(called, parts, asked, looking, chosen)
        return Images(read.images(), read.strays.bad, read.notes)
    divided = folder.is_dir() and has_part_folders(folder)
    if not divided and (files := manifests(folder)):
        read = read_manifest(folder, files, asked, looking, chosen)
        return Images(read.images(), read.strays.bad, read.notes)
    _refuse_columns(columns, called)
    found: dict[str, list[str]] = {}
    for path in images_below(folder):
        name = os.path.relpath(path, folder)
        part = part_of(name.partition(os.sep)[0]) if divided else None
        found.setdefault(part or "all", []).append(name)
    return Images(
        {
            part: FileSplit(
                names, torch.zeros(len(names), dtype=torch.int64), channels or 3, str(folder), decoding
            )
            for part, names in found.items()
        }
    )


def _refuse_columns(columns: Columns | None, spec: str, names: Sequence[str] | None = None) -> None:
    """Raise UsageError if they say something, or one of `names`, that `spec` has not."""
    for given in columns.given() if columns else ():
        option = f"--{given.replace('_', '-')}"
        if names is not None and given not in names:
            continue
        if given == "labels_from":
            raise UsageError(f"{spec} is no folder of images, and {option} is for one: leave it out")
        raise UsageError(
            f"{spec} is no manifest, and {option} says how one is read: leave it out, or give a CSV, TSV, JSON "
            f"lines, parquet or tar file"
        )
