"""A data set from what a person calls it: a built-in set's name, or a folder."""

from pathlib import Path

from depthwise.data.arrays import ARRAY_SETS, open_arrays
from depthwise.data.dataset import (
    ArraySplit,
    BadImage,
    Dataset,
    FileSplit,
    Split,
    test_split,
    val_split,
)
from depthwise.data.folder import MAX_BAD_FRACTION, TooManyUnreadableError, open_folder
from depthwise.data.formats import IMAGE_SUFFIXES
from depthwise.data.image import CHANNELS
from depthwise.data.verify import Progress
from depthwise.errors import DepthwiseError, UsageError

__all__ = [
    "ARRAY_SETS",
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
    spec: str,
    *,
    seed: int = 0,
    channels: int | None = None,
    workers: int = 2,
    progress: Progress | None = None,
    max_bad: float = MAX_BAD_FRACTION,
) -> Dataset:
    """The data set `spec`: one of ARRAY_SETS, or a folder of CLASS/IMAGE with or without train, val, test above.

    seed: divides a folder that is not (80/20, every class alike). channels: 1, 3 or 4, None for the set's own.
    Every file is decoded once, by `workers` threads, and remembered; `progress` is told (done, all) meanwhile. What
    cannot be decoded is left out and named in `Dataset.bad`, up to the fraction `max_bad` of all files.

    Raises DepthwiseError: no such set or folder, no images, one class, a class without training images, or more
    than `max_bad` of the files unreadable (TooManyUnreadableError, whose `bad` lists them).
    """
    if channels is not None and channels not in CHANNELS:
        raise DepthwiseError(f"{channels} channels: ask for 1 (grey), 3 (RGB) or 4 (RGBA)")
    folder = locate(spec)
    if folder is None:
        return open_arrays(spec, channels)
    return open_folder(
        folder, seed=seed, channels=channels, workers=workers, progress=progress, max_bad=max_bad
    )


def locate(spec: str) -> Path | None:
    """The folder that `spec` is, or None for a built-in set (whose name in a path, ./digits, is a folder's)."""
    if spec in ARRAY_SETS:
        return None
    if not Path(spec).exists():
        known = " or ".join(ARRAY_SETS)
        raise UsageError(f"{spec!r} is not there: give a folder of CLASS/IMAGE, or a built-in set, {known}")
    return Path(spec)
