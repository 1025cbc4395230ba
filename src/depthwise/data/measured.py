"""Which images of a data set a network is measured on: none is divided for it, and every choice is said.

A set that is not divided is measured whole, unless the network was trained on it: then on the part that its training
kept from it. Of a divided set it is the test part, else val, unless another is asked for.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from depthwise.data.columns import Columns
from depthwise.data.dataset import Dataset, Split
from depthwise.data.image import DEFAULT, Decoding
from depthwise.data.names import some
from depthwise.data.numbering import joined, numbered, numbers, with_misses
from depthwise.data.sources.open import open_source
from depthwise.data.sources.verify import Progress
from depthwise.data.targets import SEVERAL, any_number, class_counts
from depthwise.errors import DepthwiseError, UsageError
from depthwise.words import number_of

ALL = "all"


@dataclass(frozen=True)
class Network:
    """What is known of the network that is measured: its classes, and the data set that it was trained on.

    fingerprint: of that data set, if it is known; seed: by which it was divided; nested: its classes are paths;
    columns: how its labels were read, as JSON has it. one_each: it tells one class of each image.
    """

    classes: tuple[str, ...]
    fingerprint: str | None = None
    seed: int = 0
    nested: bool = False
    columns: Any = None
    one_each: bool = False

    @staticmethod
    def of(classes: tuple[str, ...], training: Mapping[str, Any], *, one_each: bool = False) -> "Network":
        """From a bundle's config, whose `training` may hold anything."""
        fingerprint, seed = training.get("fingerprint"), training.get("seed")
        return Network(
            classes,
            fingerprint if isinstance(fingerprint, str) else None,
            seed if type(seed) is int else 0,
            training.get("nested") is True,
            training.get("columns"),
            one_each,
        )


@dataclass(frozen=True, eq=False)
class Measured:
    """Images to measure a network on: the part `part` of `dataset`, with the numbers that the network gives classes.

    said: sentences about what was chosen and left out. left_out: images by class that the network does not know.
    trained_on: the network was trained on this data set.
    """

    dataset: Dataset
    part: str
    split: Split
    said: tuple[str, ...]
    left_out: dict[str, int]
    trained_on: bool


def open_measured(
    spec: str | os.PathLike[str] | Dataset,
    network: Network,
    part: str | None = None,
    *,
    channels: int | None = None,
    workers: int = 2,
    progress: Progress | None = None,
    nested: bool = False,
    ignore_unknown: bool = False,
    miss_unknown: bool = False,
    decoding: Decoding = DEFAULT,
    columns: Columns | None = None,
) -> Measured:
    """The images of `spec` (as for `open_dataset`) that `network` is measured on; unreadable ones are left out.

    part: train, val, test or all; by default as this module says. decoding: how files are read. columns: how a manifest
    is read, where not as in training.

    Raises UsageError for a part that is not there, DepthwiseError for classes that the network does not know, unless
    `ignore_unknown` leaves them and images of them alone out, or `miss_unknown` counts them, of images of any number of
    labels, as missed; and for images of several classes where the network tells one.
    """
    source = open_source(
        spec,
        channels=channels,
        workers=workers,
        progress=progress,
        nested=nested or network.nested,
        decoding=decoding,
        columns=columns,
        kept_columns=network.columns,
    )
    trained_on = network.fingerprint in source.fingerprints
    dataset = source.dataset(seed=network.seed, max_bad=1.0, whole=not trained_on)
    if network.one_each and (several := dataset.task) in SEVERAL:
        raise DepthwiseError(
            f"{dataset.name} has images of any number of labels ({several}), and the network tells one class of each: "
            f"measure it on images of one label each, or with --one-label on the first of each"
        )
    name = _choice(dataset, part)
    split = joined(list(dataset.splits.values())) if name == ALL else dataset.splits[name]
    places = numbers(dataset.classes, network.classes)
    if miss_unknown and (ignore_unknown or not any_number(split)):
        raise UsageError(
            "--miss-unknown counts labels as missed that the network does not know, and is for images of any number of "
            "labels: leave it out, or leave such images out with --ignore-unknown alone"
        )
    found = numbered(split, with_misses(places, len(network.classes)) if miss_unknown else places)
    left_out = _unknown(dataset, split, places)
    said = _about_choice(dataset, name, len(found), trained_on, asked=part is not None)
    if left_out:
        treated = "are missed by every answer" if miss_unknown else "are left out" if ignore_unknown else ""
        said.append(_about_unknown(dataset, network, left_out, split, found, treated))
    split = found
    counts = class_counts(split, len(network.classes))
    missing = [label for k, label in enumerate(network.classes) if not counts[k]]
    if missing:
        said.append(f"of the network's {len(network.classes)} classes there is no image of {some(missing)}")
    splits = {part: numbered(images, places) for part, images in dataset.splits.items()}
    dataset = replace(dataset, classes=network.classes, splits=splits)
    return Measured(dataset, name, split, (*dataset.notes, *said), left_out, trained_on)


def _choice(dataset: Dataset, part: str | None) -> str:
    parts = list(dataset.splits)
    if part is None:
        # With a training part alone, the set is not divided, and measured whole.
        return next((name for name in ("test", "val") if name in parts), parts[0])
    if part != ALL and part not in parts:
        if parts == [ALL]:
            raise UsageError(
                f"{dataset.name} is not divided and has no {part} part: leave --split out to measure all its images"
            )
        raise UsageError(
            f"{dataset.name} has no {part} part: it has {', '.join(parts)}, and --split=all takes all of it"
        )
    return part


def _about_choice(
    dataset: Dataset, name: str, num_images: int, trained_on: bool, *, asked: bool
) -> list[str]:
    parts, images = list(dataset.splits), number_of(num_images, "image")
    said = []
    if trained_on and dataset.seed is not None and not asked:
        said.append(
            f"{dataset.name} is what the network was trained on, and is divided as its training divided it (seed "
            f"{dataset.seed}): the {name} part is measured, {images} that it did not learn from"
        )
    elif not asked and len(parts) > 1:
        said.append(f"{dataset.name} has the parts {', '.join(parts)}: {name} is measured, {images}")
    elif len(parts) == 1 and not trained_on and name in (ALL, "train"):
        said.append(f"{dataset.name} is not divided: all of it is measured, {images}")
    if trained_on and name in (ALL, "train"):
        learned = number_of(len(dataset.splits["train"]), "image")
        said.append(f"the network learned from {learned} of these: on others it is less often right")
    return said


def _about_unknown(
    dataset: Dataset, network: Network, left_out: dict[str, int], split: Split, found: Split, treated: str
) -> str:
    """What becomes in `found` of classes of `split` that are unknown, "" if nobody said; raises DepthwiseError then."""
    total, count = len(split), sum(left_out.values())
    which = some(f"{label!r} ({number_of(images, 'image')})" for label, images in left_out.items())
    known = some(map(repr, network.classes), most=12)
    if not len(found) or not class_counts(found, len(network.classes)).any():
        raise DepthwiseError(
            f"the network knows no class of {dataset.name}, {which}: measure it on what it was trained for, {known}"
        )
    labels_alone = any_number(split)
    if not treated and labels_alone:
        raise DepthwiseError(
            f"the network knows no label {which}; it knows {known}: leave these labels out with --ignore-unknown, "
            f"count them as missed with --miss-unknown, or rename them with --aliases"
        )
    if not treated:
        raise DepthwiseError(
            f"the network knows no class {which}: {count:,} of {total:,} images; it knows {known}: call the folders "
            f"as it does, or leave these images out with --ignore-unknown"
        )
    if labels_alone:
        return f"labels that the network does not know {treated}: {which}"
    return f"{number_of(count, 'image')} of {total:,} left out, of classes that the network does not know: {which}"


def _unknown(dataset: Dataset, split: Split, places: Tensor) -> dict[str, int]:
    counts = class_counts(split, len(dataset.classes)).tolist()
    return {label: counts[k] for k, label in enumerate(dataset.classes) if counts[k] and int(places[k]) < 0}
