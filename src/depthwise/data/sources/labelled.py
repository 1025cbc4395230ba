"""Images whose labels stand beside them as a data set: its vocabulary, its division, and what is wrong with it."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from depthwise.data.columns import Columns
from depthwise.data.dataset import BadImage, Dataset, Deep, FileSplit, Split
from depthwise.data.division import held_out, stratified
from depthwise.data.image import DEFAULT, Decoding
from depthwise.data.names import some
from depthwise.data.repeated import Placed, repeated, several_times, told
from depthwise.data.sources.facts import Facts
from depthwise.data.sources.rows import NO_PART, PARTS, Rows
from depthwise.data.sources.source import (
    MAX_BAD_FRACTION,
    Seen,
    Strays,
    TooManyUnreadableError,
    deep_of,
    names_of,
    seen_in,
)
from depthwise.data.sources.stored import StoredSplit
from depthwise.data.sources.verify import Files
from depthwise.data.targets import SEVERAL, LabelLists
from depthwise.data.vocabulary import choose_classes
from depthwise.errors import DepthwiseError
from depthwise.places import short_name
from depthwise.words import number_of, quote, quote_path

if TYPE_CHECKING:  # which takes Arrow, and sets of other kinds do without
    from depthwise.data.sources.parquet import Images
    from depthwise.data.sources.tars import Members

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Labelled:
    """A `Source`: rows of which the files were looked at.

    path: what a person calls it. store: where the files are. given: what says the parts, if something does. lost:
    files of many images that cannot be read at all.
    """

    path: Path
    store: "Files | Images | Members"
    rows: Rows
    given: str
    notes: tuple[str, ...]
    columns: Columns
    facts: Facts
    bad: list[BadImage]
    num_trusted: int = 0
    decoding: Decoding = DEFAULT
    channels: int | None = None
    lost: tuple[BadImage, ...] = ()

    @cached_property
    def readable(self) -> Rows:
        """The rows whose images can be decoded."""
        return self.rows.only(self.facts.known)

    @property
    def deep(self) -> Deep | None:
        """Of the images with 16 bits a sample."""
        return deep_of(self.facts)

    @cached_property
    def fingerprints(self) -> tuple[str, str]:
        """SHA-256 of names, contents, labels and parts."""
        rows, digest = self.readable, hashlib.sha256()
        contents = self.facts.rows["sha256"][rows.places].tolist()
        listed = zip(rows.parts.tolist(), rows.names, rows.lists(), contents, strict=True)
        for part, name, numbers, content in listed:
            said = sorted(rows.vocabulary[k] if k >= 0 else f"\0{rows.vocabulary[-k - 2]}" for k in numbers)
            words = (name, str(part), *said)
            digest.update(b"\0".join(map(os.fsencode, words)) + b"\n" + content)
        return digest.hexdigest(), digest.hexdigest()

    @property
    def strays(self) -> Strays:
        return Strays((*self.lost, *self.bad), notes=self.notes, deep=self.deep)

    @property
    def check_command(self) -> str:
        """What lists all that is wrong."""
        return " ".join(["depthwise data check", quote_path(self.path), *map(quote, self.columns.words())])

    def images(self) -> dict[str, Split]:
        """Those that can be read, by part if that is given, else as "all", whatever their labels: by their names."""
        rows = replace(
            self.readable, images=np.empty(0, np.int64), numbers=np.empty(0, np.int32), several=True
        )
        parts = {
            "all" if k == NO_PART else PARTS[k]: rows.parts == k for k in sorted(set(rows.parts.tolist()))
        }
        return {
            part: _split(self, rows.only(inside), _channels(self, rows)) for part, inside in parts.items()
        }

    def dataset(self, *, seed: int = 0, max_bad: float = MAX_BAD_FRACTION, whole: bool = False) -> Dataset:
        return build(self, seed=seed, max_bad=max_bad, whole=whole)

    def seen(self, dataset: Dataset | None) -> Iterator[Seen]:
        return seen_in(self.facts, self._as_listed() if dataset is None else names_of(dataset))

    def _as_listed(self) -> Iterator[tuple[str, tuple[str, ...], str]]:
        rows = self.readable
        for part, name, numbers in zip(rows.parts.tolist(), rows.names, rows.lists(), strict=True):
            classes = tuple(sorted(rows.vocabulary[k] for k in numbers if k >= 0))
            yield "" if part == NO_PART else PARTS[part], classes, name


def build(source: Labelled, *, seed: int, max_bad: float, whole: bool) -> Dataset:
    """The data set of the images that can be read.

    To be trained on: divided by `seed` if it is not yet; its classes have training images. whole: to be measured, as it
    lies, with every label for a class that the columns do not leave out.
    """
    if source.lost and max_bad < 1:
        raise DepthwiseError(
            f"{source.lost[0].reason}, or leave all its images out of a training with --skip-bad"
        )
    total = len(source.rows)
    if not len(source.readable) or len(source.bad) > max_bad * total:
        raise TooManyUnreadableError(
            str(source.path), source.check_command, source.bad, len(source.bad), total, max_bad
        )
    rows, notes = source.readable, list(source.notes)
    columns = replace(source.columns, min_count=1) if whole else source.columns
    present = rows.numbers >= 0
    learning = np.ones(len(rows), bool) if whole else rows.parts <= 0
    vocabulary = choose_classes(
        rows.vocabulary,
        _counted(rows.numbers[present], rows),
        _counted(rows.numbers[present & learning[rows.images]], rows),
        columns,
    )
    notes += vocabulary.notes
    rows = _renumbered(rows, vocabulary.numbers)
    unlabelled = len(rows) - len(np.unique(rows.images[rows.numbers >= 0]))
    rows = _labelled(rows, columns, notes)
    classes = vocabulary.classes
    if not whole and len(classes) < (1 if rows.several else 2):
        raise DepthwiseError(
            f"{source.path} has {some(classes) or 'no label'} for classes"
            f"{''.join(f' ({note})' for note in vocabulary.notes)}: telling classes apart takes two of them"
        )
    if not whole and rows.several and columns.absent == "unknown" and (rows.numbers >= 0).all():
        raise DepthwiseError(
            f"{source.path} says of no image which labels it lacks, and --absent unknown takes nothing else for that: "
            f"name a column of such labels with --negative-column, or leave --absent out"
        )
    parts, split_source, divided_by = _parts(source, rows, seed, whole)
    notes += () if whole else _lacking(rows, parts, classes)
    channels = _channels(source, rows)
    fingerprint, earlier = source.fingerprints
    return Dataset(
        name=short_name(source.path),
        classes=classes,
        splits={part: _split(source, rows.only(inside), channels) for part, inside in parts.items()},
        channels=channels,
        fingerprint=fingerprint,
        earlier_fingerprint=earlier,
        split_source=split_source,
        seed=divided_by,
        bad=source.strays.bad,
        notes=tuple(notes),
        repeated=() if whole else _repeated(source, rows, parts, classes),
        num_trusted=source.num_trusted,
        deep=source.deep,
        decoding=source.decoding,
        columns=source.columns,
        unlabelled=unlabelled,
        unknown_labels=vocabulary.unknown,
        task=_task(rows, columns),
    )


def _channels(source: Labelled, rows: Rows) -> int:
    grey = bool((source.facts.rows["channels"][rows.places] == 1).all())
    return source.channels or (1 if grey else 3)


def _task(rows: Rows, columns: Columns) -> str:
    if not rows.several:
        return "single-label"
    return SEVERAL[columns.absent == "unknown"]


def _counted(labels: NDArray[np.int32], rows: Rows) -> NDArray[np.int64]:
    return np.bincount(labels, minlength=len(rows.vocabulary))


def _renumbered(rows: Rows, numbers: NDArray[np.int64]) -> Rows:
    """`rows` with classes for labels; labels without a class are gone."""
    denied = rows.numbers < 0
    found = numbers[np.where(denied, -rows.numbers - 2, rows.numbers)]
    kept = found >= 0
    labels = np.where(denied, -found - 2, found)[kept].astype(np.int32)
    return replace(rows, images=rows.images[kept], numbers=labels)


def _labelled(rows: Rows, columns: Columns, notes: list[str]) -> Rows:
    """`rows` without images that say nothing; `notes` say which they are."""
    lists = rows.images if rows.several else rows.images[rows.numbers >= 0]
    says = np.bincount(lists, minlength=len(rows)) > 0
    if says.all():
        return rows
    which = some([rows.names[k] for k in np.flatnonzero(~says).tolist()])
    without = f"{number_of(int((~says).sum()), 'image')} without a label that is a class ({which})"
    if rows.several and columns.absent == "negative":
        remedy = ", --absent unknown leaves them out" if (rows.numbers < 0).any() else ""
        notes.append(f"{without}: taken to show none of the classes{remedy}")
        return rows
    notes.append(f"{without}: left out")
    return rows.only(says)


def _parts(source: Labelled, rows: Rows, seed: int, whole: bool) -> tuple[dict[str, Bools], str, int | None]:
    """Which images are in which part, how that came about, and the seed if they were divided here."""
    found = {part: rows.parts == number for number, part in enumerate(PARTS)}
    found = {part: inside for part, inside in found.items() if inside.any()}
    if len(found) > 1 or not found.keys() <= {"train"} or (whole and found):
        return found, f"as given by {source.given}", None
    if whole:
        return {"all": np.ones(len(rows), bool)}, "not divided", None
    contents = [content.hex() for content in source.facts.rows["sha256"][rows.places].tolist()]
    in_val = (_divided_by_labels if rows.several else _divided_by_class)(rows, contents, seed)
    parts = {part: inside for part, inside in (("train", ~in_val), ("val", in_val)) if inside.any()}
    how = "by labels (iterative stratification)" if rows.several else "stratified"
    of = f" of train in {source.given}" if found else ""
    return parts, f"seeded {how} 80/20{of}, seed {seed}", seed


def _divided_by_class(rows: Rows, contents: list[str], seed: int) -> Bools:
    """As a folder of the same images is divided; copies in two classes, which can fall on both sides, are in train."""
    by_class: dict[int, set[str]] = {}
    for image, label in zip(rows.images.tolist(), rows.numbers.tolist(), strict=True):
        by_class.setdefault(label, set()).add(contents[image])
    held = {content for of_class in by_class.values() for content in held_out(of_class, seed)}
    for of_class in by_class.values():
        held -= of_class - held_out(of_class, seed)
    return np.array([content in held for content in contents], bool)


def _divided_by_labels(rows: Rows, contents: list[str], seed: int) -> Bools:
    """Copies of a picture are one, which has the labels of all."""
    different = sorted(set(contents))
    place = {content: k for k, content in enumerate(different)}
    copy_of = np.array([place[content] for content in contents], np.int64)
    present = rows.numbers >= 0
    pairs = np.unique(copy_of[rows.images[present]] << 32 | rows.numbers[present])
    labels = (pairs & 0xFFFFFFFF).astype(np.int32)
    return stratified(different, pairs >> 32, labels, seed)[copy_of]


def _lacking(rows: Rows, parts: dict[str, Bools], classes: tuple[str, ...]) -> Iterator[str]:
    present = rows.numbers >= 0
    images, labels = rows.images[present], rows.numbers[present]
    for part, inside in parts.items():
        counts = np.bincount(labels[inside[images]], minlength=len(classes))
        if (counts == 0).any():
            yield f"{part} has no image of {some(classes[k] for k in np.flatnonzero(counts == 0).tolist())}"


def _split(source: Labelled, rows: Rows, channels: int) -> Split:
    """By class and name, of several classes by the first; images in a larger file as they lie in it."""
    order = np.arange(len(rows))
    if isinstance(source.store, Files):
        present = rows.numbers >= 0
        first = np.full(len(rows), np.iinfo(np.int32).max, np.int32)
        np.minimum.at(first, rows.images[present], rows.numbers[present])
        order = np.lexsort((order, first))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    images = rank[rows.images]
    by_image = np.lexsort((np.abs(rows.numbers), rows.numbers < 0, images))
    values = torch.from_numpy(rows.numbers[by_image])
    lengths = np.bincount(images, minlength=len(rows))
    lists = LabelLists(torch.from_numpy(np.concatenate([[0], lengths.cumsum()])), values)
    names, labels = rows.names.take(order), lists if rows.several else values.long()
    if isinstance(source.store, Files):
        return FileSplit(names, labels, channels, str(source.store.root), source.decoding)
    return StoredSplit(source.store, rows.places[order], names, labels, channels, source.decoding)


def _repeated(
    source: Labelled, rows: Rows, parts: dict[str, Bools], classes: tuple[str, ...]
) -> tuple[str, ...]:
    copies = several_times(source.facts.sha256s()[rows.places])

    def placed() -> Iterator[Placed]:
        for part, inside in parts.items():
            mine = rows.only(inside & copies)
            contents = source.facts.rows["sha256"][mine.places].tolist()
            for name, numbers, content in zip(mine.names, mine.lists(), contents, strict=True):
                yield Placed(part, tuple(classes[k] for k in sorted(numbers) if k >= 0), name, content.hex())

    return told(repeated(placed()), source.check_command)
