"""The ways to train a network that can be timed, by name: this project's loop, and the plain one of a tutorial."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depthwise import native
from depthwise.bench.peers import Architecture, own, peer
from depthwise.data.transform import Augment, Preprocess

RATE, MOMENTUM = 1e-3, 0.9
"""Of SGD in every loop: low, for the labels are drawn, and what is learned of them does not matter."""

Update = Callable[[], float]
"""Do one update of the weights by all images; the loss that it went down from."""

Prepare = Callable[[nn.Module, Tensor, Tensor, int], Update]
"""(network, images uint8 [N, C, H, W], classes int64 [N], number of classes) -> Update."""


@dataclass(frozen=True)
class Loop:
    """`architecture`: of a network's name and arguments, what is trained."""

    precision: str
    architecture: Callable[[str, Mapping[str, Any]], Architecture]
    prepare: Prepare


def _trainer(precision: str, *, recompute: bool = False) -> Prepare:
    """`Trainer.update`, as `depthwise train` calls it, on images in memory: reading and normalising them is in it."""

    def prepare(network: nn.Module, images: Tensor, targets: Tensor, num_classes: int) -> Update:
        from depthwise.data.dataset import ArraySplit, Dataset
        from depthwise.train.loop import Trainer
        from depthwise.train.optimizer import SGD
        from depthwise.train.recipe import MAX_EPOCHS, Recipe

        native.tune_allocator()
        recipe = Recipe(
            name="bench",
            preprocess=_preprocess(images),
            augment=Augment("none", flip=False),
            epochs=MAX_EPOCHS,
            batch_size=len(images),
            optimizer=SGD(lr=RATE, momentum=MOMENTUM),
            precision=precision,
            recompute=recompute,
        )
        split, classes = ArraySplit(images, targets), tuple(map(str, range(num_classes)))
        dataset = Dataset("drawn", classes, {"train": split}, images.shape[1], "", "drawn")
        trainer = Trainer(recipe, network, dataset, device=torch.device("cpu"))

        def update() -> float:
            trainer.update()
            return trainer.take_window().loss

        return update

    return prepare


def _plain(dtype: torch.dtype, *, compiled: bool = False) -> Prepare:
    """Channels last, autocast below float32, one batch that is normalised already, the allocator as it comes."""

    def prepare(network: nn.Module, images: Tensor, targets: Tensor, num_classes: int) -> Update:
        network = network.train().to(memory_format=torch.channels_last)
        forward = torch.compile(network) if compiled else network
        optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM)
        x = _preprocess(images).for_channels(images.shape[1]).normalise(images)
        aux_weight: Any = getattr(network, "aux_weight", 0.0)

        def update() -> float:
            with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
                output = forward(x)
            output, *towers = (output,) if isinstance(output, Tensor) else output
            loss = F.cross_entropy(output.float(), targets)
            for tower in towers:
                loss = loss + aux_weight * F.cross_entropy(tower.float(), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        return update

    return prepare


def _preprocess(images: Tensor) -> Preprocess:
    height, width = images.shape[-2:]
    return Preprocess((height, width), crop_fraction=1.0)


LOOPS: dict[str, Loop] = {
    "depthwise fp32": Loop("fp32", own, _trainer("float32")),
    "depthwise bf16": Loop("bf16", own, _trainer("bfloat16")),
    "depthwise fp32 recompute": Loop("fp32", own, _trainer("float32", recompute=True)),
    "depthwise bf16 recompute": Loop("bf16", own, _trainer("bfloat16", recompute=True)),
    "pytorch": Loop("fp32", peer, _plain(torch.float32)),
    "pytorch bf16": Loop("bf16", peer, _plain(torch.bfloat16)),
    "torch.compile": Loop("fp32", peer, _plain(torch.float32, compiled=True)),
    "torch.compile bf16": Loop("bf16", peer, _plain(torch.bfloat16, compiled=True)),
}
