"""A data set from what a person calls it: a built-in set's name, or a folder."""

import os
from dataclasses import replace

from depthwise.data.dataset import (
    ArraySplit,
    BadImage,
    Dataset,
    FileSplit,
    Split,
    test_split,
    val_split,
)
from depthwise.data.formats import IMAGE_SUFFIXES
from depthwise.data.image import CHANNELS, DEFAULT, Decoding
from depthwise.data.sources.arrays import open_arrays
from depthwise.data.sources.folder import MAX_BAD_FRACTION, TooManyUnreadableError, build, look_at
from depthwise.data.sources.verify import Progress
from depthwise.errors import DepthwiseError
from depthwise.places import locate, name_note

__all__ = [
    "IMAGE_SUFFIXES",
    "ArraySplit",
    "BadImage",
    "Dataset",
    "FileSplit",
    "Split",
    "TooManyUnreadableError",
    "open_dataset",
    "test_split",
    "val_split",
]


def open_dataset(
    spec: str | os.PathLike[str],
    *,
    seed: int = 0,
    channels: int | None = None,
    workers: int = 2,
    progress: Progress | None = None,
    max_bad: float = MAX_BAD_FRACTION,
    nested: bool = False,
    whole: bool = False,
    decoding: Decoding = DEFAULT,
) -> Dataset:
    """The data set `spec`: one of ARRAY_SETS, or a folder of CLASS/IMAGE with or without train, val, test above.

    seed: divides a folder that is not (80/20, every class alike). channels: 1, 3 or 4, None for the set's own.
    Every file is decoded once, by `workers` threads, and remembered; `progress` is told (done, all) meanwhile. What
    cannot be decoded is left out and named in `Dataset.bad`, up to the fraction `max_bad` of all files. nested: every
    folder with images is a class by its path. whole: to be measured, not trained on, see `build`. decoding: how
    files are read.

    Raises DepthwiseError: no such set or folder, no images, one class, a class without training images, or more
    than `max_bad` of the files unreadable (TooManyUnreadableError, whose `bad` lists them).
    """
    check_channels(channels)
    folder = locate(spec)
    if folder is None:
        return open_built_in(os.fspath(spec), channels)
    looked = look_at(folder, nested=nested, workers=workers, progress=progress, decoding=decoding)
    return build(looked, seed=seed, channels=channels, max_bad=max_bad, whole=whole)


def check_channels(channels: int | None) -> None:
    """Raises DepthwiseError for a number of channels that no image has."""
    if channels is not None and channels not in CHANNELS:
        raise DepthwiseError(f"{channels} channels: ask for 1 (grey), 3 (RGB) or 4 (RGBA)")


def open_built_in(name: str, channels: int | None) -> Dataset:
    """One of ARRAY_SETS, with a note if a folder here has its name."""
    dataset = open_arrays(name, channels)
    note = name_note(name)
    return replace(dataset, notes=(note, *dataset.notes)) if note else dataset
