"""A folder of images as a data set: only what can be decoded, divided if it is not, with one list of classes."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from depthwise.data.dataset import BadImage, Dataset, Deep, FileSplit, Split
from depthwise.data.division import held_out
from depthwise.data.image import DEFAULT, Decoding
from depthwise.data.names import composed, some
from depthwise.data.repeated import Placed, repeated, told
from depthwise.data.sources.facts import Fact, Facts
from depthwise.data.sources.listing import Listing, ignored_kinds, list_folder
from depthwise.data.sources.source import (
    MAX_BAD_FRACTION,
    Seen,
    Strays,
    TooManyUnreadableError,
    deep_of,
    names_of,
    seen_in,
)
from depthwise.data.sources.verify import Progress, verify
from depthwise.errors import DepthwiseError
from depthwise.words import number_of, quote_path

Parts = dict[str, dict[str, list[str]]]
"""Files by part and class."""


class Looked(NamedTuple):
    """A `Source`: a folder that was looked over. num_trusted: facts that were remembered, see `verify`.

    decoding: how files were read. channels: that images are to have, None for what suits them.
    """

    listing: Listing
    facts: Facts
    bad: Sequence[BadImage]
    num_trusted: int = 0
    decoding: Decoding = DEFAULT
    channels: int | None = None

    @property
    def deep(self) -> Deep | None:
        """Of the images with 16 bits a sample."""
        return deep_of(self.facts)

    @property
    def fingerprints(self) -> tuple[str, str]:
        """SHA-256 of names and contents: with composed names, and with those on the disk as older runs have it."""
        return _fingerprint(self.facts, composed), _fingerprint(self.facts, str)

    @property
    def strays(self) -> Strays:
        ignored = self.listing.ignored
        paths = tuple(stray.path for stray in ignored)
        return Strays(tuple(self.bad), paths, ignored_kinds(ignored), self.listing.notes, self.deep)

    def dataset(self, *, seed: int = 0, max_bad: float = MAX_BAD_FRACTION, whole: bool = False) -> Dataset:
        return build(self, seed=seed, max_bad=max_bad, whole=whole)

    def seen(self, dataset: Dataset | None) -> Iterator[Seen]:
        return seen_in(self.facts, self._as_listed() if dataset is None else names_of(dataset))

    def _as_listed(self) -> Iterator[tuple[str, tuple[str, ...], str]]:
        for part, by_class in _readable(self.listing.parts, self.facts).items():
            for label, names in by_class.items():
                yield from ((part, (label,), name) for name in names)


def look_at(
    root: Path,
    *,
    nested: bool = False,
    workers: int = 2,
    progress: Progress | None = None,
    afresh: bool = False,
    decoding: Decoding = DEFAULT,
    channels: int | None = None,
) -> Looked:
    """Lists the folder `root` and verifies its images; raises a DepthwiseError about what lies where."""
    listing = list_folder(root, nested=nested)
    names = listing.names()
    verified = verify(root, names, workers=workers, progress=progress, decoding=decoding, afresh=afresh)
    return Looked(listing, *verified, decoding, channels)


def build(
    looked: Looked,
    *,
    seed: int = 0,
    max_bad: float = MAX_BAD_FRACTION,
    whole: bool = False,
) -> Dataset:
    """The data set of those files of a listing that have a fact.

    To be trained on: divided by `seed` if it is not yet, with train's classes, at least two; what other parts have of
    other classes is left out. whole: to be measured, as it lies, with whatever classes there are; if it is not divided
    it has one part, called all.
    """
    listing, facts, bad = looked.listing, looked.facts, looked.bad
    total = len(facts) + len(bad)
    if not facts or len(bad) > max_bad * total:
        raise TooManyUnreadableError(
            os.fspath(listing.root), _check_command(listing), bad, len(bad), total, max_bad
        )
    notes = [f"{place}/ holds no image" for place in listing.empty] + list(listing.notes)
    parts = _readable(listing.parts, facts)
    notes += _lost_classes(listing.parts, parts)
    if whole:
        parts = {part or "all": by_class for part, by_class in parts.items() if by_class}
        classes = sorted(set().union(*parts.values()))
    else:
        classes = _trained_classes(listing.root, parts)
        parts = _of_classes(parts, classes, notes)
    split_source, divided_by = _split_source(parts, None if whole else seed), None
    if not whole and len(parts) == 1 and parts.keys() <= {"", "train"}:
        (only,), divided_by = parts.values(), seed
        parts, alike = divide(only, facts, seed)
        if alike:
            notes.append(f"too few different images to divide, all kept in train: {some(alike)}")
    if not whole:
        notes += _lacking(parts, classes)
    kept = [name for by_class in parts.values() for names in by_class.values() for name in names]
    channels = looked.channels or (1 if all(facts[name].channels == 1 for name in kept) else 3)
    fingerprint, earlier = looked.fingerprints
    return Dataset(
        name=listing.root.resolve().name,
        classes=tuple(classes),
        splits={
            part: _split(listing.root, by_class, classes, channels, looked.decoding)
            for part, by_class in parts.items()
        },
        channels=channels,
        fingerprint=fingerprint,
        earlier_fingerprint=earlier,
        split_source=split_source,
        seed=divided_by,
        nested=listing.nested,
        bad=tuple(bad),
        ignored=tuple(ignored.path for ignored in listing.ignored),
        ignored_kinds=ignored_kinds(listing.ignored),
        notes=tuple(notes),
        repeated=() if whole else told(repeated(_placed(parts, facts)), _check_command(listing)),
        num_trusted=looked.num_trusted,
        deep=looked.deep,
        decoding=looked.decoding,
    )


def _check_command(listing: Listing) -> str:
    return f"depthwise data check {quote_path(listing.root)}{' --nested' if listing.nested else ''}"


def _placed(parts: Parts, facts: Mapping[str, Fact]) -> Iterator[Placed]:
    for part, by_class in parts.items():
        for label, names in by_class.items():
            yield from (Placed(part, (label,), name, facts[name].sha256) for name in names)


def _split_source(parts: Iterable[str], seed: int | None) -> str:
    """How the parts came about that were found, of which the only one is divided by `seed` unless that is None."""
    found = [f"{part}/" for part in parts if part not in ("", "all")]
    if len(found) > 1 or found not in ([], ["train/"]):
        return f"as found in {', '.join(found)}"
    place = "".join(found)
    if seed is None:
        return f"not divided{place and f', all in {place}'}"
    return f"seeded stratified 80/20{place and f' of {place}'}, seed {seed}"


def divide(whole: dict[str, list[str]], facts: Mapping[str, Fact], seed: int) -> tuple[Parts, list[str]]:
    """Each class in train and val, 80/20, and the classes that could not be divided and are all in train.

    A file's place depends on its class's contents and the seed alone: neither the order of the folder nor a rename
    moves it, and two copies of an image never come to stand on both sides.
    """
    train: dict[str, list[str]] = {}
    val: dict[str, list[str]] = {}
    for label, names in whole.items():
        in_val = held_out((facts[name].sha256 for name in names), seed)
        train[label] = [name for name in names if facts[name].sha256 not in in_val]
        if in_val:
            val[label] = [name for name in names if facts[name].sha256 in in_val]
    return {"train": train} | ({"val": val} if val else {}), [label for label in train if label not in val]


def _readable(parts: Parts, facts: Mapping[str, Fact]) -> Parts:
    return {
        part: {
            label: kept
            for label, names in classes.items()
            if (kept := [name for name in names if name in facts])
        }
        for part, classes in parts.items()
    }


def _lost_classes(listed: Parts, readable: Parts) -> list[str]:
    """A sentence for each part about classes of which no image is left."""
    return [
        f"no image of {some(lost)}{f' in {part}' if part else ''} can be read, and without one there is no class"
        for part, by_class in listed.items()
        if (lost := [label for label in by_class if label not in readable[part]])
    ]


def _trained_classes(root: Path, parts: Parts) -> list[str]:
    """Train's classes; a set for evaluation alone has those of all its parts."""
    classes = sorted(parts["train"] if "train" in parts else set().union(*parts.values()))
    if not classes:
        raise DepthwiseError(
            f"{root} has no readable image in its train part: put images into its classes' folders"
        )
    if len(classes) < 2:
        raise DepthwiseError(
            f"{root} has one class, {some(classes)}: telling classes apart takes two, add a folder"
        )
    return classes


def _of_classes(parts: Parts, classes: Sequence[str], notes: list[str]) -> Parts:
    """`parts` without classes that are not learned, as of pictures that nobody labelled; `notes` say what that is."""
    kept: Parts = {}
    for part, by_class in parts.items():
        unknown = {label: len(names) for label, names in by_class.items() if label not in classes}
        if unknown:
            notes.append(
                f"{part} has {number_of(sum(unknown.values()), 'image')} of {some(unknown)}, which train has not: left "
                f"out, for a class is learned from training images alone"
            )
        if left := {label: names for label, names in by_class.items() if label in classes}:
            kept[part] = left
    return kept


def _lacking(parts: Parts, classes: Sequence[str]) -> list[str]:
    return [
        f"{part} has no image of {some(lacking)}"
        for part, by_class in parts.items()
        if (lacking := [label for label in classes if label not in by_class])
    ]


def _split(
    root: Path, by_class: dict[str, list[str]], classes: Sequence[str], channels: int, decoding: Decoding
) -> Split:
    labelled = [
        (name, label) for label, of_class in enumerate(classes) for name in by_class.get(of_class, ())
    ]
    labels = torch.tensor([label for _, label in labelled], dtype=torch.int64)
    return FileSplit(tuple(name for name, _ in labelled), labels, channels, str(root), decoding)


def _fingerprint(facts: Mapping[str, Fact], named: Callable[[str], str]) -> str:
    digest = hashlib.sha256()
    for name, sha256 in sorted((named(name), fact.sha256) for name, fact in facts.items()):
        digest.update(os.fsencode(name) + b"\0" + bytes.fromhex(sha256))
    return digest.hexdigest()
