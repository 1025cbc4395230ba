"""What `depthwise data suspects` does: a run's data looked over by networks that did not learn from it."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
from torch import Tensor

from depthwise.bounds import Bounds, checked
from depthwise.bundle import Bundle, read_bundle
from depthwise.data.dataset import BadImage, Dataset, all_targets
from depthwise.data.image import Decoding
from depthwise.data.names import some
from depthwise.data.numbering import as_before, with_white_level
from depthwise.data.repeated import Placed, problems, repeated
from depthwise.data.sources.open import open_dataset
from depthwise.errors import DepthwiseError, UsageError
from depthwise.evaluate.metrics import counted_pairs
from depthwise.models.network import Network
from depthwise.places import find_bundle
from depthwise.ship.load import load_module
from depthwise.ship.showing import Showing
from depthwise.suspects import confident, copies
from depthwise.suspects.confident import Answers
from depthwise.suspects.folds import Fold, divide, train_fold
from depthwise.suspects.found import Copies, Image, Outlier, Suspects, WrongLabel
from depthwise.suspects.looking import look
from depthwise.suspects.written import check_out, write
from depthwise.tasks import DEFAULT
from depthwise.train.files import RunFiles
from depthwise.train.recipe import Recipe
from depthwise.train.record import read_run
from depthwise.train.run import choose_device
from depthwise.train.signals import StopRequest
from depthwise.words import number_of, quote_path

TRAIN = "train"
FAR = 3.0
"""Interquartile ranges above the third quartile from which on a distance is an outlier's: "far out" (Tukey 1977,
Exploratory Data Analysis, section 2D)."""


@checked
def suspects(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    folds: Annotated[int, Bounds(0, 100)] = 0,
    data: str | os.PathLike[str] | Dataset | None = None,
    workers: Annotated[int, Bounds(0, 256)] = 2,
    force: bool = False,
    command: Sequence[str] = (),
    showing: Showing | None = None,
) -> Suspects:
    """Look over what the run `run` was trained on, and leave suspects.csv and suspects.html in the folder `out`.

    The val and test parts are judged by the run's network. folds: of the train part, each judged by a network that is
    trained on the others in `out`/folds; 0 leaves its labels unjudged. Copies are looked for in all parts. data: where
    the run's images lie now, if not where they lay. force: replace what is in `out`, but for folds that are the same.

    Raises DepthwiseError and UsageError as the command's sentences; KeyboardInterrupt, after a checkpoint, for Ctrl-C.
    """
    showing, out = showing or Showing(), Path(out)
    if folds == 1:
        raise UsageError("--folds=1 would leave nothing to learn from: give 2 or more, or 0 to train none")
    known, bundle = _read(Path(run))
    check_out(out, force=force)
    dataset = _open(run, known, bundle, data, workers, showing)
    held_out = [part for part in dataset.splits if part != TRAIN]
    if not (held_out or folds):
        raise DepthwiseError(
            f"{dataset.name} has no val or test part, and the network learned from all else: with --folds=3 networks "
            f"are trained that did not"
        )
    with showing.counting("looking for copies") as progress:
        small = copies.made_small(
            dataset.splits,
            dataset.channels,
            bundle.config.preprocess.white_level,
            out,
            workers=workers,
            progress=progress,
        )
    alike = copies.alike(small)
    looked = _Looked(dataset, bundle, workers, showing, [], [])
    for part in held_out:
        looked.add(bundle, part)
    said = []
    if folds:
        trained_on = dataset.splits[TRAIN]
        start = sum(len(dataset.splits[part]) for part in _before(dataset, TRAIN))
        together = alike.together[start : start + len(trained_on)]
        recipe = Recipe.from_json(known["recipe"])
        parts = divide(dataset, all_targets(trained_on), together, folds, recipe.seed)
        said += _judge_folds(looked, parts, recipe, known["command"], out / "folds", force=force)
    else:
        said.append(_unjudged(dataset, bundle))
    found = _gathered(os.fspath(run), dataset, looked, alike, said)
    write(found, out, command)
    for text in found.said:
        showing.note(text)
    return found


@dataclass(frozen=True, eq=False)
class _Looked:
    """The answers so far: by the numbers of images in all of `dataset`, part after part."""

    dataset: Dataset
    bundle: Bundle
    workers: int
    showing: Showing
    answers: list[Answers]
    bad: list[BadImage]

    def add(self, bundle: Bundle, part: str, fold: Fold | None = None) -> None:
        """Let the network of `bundle` judge the images of a part, or of a fold of it."""
        split = fold.dataset.splits["val"] if fold else self.dataset.splits[part]
        start = sum(len(self.dataset.splits[before]) for before in _before(self.dataset, part))
        config = bundle.config
        with self.showing.counting(f"looking at the {part} part") as progress:
            answers, bad = look(
                cast(Network, load_module(bundle)),
                config.build_task(),
                split,
                config.preprocess,
                device=choose_device(),
                workers=self.workers,
                progress=progress,
            )
        for found in answers:
            inside = fold.held_out[found.places] if fold else found.places
            self.answers.append(replace(found, places=start + inside))
        self.bad.extend(bad)


def _before(dataset: Dataset, part: str) -> list[str]:
    """The parts that come before `part`."""
    parts = list(dataset.splits)
    return parts[: parts.index(part)]


def _read(run: Path) -> tuple[dict[str, Any], Bundle]:
    """What run.json says, and the bundle."""
    files = RunFiles(run)
    if not files.run.is_file():
        above = RunFiles(find_bundle(run).parent)
        remedy = (
            f"the directory of its run, {above.root}"
            if above.run.is_file()
            else "the directory that `depthwise train --out` wrote"
        )
        raise DepthwiseError(
            f"{run} is a bundle, which does not say what images it was trained on: give {remedy}"
        )
    known, bundle = read_run(files.run), read_bundle(run)
    if bundle.config.task != DEFAULT:
        raise DepthwiseError(
            f"{run} tells any number of labels an image ({bundle.config.task}), and only images of one label each are "
            f"looked over so far: `depthwise eval {quote_path(run)} --data D --report FILE` shows the surest of the "
            f"wrong and of the missed labels"
        )
    return known, bundle


def _open(
    run: str | os.PathLike[str],
    known: dict[str, Any],
    bundle: Bundle,
    data: str | os.PathLike[str] | Dataset | None,
    workers: int,
    showing: Showing,
) -> Dataset:
    """The data set of the run, divided as in its training. Raises DepthwiseError if it is another one now."""
    before = known["data"]
    with showing.counting("looking images over") as progress:
        dataset = open_dataset(
            before["spec"] if data is None else data,
            seed=before.get("seed") or 0,
            workers=max(1, workers),
            progress=progress,
            max_bad=1.0,
            nested=before.get("nested") is True,
            decoding=Decoding.asked(before.get("decoding")),
            kept_columns=before.get("columns"),
        )
    if before["fingerprint"] not in dataset.fingerprints:
        raise DepthwiseError(
            f"{dataset.name} is not what {os.fspath(run)} was trained on, by its fingerprint: put its images back as "
            f"they were, or say where they lie now with --data"
        )
    dataset = as_before(dataset, before)
    white_level = bundle.config.preprocess.white_level
    return replace(
        dataset, splits={part: with_white_level(split, white_level) for part, split in dataset.splits.items()}
    )


def _judge_folds(
    looked: _Looked,
    folds: Sequence[Fold],
    recipe: Recipe,
    command: Sequence[str],
    folder: Path,
    *,
    force: bool,
) -> list[str]:
    """Train a network for each fold, unless that is done, and let it judge what it did not learn from."""
    unknown = 0
    for number, fold in enumerate(folds, start=1):
        looked.showing.note(
            f"fold {number} of {len(folds)}: {number_of(len(fold.learned), 'image')} to learn from, "
            f"{len(fold.held_out):,} to judge"
        )
        place, of = folder / str(number), f"fold {number} of {len(folds)}"
        try:
            with StopRequest() as stop:
                train_fold(fold, recipe, place, command, workers=looked.workers, force=force)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{of} is at its last checkpoint: give the command again, and it goes on there"
            ) from None
        if stop.requested:  # when the run had nothing more to stop before
            raise KeyboardInterrupt(f"{of} is done: give the command again, and the next begins")
        before = len(looked.answers)
        looked.add(read_bundle(place), TRAIN, fold)
        # Of a class that the fold has no other image of its network knows nothing.
        taught = torch.zeros(len(looked.dataset.classes), dtype=torch.bool)
        taught[all_targets(fold.dataset.splits[TRAIN])] = True
        for at in range(before, len(looked.answers)):
            knows = taught[looked.answers[at].given]
            unknown += int((~knows).sum())
            looked.answers[at] = looked.answers[at].at(knows)
    if not unknown:
        return []
    return [
        f"{number_of(unknown, 'training image is', 'training images are')} the only one of a class, or copies of it: "
        f"nothing could be learned from others, and their labels were not judged"
    ]


def _unjudged(dataset: Dataset, bundle: Bundle) -> str:
    """What was not looked at, and what it would take."""
    seconds = bundle.config.training.get("seconds")
    took = f", about {_duration(2 * seconds)} here" if isinstance(seconds, int | float) else ""
    return (
        f"the labels of the train part ({number_of(len(dataset.splits[TRAIN]), 'image')}) were not judged, for the "
        f"network learned from them: --folds=3 trains three networks on two thirds of it each{took}"
    )


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 2:
        return f"{hours:.0f} hours"
    return f"{minutes:.0f} minutes" if minutes >= 2 else f"{max(1, seconds):.0f} s"


def _gathered(run: str, dataset: Dataset, looked: _Looked, alike: copies.Alike, said: list[str]) -> Suspects:
    """What the answers and the copies come to."""
    num_classes = len(dataset.classes)
    answers = confident.joined(looked.answers)
    doubts = confident.doubted(answers, num_classes)
    images = _Images(dataset)
    labels = [
        WrongLabel(image, dataset.classes[suggested], odds, own)
        for image, suggested, odds, own in zip(
            images.at(answers.places[doubts.rows]),
            doubts.suggested.tolist(),
            doubts.odds.tolist(),
            answers.own[doubts.rows].tolist(),
            strict=True,
        )
    ]
    apart = counted_pairs(answers.given[doubts.rows], doubts.suggested, num_classes)
    groups, clauses = _copies(images, alike)
    bad = [*dataset.bad, *looked.bad]
    counts = images.parts_of(answers.places)
    about = [
        f"labels were judged of {number_of(len(answers), 'image')}: "
        + ", ".join(f"{count:,} of {part}" for part, count in counts.items()),
        *(f"copies: {clause}" for clause in clauses),
        *said,
    ]
    if bad:
        about.append(
            f"{number_of(len(bad), 'unreadable image is', 'unreadable images are')} left out: "
            f"{some(dict.fromkeys(image.path for image in bad))}"
        )
    return Suspects(
        run=run,
        data=dataset.name,
        images={part: len(split) for part, split in dataset.splits.items()},
        judged=counts,
        wrong_labels=labels,
        confused=[(dataset.classes[a], dataset.classes[b], count) for a, b, count in apart],
        copies=groups,
        blank=[*images.at(torch.from_numpy(alike.blank))],
        outliers=_outliers(images, answers),
        said=about,
        splits=dataset.splits,
    )


def _outliers(images: "_Images", answers: Answers) -> list[Outlier]:
    """Those far out, the furthest first."""
    known = answers.at(answers.distance.isfinite())
    if not len(known):
        return []
    first, third = np.quantile(known.distance.numpy(), (0.25, 0.75))
    out = known.at(known.distance > third + FAR * (third - first))
    out = out.at(out.distance.argsort(descending=True, stable=True))
    return [Outlier(*pair) for pair in zip(images.at(out.places), out.distance.tolist(), strict=True)]


def _copies(images: "_Images", alike: copies.Alike) -> tuple[list[Copies], list[str]]:
    """The groups, those in different classes or parts first; and a phrase for each kind of trouble."""
    placed: dict[Placed, Image] = {}
    for number, (members, _) in enumerate(alike.groups):
        for image in images.at(torch.from_numpy(members)):
            placed[Placed(image.part, (image.label,), image.name, str(number))] = image
    found = repeated(placed)
    conflicts, leaks = set(found.conflicts), set(found.leaks)
    groups = [
        Copies(
            tuple(placed[of] for of in group),
            alike.groups[int(group[0].content)][1],
            group in conflicts,
            group in leaks,
        )
        for group in found.duplicates
    ]
    groups.sort(
        key=lambda group: (
            -group.different_labels - group.different_parts,
            not group.different_labels,
            -group.likeness,
        )
    )
    return groups, list(problems(conflicts, leaks))


class _Images:
    """The images of a data set by their numbers, part after part."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._parts = list(dataset.splits)
        sizes = [len(split) for split in dataset.splits.values()]
        self._ends = torch.tensor(sizes).cumsum(0)
        self._starts = self._ends - torch.tensor(sizes)

    def at(self, numbers: Tensor) -> Iterator[Image]:
        """Those of `numbers`, int64 [m], in that order."""
        parts = torch.searchsorted(self._ends, numbers, right=True)
        for part, index in zip(parts.tolist(), (numbers - self._starts[parts]).tolist(), strict=True):
            split = self._dataset.splits[self._parts[part]]
            (label,) = split.targets(torch.tensor([index])).tolist()
            yield Image(self._parts[part], index, split.name(index), self._dataset.classes[label])

    def parts_of(self, numbers: Tensor) -> dict[str, int]:
        """How many of `numbers` are of each part that has one."""
        counts = torch.searchsorted(self._ends, numbers, right=True).bincount(minlength=len(self._parts))
        return {part: count for part, count in zip(self._parts, counts.tolist(), strict=True) if count}
