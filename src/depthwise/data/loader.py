"""In what order images reach the network: batch k of epoch e is a function of (seed, e, k) alone."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import v2

from depthwise.data.source import ArraySplit, BadImage, Split
from depthwise.data.transform import Augment, Preprocess


class Batch(NamedTuple):
    """images float32 [N, C, h, w] in channels-last memory; targets int64 [N], or float32 [N, K] under mixup or
    cutmix; indices int64 [N] into the split."""

    images: Tensor
    targets: Tensor
    indices: Tensor


def mix_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global CPU generator starts from `seed` inside and is as before afterwards."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


class Batches:
    """Batches of a split: shuffled and augmented by `augment` for training, in file order without it."""

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
        self.split = split
        self.preprocess = preprocess
        self.batch_size = batch_size
        self.num_classes = num_classes
        self.seed = seed
        self.augment = augment
        self.bad: list[BadImage] = []

    def __len__(self) -> int:
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest > 0 and (self.augment is None or full == 0))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        order = self._order(epoch)
        for k in range(start, len(self)):
            indices = order[k * self.batch_size : (k + 1) * self.batch_size]
            yield self._finish(epoch, k, indices, self._pixels(epoch, k, indices))

    def close(self) -> None:
        """Ends the worker processes; the batches can be used again, which starts new ones."""

    def _order(self, epoch: int) -> Tensor:
        if self.augment is None:
            return torch.arange(len(self.split))
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch, "order"))
        return torch.randperm(len(self.split), generator=generator)

    def _pixels(self, epoch: int, k: int, indices: Tensor) -> Tensor:
        augment = self.augment
        if isinstance(self.split, ArraySplit) and not (augment and augment.per_image):
            pixels = self.preprocess.pixels(self.split.images[indices])
        else:
            pixels = torch.stack([self._image(epoch, int(index)) for index in indices])
        if augment:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch, k, "batch"))
            pixels = augment.batch(pixels, self.preprocess, generator)
        return pixels

    def _image(self, epoch: int, index: int) -> Tensor:
        image = self.split.image(index)
        if self.augment is None:
            return self.preprocess.pixels(image)
        with seeded(mix_seed(self.seed, epoch, index, "image")):
            return self.augment.image(image, self.preprocess)

    def _finish(self, epoch: int, k: int, indices: Tensor, pixels: Tensor) -> Batch:
        images = self.preprocess.normalise(pixels)
        targets = self.split.labels[indices]
        mixers = self._mixers()
        if mixers:
            with seeded(mix_seed(self.seed, epoch, k, "mix")):
                images, targets = v2.RandomChoice(mixers)(images, targets)
        return Batch(images.contiguous(memory_format=torch.channels_last), targets, indices)

    def _mixers(self) -> list[v2.Transform]:
        mixers: list[v2.Transform] = []
        if self.augment and self.augment.mixup > 0:
            mixers.append(v2.MixUp(alpha=self.augment.mixup, num_classes=self.num_classes))
        if self.augment and self.augment.cutmix > 0:
            mixers.append(v2.CutMix(alpha=self.augment.cutmix, num_classes=self.num_classes))
        return mixers
