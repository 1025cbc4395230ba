"""A folder of images as a data set: only what can be decoded, divided if it is not, with one list of classes."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from depthwise.data.dataset import BadImage, Dataset, FileSplit, Split
from depthwise.data.listing import Listing, list_folder
from depthwise.data.verify import Fact, Progress, verify
from depthwise.errors import DepthwiseError
from depthwise.words import quote_path

VAL_FRACTION = 0.2
MAX_BAD_FRACTION = 0.01

Parts = dict[str, dict[str, list[str]]]
"""Files by part and class."""


class TooManyUnreadableError(DepthwiseError):
    """More of the files than allowed cannot be decoded; `bad` lists them all, `rule` is for where that was seen."""

    def __init__(self, root: Path, bad: Sequence[BadImage], total: int, max_bad: float) -> None:
        super().__init__(
            f"{len(bad)} of {total} images in {root} cannot be read, over {max_bad:.0%}: "
            f"{_some([f'{image.path} ({image.reason})' for image in bad])}; "
            f"see them all with `depthwise data check {quote_path(root)}`, and mend or remove them, or leave them out "
            f"of a training with --skip-bad"
        )
        self.bad = tuple(bad)
        self.rule = (
            f"over {max_bad:.0%} of the {total} images cannot be read, which stops a training: mend or remove them, or "
            "leave them out with --skip-bad"
        )


def open_folder(
    root: Path,
    *,
    seed: int = 0,
    channels: int | None = None,
    workers: int = 2,
    progress: Progress | None = None,
    max_bad: float = MAX_BAD_FRACTION,
) -> Dataset:
    """The images of `root`; raises TooManyUnreadableError, or a DepthwiseError about what lies where."""
    listing = list_folder(root)
    facts, bad = verify(root, listing.names(), workers=workers, progress=progress)
    return build(listing, facts, bad, seed=seed, channels=channels, max_bad=max_bad)


def build(
    listing: Listing,
    facts: dict[str, Fact],
    bad: Sequence[BadImage],
    *,
    seed: int = 0,
    channels: int | None = None,
    max_bad: float = MAX_BAD_FRACTION,
) -> Dataset:
    """The data set of those files of a listing that have a fact."""
    total = len(facts) + len(bad)
    if not facts or len(bad) > max_bad * total:
        raise TooManyUnreadableError(listing.root, bad, total, max_bad)
    notes = [f"{place}/ holds no image" for place in listing.empty]
    parts = _readable(listing.parts, facts)
    if parts.keys() <= {"", "train"}:
        ((place, whole),) = parts.items()
        parts, undivided = divide(whole, facts, seed)
        split_source = f"seeded stratified 80/20{f' of {place}/' if place else ''}, seed {seed}"
        if undivided:
            notes.append(f"too few different images to divide, all kept in train: {_some(undivided)}")
    else:
        split_source = f"as found in {', '.join(f'{part}/' for part in parts)}"
    classes = _classes(listing.root, parts)
    notes += [
        f"{part} has no image of {_some(lacking)}"
        for part, by_class in parts.items()
        if (lacking := [label for label in classes if label not in by_class])
    ]
    if channels is None:
        channels = 1 if all(fact.channels == 1 for fact in facts.values()) else 3
    return Dataset(
        name=listing.root.resolve().name,
        classes=classes,
        splits={part: _split(listing.root, by_class, classes, channels) for part, by_class in parts.items()},
        channels=channels,
        fingerprint=_fingerprint(facts),
        split_source=split_source,
        bad=tuple(bad),
        ignored=listing.ignored,
        notes=tuple(notes),
    )


def divide(whole: dict[str, list[str]], facts: dict[str, Fact], seed: int) -> tuple[Parts, list[str]]:
    """Each class in train and val, 80/20, and the classes that could not be divided and are all in train.

    A file's place depends on its class's contents and the seed alone: neither the order of the folder nor a rename
    moves it, and two copies of an image never come to stand on both sides.
    """
    train: dict[str, list[str]] = {}
    val: dict[str, list[str]] = {}
    for label, names in whole.items():
        contents = {facts[name].sha256 for name in names}
        drawn = sorted(contents, key=lambda content: hashlib.sha256(f"{seed} {content}".encode()).digest())
        num_val = max(1, round(VAL_FRACTION * len(drawn))) if len(drawn) > 1 else 0
        in_val = set(drawn[:num_val])
        train[label] = [name for name in names if facts[name].sha256 not in in_val]
        if in_val:
            val[label] = [name for name in names if facts[name].sha256 in in_val]
    return {"train": train} | ({"val": val} if val else {}), [label for label in train if label not in val]


def _readable(parts: Parts, facts: dict[str, Fact]) -> Parts:
    return {
        part: {
            label: kept
            for label, names in classes.items()
            if (kept := [name for name in names if name in facts])
        }
        for part, classes in parts.items()
    }


def _classes(root: Path, parts: Parts) -> tuple[str, ...]:
    """Train's classes; a set for evaluation alone has those of all its parts."""
    classes = sorted(parts["train"] if "train" in parts else set().union(*parts.values()))
    if len(classes) < 2:
        raise DepthwiseError(
            f"{root} has one class, {_some(classes)}: telling classes apart takes two, add a folder"
        )
    for part, by_class in parts.items():
        unknown = sorted(by_class.keys() - set(classes))
        if unknown:
            raise DepthwiseError(
                f"{root / part} has classes that train has not ({_some(unknown)}): give them training images, "
                "or take them out"
            )
    return tuple(classes)


def _split(root: Path, by_class: dict[str, list[str]], classes: tuple[str, ...], channels: int) -> Split:
    labelled = [
        (name, label) for label, of_class in enumerate(classes) for name in by_class.get(of_class, ())
    ]
    labels = torch.tensor([label for _, label in labelled], dtype=torch.int64)
    return FileSplit(tuple(name for name, _ in labelled), labels, channels, str(root))


def _fingerprint(facts: dict[str, Fact]) -> str:
    digest = hashlib.sha256()
    for name in sorted(facts):
        digest.update(os.fsencode(name) + b"\0" + bytes.fromhex(facts[name].sha256))
    return digest.hexdigest()


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
