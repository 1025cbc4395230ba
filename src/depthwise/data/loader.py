"""Images as batches: decoded, augmented and normalised, here or in worker processes, with the same bits."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from depthwise.data.dataset import ArraySplit, BadImage, Reader, Split, undecoded
from depthwise.data.image import UnreadableImageError
from depthwise.data.numbering import with_white_level
from depthwise.data.order import Order, mix_seed
from depthwise.data.pool import Pool
from depthwise.data.transform import Augment, Preprocess
from depthwise.errors import DepthwiseError
from depthwise.modes import threads_kept


class Batch(NamedTuple):
    """N images and what they show; N is 0 if not one of a training batch's files could be read.

    images: float32 [N, C, h, w] in channels-last memory. targets: as the split has them, or as its task's `Prepare`
    made them. indices: int64 [N] into the split.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor


Prepare = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images and targets of a batch, as a task trains on those of a split; what it draws, from torch's global generator."""


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
    with threads_kept():
        torch.set_num_threads(1)
        yield


Task = tuple[int, int, int, list[int], list[Any]]
"""Epoch, number of the batch, number of its shard, the indices of the images, and the reader's keys for them."""
Bad = dict[str, list[int]]
"""Which images of a batch cannot be read, by the reason: an answer of a worker must never fill a pipe."""


@dataclass(frozen=True, eq=False)
class _Filler:
    """How batches are made, as far as pixels: all that a worker has, but for the tasks that it is sent.

    arrays: the images of a set in memory, if a batch of them is made at once.
    """

    reader: Reader
    arrays: Tensor | None
    preprocess: Preprocess
    augment: Augment | None
    seed: int

    def seed_of(self, epoch: int, k: int, shard: int, what: str) -> int:
        """What the images of a shard are drawn from; the first draws as the whole batch of one shard does."""
        return mix_seed(self.seed, epoch, k, what, *([shard] if shard else []))

    def fill(self, epoch: int, k: int, shard: int, indices: list[int], keys: list[Any], out: Tensor) -> Bad:
        """Writes the images that can be read to the first places of `out`, uint8 [batch_size, h, w, C]."""
        bad: Bad = {}
        if self.arrays is not None:
            out[: len(indices)] = self.preprocess.pixels(self.arrays[indices]).permute(0, 2, 3, 1)
        else:
            with seeded(self.seed_of(epoch, k, shard, "images")):
                bad = self._fill_singly(indices, keys, out)
        num_kept = len(indices) - sum(map(len, bad.values()))
        if self.augment and num_kept:
            pixels = out[:num_kept].permute(0, 3, 1, 2)
            generator = torch.Generator().manual_seed(self.seed_of(epoch, k, shard, "batch"))
            changed = self.augment.batch(pixels, self.preprocess, generator)
            if changed is not pixels:
                pixels.copy_(changed)
        return bad

    def _fill_singly(self, indices: list[int], keys: list[Any], out: Tensor) -> Bad:
        num_kept, bad = 0, Bad()
        for index, key in zip(indices, keys, strict=True):
            try:
                ready = self._ready(key)
            except UnreadableImageError as error:
                bad.setdefault(error.reason, []).append(index)
                continue
            out[num_kept] = ready.permute(1, 2, 0)
            num_kept += 1
        return bad

    def _ready(self, key: Any) -> Tensor:
        """uint8 [C, h, w]; raises UnreadableImageError."""
        if self.augment is None:
            return self.preprocess.pixels(self.reader(key))
        return self.augment.image(undecoded(self.reader, key), self.preprocess)


class Batches:
    """Batches of a split: for training shuffled and changed by `augment`; without it in order, for evaluation.

    Training leaves out the last batch of an epoch if it is not full, unless it is the only one. `workers` processes
    decode and augment, and live on from epoch to epoch until `close`; 0 does it here. `prepare` makes each batch ready
    for its task. A file that cannot be read is left out of its batch and named in `bad`.

    A batch is cut into `num_shards` parts, which differ by an image at most; of each batch those of `shards` come one
    after another, by default all. What is drawn for a shard depends on its number, not on which others come.
    """

    def __init__(
        self,
        split: Split,
        preprocess: Preprocess,
        *,
        batch_size: int,
        seed: int = 0,
        augment: Augment | None = None,
        prepare: Prepare | None = None,
        workers: int = 0,
        num_shards: int = 1,
        shards: range | None = None,
    ) -> None:
        if batch_size < 1:
            raise DepthwiseError(f"batch_size {batch_size}: a batch has at least 1 image")
        if workers < 0:
            raise DepthwiseError(f"workers {workers}: give 0, to work without other processes, or more")
        if augment and preprocess.channels == 4 and (augment.color > 0 or augment.randaugment > 0):
            raise DepthwiseError("color and randaugment are for 1 or 3 channels, not 4: turn them off")
        self.batch_size = batch_size
        self.bad: list[BadImage] = []
        self._split = with_white_level(split, preprocess.white_level)
        self._order = Order(split.blocks, batch_size, seed if augment else None)
        singly = augment is not None and augment.per_image
        arrays = split.images if isinstance(split, ArraySplit) and not singly else None
        self._filler = _Filler(self._split.reader, arrays, preprocess, augment, seed)
        self._prepare = prepare
        self._num_shards, self._shards = num_shards, shards or range(num_shards)
        self._workers = workers if arrays is None else 0  # arrays are faster here than sent around
        self._pool: Pool | None = None

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._order)

    def epoch(self, epoch: int, start: int = 0, every: int = 1) -> Iterator[Batch]:
        """Batches start, start + every, ... of an epoch; only one stream at a time where there are workers."""
        return self.at((epoch, k) for k in range(start, len(self), every))

    def at(self, places: Iterable[tuple[int, int]]) -> Iterator[Batch]:
        """Batches by epoch and number, in whatever order; only one such stream at a time where there are workers."""
        tasks = self._tasks(places)
        for batch in self._run_here(tasks) if self._workers == 0 else self._run_in_pool(tasks):
            if len(batch.indices) or self._filler.augment:
                yield batch

    def close(self) -> None:
        """Ends the worker processes; another epoch starts new ones."""
        if self._pool:
            self._pool.close()
        self._pool = None

    def _tasks(self, places: Iterable[tuple[int, int]]) -> Iterator[Task]:
        for epoch, k in places:
            for shard in self._shards:
                indices = self._order.indices(epoch, k, shard, self._num_shards).tolist()
                yield epoch, k, shard, indices, [self._split.key(index) for index in indices]

    def _run_here(self, tasks: Iterator[Task]) -> Iterator[Batch]:
        place = torch.empty(self._shape, dtype=torch.uint8)
        for task in tasks:
            with one_thread():
                batch = self._finish(task, self._filler.fill(*task, place), place)
            yield batch

    def _run_in_pool(self, tasks: Iterator[Task]) -> Iterator[Batch]:
        if self._pool is None or not self._pool.alive:
            self._pool = Pool(self._filler.fill, self._shape, self._workers)
        return self._pool.run(tasks, self._finish)

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        channels, height, width = self._filler.preprocess.shape
        return -(-min(self.batch_size, len(self._split)) // self._num_shards), height, width, channels

    def _finish(self, task: Task, bad: Bad, place: Tensor) -> Batch:
        epoch, k, shard, wanted, _ = task
        lost = {index: reason for reason, indices in bad.items() for index in indices}
        for index in filter(lost.__contains__, wanted):
            image = BadImage(self._split.name(index), lost[index])
            self.bad += [image] if image not in self.bad else []
        kept = [index for index in wanted if index not in lost]
        indices = torch.tensor(kept, dtype=torch.int64)
        images = self._filler.preprocess.normalise(place[: len(kept)].permute(0, 3, 1, 2))
        targets = self._split.targets(indices)
        if self._prepare and kept:
            with seeded(self._filler.seed_of(epoch, k, shard, "mix")):
                images, targets = self._prepare(images, targets)
            images = images.contiguous(memory_format=torch.channels_last)
        return Batch(images, targets, indices)
