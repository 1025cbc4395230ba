"""Looking a data set over before it is trained on: what is wrong with it, what is in it, what it looks like."""

import errno
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from depthwise.data.columns import Columns
from depthwise.data.dataset import BadImage, Dataset, Deep, Split, all_targets, require_trainable
from depthwise.data.deep import WHITE
from depthwise.data.image import DEFAULT, Decoding, UnreadableImageError, to_channels
from depthwise.data.names import natural_key, shortened, some
from depthwise.data.repeated import Group
from depthwise.data.sources.open import open_source
from depthwise.data.sources.source import MAX_BAD_FRACTION, Strays, TooManyUnreadableError
from depthwise.data.sources.verify import Progress
from depthwise.data.spread import evenly
from depthwise.data.tally import Range, Tally, tally
from depthwise.data.targets import memberships
from depthwise.errors import DepthwiseError, UsageError
from depthwise.words import number_of
from depthwise.writing import written_whole

UNEVEN = 10
"""Times the images of the smallest class that the largest has, from which on that is worth a word."""

FEW = 10
"""Training images of a label, among any number an image, below which it is worth a word."""

ONE_EACH = Range(1, 1, 1)

Names = tuple[str, ...]
"""Of images that are the same, byte for byte."""


@dataclass(frozen=True)
class Check:
    """What a data set holds, and what is wrong with it.

    error: why it cannot be trained on as it is, or None. counts: readable images by part and class, divided as
    training would; images: by part. duplicates: images that are there more than once; conflicts: those of them in
    different classes; leaks: those in more than one part. modes: how many images of each format and (Pillow's)
    mode. ignored: paths that are no part of it, ignored_kinds a phrase about each kind of them.

    labels_per_image: how many classes an image shows; unlabelled: images without any. unknown_labels: those that a
    fixed list of classes has not, with their images. together: classes that show only together, in two images or more.
    """

    data: str
    fingerprint: str | None
    error: str | None
    counts: dict[str, dict[str, int]]
    unreadable: tuple[BadImage, ...]
    duplicates: tuple[Names, ...]
    conflicts: tuple[Names, ...]
    leaks: tuple[Names, ...]
    widths: Range
    heights: Range
    modes: dict[str, int]
    ignored: tuple[str, ...]
    ignored_kinds: tuple[str, ...]
    notes: tuple[str, ...]
    deep: Deep | None = None
    white_level: int = WHITE
    images: dict[str, int] = field(default_factory=dict)
    labels_per_image: Range = ONE_EACH
    unlabelled: int = 0
    unknown_labels: dict[str, int] = field(default_factory=dict)
    together: tuple[Names, ...] = ()

    @property
    def missing(self) -> int:
        """Of what cannot be read, what is not there."""
        return sum(image.reason == os.strerror(errno.ENOENT) for image in self.unreadable)

    @property
    def ok(self) -> bool:
        """Nothing is wrong that stops training or falsifies its result."""
        return not (self.error or self.unreadable or self.conflicts or self.leaks)

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "missing": self.missing} | asdict(self) | _ranges_json(self)


@dataclass(frozen=True)
class Stats:
    """A data set in numbers.

    counts: images by part and class; images: by part. imbalance: the largest class of the first part over its
    smallest. mean, std: of each channel, 0 to 1, over `measured` images of that part, each counting alike whatever its
    size. deep: what those with 16 bits hold, and the white_level they were read with.
    """

    data: str
    fingerprint: str
    split_source: str
    channels: int
    counts: dict[str, dict[str, int]]
    imbalance: float
    widths: Range
    heights: Range
    mean: tuple[float, ...]
    std: tuple[float, ...]
    measured: int
    unreadable: int
    notes: tuple[str, ...]
    deep: Deep | None = None
    white_level: int = WHITE
    images: dict[str, int] = field(default_factory=dict)
    labels_per_image: Range = ONE_EACH
    unlabelled: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | _ranges_json(self)


def check(
    spec: str,
    *,
    seed: int = 0,
    workers: int = 2,
    progress: Progress | None = None,
    nested: bool = False,
    decoding: Decoding = DEFAULT,
    columns: Columns | None = None,
) -> Check:
    """Looks at every image of `spec`, which is as for `open_dataset`; every file is read anew.

    What would stop training is told in the result; raises DepthwiseError only if there are no images to look at.
    """
    look = _look(
        spec, seed, workers, progress, nested=nested, afresh=True, decoding=decoding, columns=columns
    )
    counts, found = look.images.counts, look.images.repeated
    return Check(
        data=spec,
        fingerprint=look.dataset.fingerprint if look.dataset else None,
        error=_text(look.error),
        counts=counts,
        unreadable=tuple(look.strays.bad),
        duplicates=_names(found.duplicates),
        conflicts=_names(found.conflicts),
        leaks=_names(found.leaks),
        widths=look.images.widths,
        heights=look.images.heights,
        modes=look.images.modes,
        ignored=look.strays.ignored,
        ignored_kinds=look.strays.ignored_kinds,
        notes=(*look.strays.notes, *_about_balance(look)),
        deep=look.strays.deep,
        white_level=decoding.white_level,
        images=look.images.by_part,
        labels_per_image=look.images.labels_per_image,
        unlabelled=look.dataset.unlabelled if look.dataset else look.images.unlabelled,
        unknown_labels=dict(look.dataset.unknown_labels) if look.dataset else {},
        together=look.images.together,
    )


def stats(
    spec: str,
    *,
    seed: int = 0,
    workers: int = 2,
    progress: Progress | None = None,
    measure: int = 2000,
    nested: bool = False,
    decoding: Decoding = DEFAULT,
    columns: Columns | None = None,
) -> Stats:
    """`spec` in numbers, colour over at most `measure` images; raises DepthwiseError as `open_dataset` does."""
    look = _look(
        spec, seed, workers, progress, max_bad=1.0, nested=nested, decoding=decoding, columns=columns
    )
    if look.dataset is None:
        raise look.error or DepthwiseError(f"{spec} holds no image")
    counts = look.images.counts
    first = next(iter(look.dataset.splits))
    mean, std, measured = _colour(look.dataset.splits[first], measure)
    return Stats(
        data=spec,
        fingerprint=look.dataset.fingerprint,
        split_source=look.dataset.split_source,
        channels=look.dataset.channels,
        counts=counts,
        imbalance=max(counts[first].values()) / min(counts[first].values()),
        widths=look.images.widths,
        heights=look.images.heights,
        mean=mean,
        std=std,
        measured=measured,
        unreadable=len(look.strays.bad),
        notes=(*look.strays.notes, *_about_balance(look)),
        deep=look.strays.deep,
        white_level=decoding.white_level,
        images=look.images.by_part,
        labels_per_image=look.images.labels_per_image,
        unlabelled=look.dataset.unlabelled,
    )


def contact_sheet(
    dataset: Dataset, path: str | os.PathLike[str], *, per_class: int = 8, classes: int = 40, side: int = 72
) -> None:
    """Writes a picture to `path`: a row a class (the first `classes`), `per_class` images evenly from its first part.

    side: of an image on it, in pixels. Raises DepthwiseError if `path` cannot be written, or is no picture's name.
    """
    split = next(iter(dataset.splits.values()))
    (images, numbers), shown = (
        memberships(all_targets(split)),
        sorted(dataset.classes, key=natural_key)[:classes],
    )
    margin, gap = 180, 4
    sheet = Image.new("RGB", (margin + per_class * (side + gap), len(shown) * (side + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for row, label in enumerate(shown):
        top = gap + row * (side + gap)
        draw.text((gap, top + side / 2), shortened(label, 22), "black", font, anchor="lm")
        members = images[numbers == dataset.classes.index(label)].tolist()
        for column, index in enumerate(evenly(members, per_class)):
            try:
                pixels = to_channels(split.image(index), 3)
            except UnreadableImageError:
                continue
            picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            sheet.paste(
                ImageOps.pad(picture, (side, side), color="white"), (margin + column * (side + gap), top)
            )
    with written_whole(Path(path)) as file:
        sheet.save(file, picture_format(path))


def picture_format(path: str | os.PathLike[str]) -> str:
    """What Pillow writes in a file of this name. Raises UsageError for none that it knows."""
    file = Path(path)
    found = Image.registered_extensions().get(file.suffix.lower())
    if found not in Image.SAVE:
        raise UsageError(f"{file} does not end as a picture does: name it {file.stem}.png")
    return found


def _text(error: DepthwiseError | None) -> str | None:
    # What cannot be read is in a list of its own.
    return error.rule if isinstance(error, TooManyUnreadableError) else str(error) if error else None


class _Look(NamedTuple):
    dataset: Dataset | None
    error: DepthwiseError | None
    images: Tally
    strays: Strays


def _look(
    spec: str,
    seed: int,
    workers: int,
    progress: Progress | None,
    max_bad: float = MAX_BAD_FRACTION,
    *,
    nested: bool = False,
    afresh: bool = False,
    decoding: Decoding,
    columns: Columns | None = None,
) -> _Look:
    source = open_source(
        spec,
        workers=workers,
        progress=progress,
        nested=nested,
        afresh=afresh,
        decoding=decoding,
        columns=columns,
    )
    try:
        dataset = source.dataset(seed=seed, max_bad=max_bad)
    except DepthwiseError as error:
        if not (images := tally(partial(source.seen, None))).num_images:
            bad = source.strays.bad
            raise DepthwiseError(
                f"none of the {len(bad)} images in {Path(spec)} can be read (the first: {bad[0].reason})"
            ) from None
        return _Look(None, error, images, source.strays)
    return _Look(dataset, _untrainable(dataset), tally(partial(source.seen, dataset)), Strays.of(dataset))


def _untrainable(dataset: Dataset) -> DepthwiseError | None:
    try:
        require_trainable(dataset)
    except DepthwiseError as error:
        return error
    return None


def _names(groups: Iterable[Group]) -> tuple[Names, ...]:
    return tuple(tuple(image.name for image in group) for group in groups)


def _about_balance(look: _Look) -> list[str]:
    """A sentence if the classes are far from even: those of the first part, or of a set that was divided here.

    Where an image has any number of labels, each is learned by itself, and only too few images of one are a hindrance.
    """
    counts, dataset = look.images.counts, look.dataset
    by_class = Counter(next(iter(counts.values())))
    if look.images.labels_per_image != ONE_EACH:
        few = {name: n for name, n in counts.get("train", {}).items() if n < FEW}
        if not few:
            return []
        which = some(f"{shortened(name)} ({number_of(n, 'image')})" for name, n in few.items())
        return [
            f"{number_of(len(few), 'label')} of under {FEW} training images ({which}): --min-count {FEW} leaves such "
            f"labels out"
        ]
    if dataset and dataset.seed is not None:
        by_class = sum(map(Counter, counts.values()), Counter())
    largest, smallest = max(by_class, key=by_class.__getitem__), min(by_class, key=by_class.__getitem__)
    if by_class[largest] <= UNEVEN * by_class[smallest]:
        return []
    return [
        f"{shortened(largest)} has {by_class[largest] / by_class[smallest]:.3g} times the images of "
        f"{shortened(smallest)}, {by_class[largest]:,} and {by_class[smallest]:,}: --set class_weights=balanced lets "
        f"every class count alike in a training"
    ]


def _ranges_json(report: Check | Stats) -> dict[str, Any]:
    deep = report.deep._asdict() | {"note": report.deep.note(report.white_level)} if report.deep else None
    ranges = {name: getattr(report, name)._asdict() for name in ("widths", "heights", "labels_per_image")}
    return {**ranges, "deep": deep}


def _colour(split: Split, measure: int) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Mean and standard deviation of each channel, and of how many images."""
    means, squares = [], []
    for index in evenly(range(len(split)), measure):
        try:
            values = split.image(index).double().flatten(1) / 255
        except UnreadableImageError:
            continue
        means.append(values.mean(1))
        squares.append(values.square().mean(1))
    mean = torch.stack(means).mean(0)
    std = (torch.stack(squares).mean(0) - mean.square()).clamp(min=0).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist()), len(means)
