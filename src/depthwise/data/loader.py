"""In what order images reach the network: batch k of epoch e is a function of (seed, e, k) alone."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2

from depthwise.data.dataset import ArraySplit, BadImage, Split
from depthwise.data.image import UnreadableImageError
from depthwise.data.numbering import with_white_level
from depthwise.data.pool import Pool
from depthwise.data.transform import Augment, Preprocess
from depthwise.errors import DepthwiseError


class Batch(NamedTuple):
    """N images and what they show; N is 0 if not one of a training batch's files could be read.

    images: float32 [N, C, h, w] in channels-last memory. targets: int64 [N], or under mixup or cutmix float32 [N, K].
    indices: int64 [N] into the split.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor


def mix_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global CPU generator starts from `seed` inside, and is as before afterwards."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on this thread alone inside. What is done to small images is too little to divide: on a busy
    machine the wait for the other threads takes up to fifty times as long as the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What every batch holds, as far as pixels: all that a worker needs to know."""

    split: Split
    preprocess: Preprocess
    augment: Augment | None
    batch_size: int
    seed: int

    @property
    def images(self) -> Tensor | None:
        """The split's images, if a batch of them is made at once: they are of one size, and not changed singly."""
        if isinstance(self.split, ArraySplit) and not (self.augment and self.augment.per_image):
            return self.split.images
        return None

    def indices(self, epoch: int, k: int) -> Tensor:
        n = len(self.split)
        order = _shuffled(n, self.seed, epoch) if self.augment else torch.arange(n)
        return order[k * self.batch_size : (k + 1) * self.batch_size]

    def fill(self, epoch: int, k: int, out: Tensor) -> tuple[list[int], list[BadImage]]:
        """Writes a batch to the first places of `out`, uint8 [batch_size, h, w, C].

        Returns the indices of the images that are now there, and the files that could not be read.
        """
        kept: list[int] = self.indices(epoch, k).tolist()
        bad: list[BadImage] = []
        if self.images is not None:
            out[: len(kept)] = self.preprocess.pixels(self.images[kept]).permute(0, 2, 3, 1)
        else:
            with seeded(mix_seed(self.seed, epoch, k, "images")):
                kept, bad = self._fill_singly(kept, out)
        if self.augment and kept:
            pixels = out[: len(kept)].permute(0, 3, 1, 2)
            generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch, k, "batch"))
            changed = self.augment.batch(pixels, self.preprocess, generator)
            if changed is not pixels:
                pixels.copy_(changed)
        return kept, bad

    def _fill_singly(self, wanted: list[int], out: Tensor) -> tuple[list[int], list[BadImage]]:
        kept: list[int] = []
        bad: list[BadImage] = []
        for index in wanted:
            try:
                image = self.split.image(index)
            except UnreadableImageError as error:
                bad.append(BadImage(self.split.name(index), error.reason))
                continue
            ready = (
                self.augment.image(image, self.preprocess) if self.augment else self.preprocess.pixels(image)
            )
            out[len(kept)] = ready.permute(1, 2, 0)
            kept.append(index)
        return kept, bad


@lru_cache(maxsize=2)
def _shuffled(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(mix_seed(seed, epoch, "order")))


class Batches:
    """Batches of a split: for training shuffled and changed by `augment`; without it in order, for evaluation.

    Training leaves out the last batch of an epoch if it is not full, unless it is the only one. `workers` processes
    decode and augment, and live on from epoch to epoch until `close`; 0 does it here. A file that cannot be read is
    left out of its batch and named in `bad`.
    """

    def __init__(
        self,
        split: Split,
        preprocess: Preprocess,
        *,
        batch_size: int,
        num_classes: int,
        seed: int = 0,
        augment: Augment | None = None,
        workers: int = 0,
    ) -> None:
        if batch_size < 1:
            raise DepthwiseError(f"batch_size {batch_size}: a batch has at least 1 image")
        if workers < 0:
            raise DepthwiseError(f"workers {workers}: give 0, to work without other processes, or more")
        if augment and preprocess.channels == 4 and (augment.color > 0 or augment.randaugment > 0):
            raise DepthwiseError("color and randaugment are for 1 or 3 channels, not 4: turn them off")
        self.batch_size = batch_size
        self.bad: list[BadImage] = []
        split = with_white_level(split, preprocess.white_level)
        self._plan = _Plan(split, preprocess, augment, batch_size, seed)
        self._num_classes = num_classes
        self._workers = workers if self._plan.images is None else 0  # arrays are faster here than sent around
        self._pool: Pool | None = None

    def __len__(self) -> int:
        """Batches an epoch."""
        full, rest = divmod(len(self._plan.split), self.batch_size)
        return full + (rest > 0 and (self._plan.augment is None or full == 0))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; only one epoch at a time where there are workers."""
        tasks = [(epoch, k) for k in range(start, len(self))]
        for batch in self._run_here(tasks) if self._workers == 0 else self._run_in_pool(tasks):
            if len(batch.indices) or self._plan.augment:
                yield batch

    def close(self) -> None:
        """Ends the worker processes; another epoch starts new ones."""
        if self._pool:
            self._pool.close()
        self._pool = None

    def _run_here(self, tasks: list[tuple[int, int]]) -> Iterator[Batch]:
        place = torch.empty(self._shape, dtype=torch.uint8)
        for task in tasks:
            with one_thread():
                batch = self._finish(task, self._plan.fill(*task, place), place)
            yield batch

    def _run_in_pool(self, tasks: list[tuple[int, int]]) -> Iterator[Batch]:
        if self._pool is None or not self._pool.alive:
            self._pool = Pool(self._plan.fill, self._shape, self._workers)
        return self._pool.run(tasks, self._finish)

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return (
            min(self.batch_size, len(self._plan.split)),
            *self._plan.preprocess.size,
            self._plan.preprocess.channels,
        )

    def _finish(
        self, task: tuple[int, int], filled: tuple[list[int], list[BadImage]], place: Tensor
    ) -> Batch:
        kept, bad = filled
        self.bad += [image for image in bad if image not in self.bad]
        indices = torch.tensor(kept, dtype=torch.int64)
        images = self._plan.preprocess.normalise(place[: len(kept)].permute(0, 3, 1, 2))
        targets = self._plan.split.labels[indices]
        mixers = self._mixers() if kept else []
        if mixers:
            with seeded(mix_seed(self._plan.seed, *task, "mix")):
                images, targets = v2.RandomChoice(mixers)(images, targets)
            images = images.contiguous(memory_format=torch.channels_last)
        return Batch(images, targets, indices)

    def _mixers(self) -> list[v2.Transform]:
        augment, num_classes = self._plan.augment, self._num_classes
        mixers: list[v2.Transform] = []
        if augment and augment.mixup > 0:
            mixers.append(v2.MixUp(alpha=augment.mixup, num_classes=num_classes))
        if augment and augment.cutmix > 0:
            mixers.append(v2.CutMix(alpha=augment.cutmix, num_classes=num_classes))
        return mixers
