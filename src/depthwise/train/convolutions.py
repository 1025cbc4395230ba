"""What a run's depthwise convolutions are done by: chosen once, before its first update, and kept in its run.json."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from depthwise.analysis.cost import without_memory
from depthwise.data.dataset import Dataset
from depthwise.errors import DepthwiseError, UsageError
from depthwise.gpu.calls import shapes
from depthwise.gpu.choice import FRAMEWORK, Choices, chosen
from depthwise.gpu.depthwise import available
from depthwise.train.files import RunFiles
from depthwise.train.recipe import Recipe
from depthwise.train.world import World

SETTING = "DEPTHWISE_TRITON"

WAIT = "wait"
"""What the leading process says to the others before it measures; they meet it afterwards."""


def settled(
    files: RunFiles,
    before: Mapping[str, Any] | None,
    recipe: Recipe,
    module: nn.Module,
    dataset: Dataset,
    device: torch.device,
    world: World,
    tell: Callable[[str], None],
    *,
    measure: bool,
    force: bool,
) -> Choices:
    """The choices of the run in `files`: those in `before`, its run.json, or of one that begins what is measured now.

    measure: whether that may be; the others of `world` wait meanwhile. Where a run's cannot be followed, on a CPU,
    without Triton or under torch.compile, all is the framework's, and its versions are others then.
    """
    if before is not None:
        choices = Choices.from_json(before.get("convolutions"))
        return choices if available() and _is_open(device, recipe) else FRAMEWORK
    if not measure or not measuring(device, recipe):
        return FRAMEWORK
    files.check_free(force=force)  # before anybody waits for a measurement
    image = recipe.preprocess.for_channels(dataset.channels).shape
    batch = min(recipe.batch_size, len(dataset.splits["train"])) // (recipe.virtual_shards or 1)
    kinds = shapes(without_memory(module), image, recipe.precision)
    world.lead(WAIT)
    choices = chosen(kinds, max(1, batch), device, tell)
    world.meet()
    return choices


def measuring(device: torch.device, recipe: Recipe) -> bool:
    """Whether a run that begins on `device` measures: if the environment asks for it, on a GPU of CUDA's.

    What torch.compile compiles is left alone, for it chooses by itself. Raises UsageError for a setting that is none.
    """
    setting = os.environ.get(SETTING) or "off"
    if setting not in ("off", "measure"):
        raise UsageError(f"{SETTING}={setting} is no setting: take off or measure")
    return setting == "measure" and _is_open(device, recipe)


def _is_open(device: torch.device, recipe: Recipe) -> bool:
    return device.type == "cuda" and not recipe.compile


def as_led(values: Mapping[str, Any]) -> Choices:
    """The choices that the leading process tells. Raises DepthwiseError where they cannot be followed."""
    choices = Choices.from_json(values.get("convolutions"))
    if choices and not available():
        raise DepthwiseError(
            "the run's convolutions are Triton's, which is not installed where this process runs: pip install triton"
        )
    return choices
