"""A network's pass over images that it did not learn from: what it says of each, and how far it lies from the others.

How far: 1 less the cosine between its features and those of the images most like it, on average over NEIGHBOURS of
them (Kuan and Mueller 2022, Back to the Basics: Revisiting Out-of-Distribution Detection Baselines, arXiv 2207.03061).
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depthwise.data.dataset import BadImage, Split
from depthwise.data.loader import Batches
from depthwise.data.numbering import chosen
from depthwise.data.spread import evenly
from depthwise.data.transform import Preprocess
from depthwise.evaluate.meters import run_meters
from depthwise.models.network import Network
from depthwise.suspects.confident import MOST_KEPT, Answers
from depthwise.tasks import Task

NEIGHBOURS = 10
MOST_COMPARED = 4096
"""Images that each is compared with, evenly chosen: nothing grows with the square of the set."""


class _Both(nn.Module):
    """A network's logits, and the features that they are made of: [N, K] and [N, num_features]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.pooled(x)
        return self.network.classifier(features), features


class _Features:
    """Meters that keep the features, of length 1, float32 [n, D]."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor]] = []

    @property
    def num_images(self) -> int:
        return sum(len(indices) for indices, _ in self._parts)

    def update(self, output: Any, targets: Tensor, indices: Tensor) -> None:
        self._parts.append((indices, F.normalize(output[1].float().flatten(1)).cpu()))

    def merge(self, other: Self) -> None:
        self._parts += other._parts

    def compute(self) -> tuple[Tensor, Tensor]:
        indices, features = zip(*self._parts, strict=True)
        return torch.cat(indices), torch.cat(features)


class _Answers:
    """Meters that keep a few numbers of each image, compared with `known`, the features of images at `places`."""

    def __init__(self, task: Task, places: Tensor, known: Tensor) -> None:
        self._task, self._places, self._known = task, places, known
        self._parts: list[Answers] = []

    @property
    def num_images(self) -> int:
        return sum(map(len, self._parts))

    def update(self, output: Any, targets: Tensor, indices: Tensor) -> None:
        logits, features = (values.float().cpu() for values in output)
        probabilities = self._task.answer(logits)
        odds, likely = probabilities.sort(descending=True, stable=True)
        own = probabilities.gather(1, targets[:, None])[:, 0]
        apart = 1 - F.normalize(features.flatten(1)) @ self._known.T
        apart[indices[:, None] == self._places] = torch.inf  # to itself
        nearest = apart.topk(min(NEIGHBOURS, max(1, len(self._places) - 1)), largest=False).values
        kept = slice(0, MOST_KEPT)
        self._parts.append(
            Answers(indices, targets, own, likely[:, kept].clone(), odds[:, kept].clone(), nearest.mean(1))
        )

    def merge(self, other: Self) -> None:
        self._parts += other._parts

    def compute(self) -> list[Answers]:
        return self._parts


def look(
    network: Network,
    task: Task,
    split: Split,
    preprocess: Preprocess,
    *,
    device: torch.device,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Answers], list[BadImage]]:
    """What `network` says of the images of `split`, whose places are those in it; and those that cannot be read.

    Raises DepthwiseError if none can be read.
    """
    both, bad = _Both(network).to(device), []
    some = torch.tensor(evenly(range(len(split)), MOST_COMPARED), dtype=torch.int64)
    compared = Batches(chosen(split, some), preprocess, batch_size=64, workers=workers)
    every = Batches(split, preprocess, batch_size=64, workers=workers)
    try:
        which, known = run_meters(both, compared, _Features(), device=device)
        found = run_meters(both, every, _Answers(task, some[which], known), device=device, progress=progress)
        bad = every.bad
    finally:
        compared.close()
        every.close()
    return found, bad
