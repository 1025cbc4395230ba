"""Networks that did not learn from an image of the training part: cross-validation by the run's own recipe.

Each fold is a run of its own, resumed if it was stopped, and left alone if it has ended.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthwise.data.dataset import Dataset
from depthwise.data.numbering import chosen
from depthwise.errors import DepthwiseError
from depthwise.job import Job
from depthwise.train.ending import what_is_left
from depthwise.train.files import RunFiles
from depthwise.train.options import Options
from depthwise.train.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Fold:
    """One of several parts of the images to learn from: `held_out`, int64 [n], places in them; the rest is `learned`.

    dataset: has the one as its val part, the other as its train part.
    """

    held_out: Tensor
    learned: Tensor
    dataset: Dataset


def divide(dataset: Dataset, given: Tensor, together: NDArray[np.int64], count: int, seed: int) -> list[Fold]:
    """`count` folds of the train part, each with about as many images of every class as any other.

    given: int64 [n], their classes. together: int64 [n], the same number for images that must not be parted. The
    division follows from these and from `seed`.
    """
    names, first, member, sizes = np.unique(
        together, return_index=True, return_inverse=True, return_counts=True
    )
    classes = given.numpy()[first]
    drawn = np.random.default_rng(seed).permutation(len(names))
    # Class by class, what is kept together goes where the class has the fewest images, large ones first.
    order = drawn[np.lexsort((-sizes[drawn], classes[drawn]))]
    filled: dict[int, list[int]] = {}
    total = [0] * count
    number = np.empty(len(names), np.int64)
    for group in order.tolist():
        of_class = filled.setdefault(int(classes[group]), [0] * count)
        least = min(range(count), key=lambda k: (of_class[k], total[k], k))
        number[group] = least
        of_class[least] += int(sizes[group])
        total[least] += int(sizes[group])
    fold = torch.from_numpy(number[member])
    return [_fold(dataset, fold, k, count) for k in range(count)]


def _fold(dataset: Dataset, fold: Tensor, k: int, count: int) -> Fold:
    train = dataset.splits["train"]
    held_out, learned = (which.nonzero()[:, 0] for which in (fold == k, fold != k))
    content = hashlib.sha256(f"{dataset.fingerprint} {k} of {count} ".encode() + fold.numpy().tobytes())
    made = replace(
        dataset,
        name=f"{dataset.name}, fold {k + 1} of {count}",
        splits={"train": chosen(train, learned), "val": chosen(train, held_out)},
        fingerprint=content.hexdigest(),
        earlier_fingerprint="",
        split_source=f"fold {k + 1} of {count} of what the run was trained on",
        seed=None,
        bad=(),
        repeated=(),
    )
    return Fold(held_out, learned, made)


def train_fold(
    fold: Fold, recipe: Recipe, folder: Path, command: Sequence[str], *, workers: int, force: bool
) -> None:
    """Leave the run of `fold` by `recipe` in `folder`, gone on with where one was stopped.

    command: what the run began with that is looked at; a network that it started from is started from here, too.
    force: replaces another run that is there.

    Raises DepthwiseError where another run is there, KeyboardInterrupt after a checkpoint.
    """
    files, options = RunFiles(folder), Options(workers=workers)
    if files.run.is_file():
        before = files.read_run()
        same = before["data"]["fingerprint"] == fold.dataset.fingerprint
        if same and before["recipe"] == recipe.to_json():
            if what_is_left(files, recipe) is None:
                Job(folder, fold.dataset, options=options).do("resume")
            return
        if not force:
            raise DepthwiseError(
                f"{folder} is a fold of another division, run or number of folds: choose another --out, or replace it "
                f"with --force"
            )
    job = Job(folder, fold.dataset, recipe=recipe, init=_init(command), options=options)
    job.do("start", force=force)


def _init(command: Sequence[str]) -> str | None:
    """The bundle that the run's command named to start from."""
    for number, word in enumerate(command):
        name, _, value = word.partition("=")
        if name == "--init":
            path = value or (command[number + 1] if number + 1 < len(command) else "")
            if not Path(path).exists():
                raise DepthwiseError(
                    f"the run started from {path}, which is not there, and its folds would, too: go to the folder in "
                    f"which it was started"
                )
            return path
    return None
