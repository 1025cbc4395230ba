"""What a process does that trains with others and does not lead: the run comes from the leader."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from depthwise import native
from depthwise.data.dataset import Dataset, require_trainable
from depthwise.data.numbering import as_before
from depthwise.errors import DepthwiseError
from depthwise.train.convolutions import WAIT, as_led
from depthwise.train.descent import Descent
from depthwise.train.loop import Trainer
from depthwise.train.options import Options
from depthwise.train.recipe import Recipe
from depthwise.train.run import choose_device, in_white_level
from depthwise.train.together import follow as follow_leader
from depthwise.train.world import ALONE, World

Build = Callable[[Recipe], nn.Module]
"""A network by the leader's recipe."""


def follow(dataset: Dataset, build: Build, world: World, *, options: Options) -> dict[str, Any]:
    """Train with the leader of `world`, which is in `train`, on the same images, first for a measurement if it wants
    one; what it says the run came to.

    The network's weights come from the leader. Raises KeyboardInterrupt where the run was stopped, LostProcessError,
    and DepthwiseError if the images here are others than the leader's.
    """
    while True:
        order = world.follow(stopping=False)
        if order.name == WAIT:
            world.meet()
            continue
        trainer, images = trainer_as_led(order.values, dataset, build, options, world=world)
        try:
            told = follow_leader(trainer, images, workers=options.workers)
        finally:
            trainer.close()
        if order.name == "train":
            return told


def trainer_as_led(
    values: Mapping[str, Any],
    dataset: Dataset,
    build: Build,
    options: Options,
    *,
    world: World = ALONE,
    descent: Descent | None = None,
) -> tuple[Trainer, Dataset]:
    """A trainer by what the leader tells in `wanted`, and the images as they are there.

    Raises DepthwiseError if they are others than the leader's.
    """
    recipe = Recipe.from_json(values["recipe"])
    require_trainable(dataset)
    images = in_white_level(as_before(dataset, values["data"]), recipe)
    if images.fingerprint != values["fingerprint"]:
        raise DepthwiseError(
            f"{dataset.name} holds other images here than where process 0 runs: give every process the same"
        )
    native.tune_allocator()
    device = choose_device(options.device)
    trainer = Trainer(
        recipe,
        build(recipe),
        images,
        device=device,
        workers=options.workers,
        world=world,
        descent=descent,
    )
    trainer.convolutions = as_led(values)
    return trainer, images
