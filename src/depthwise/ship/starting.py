"""The network that a run starts with: new, or with the weights of a bundle."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from depthwise.bundle import Bundle
from depthwise.data.dataset import Dataset
from depthwise.models import create_model
from depthwise.ship.load import transfer
from depthwise.tasks import find_task
from depthwise.train.recipe import Recipe


def network_for(
    recipe: Recipe, dataset: Dataset, bundle: Bundle | None, tell: Callable[[str], None]
) -> nn.Module:
    """The recipe's network for the data set, its weights drawn by the recipe's seed or taken from `bundle`.

    tell: told what a person should know of it. Raises UsageError for arguments that the network does not take.
    """
    task = find_task(dataset.task, dataset.classes)
    torch.manual_seed(recipe.seed)
    module = create_model(
        recipe.model,
        num_classes=task.num_outputs,
        in_channels=recipe.preprocess.for_channels(dataset.channels).shape[0],
        **recipe.model_args,
    )
    kept = False
    if bundle:
        kept = transfer(bundle, module, dataset.classes)
        tell(f"starting from {bundle.path}" + ("" if kept else ", with a new classifier for the new classes"))
    if not kept and (bias := task.initial_bias(dataset.splits["train"])) is not None:
        start_at(module, bias)
    if not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()):
        tell(
            f"{recipe.model} has no batch norm, and learning rates for networks that have it are too high for it: if "
            f"the loss stays where it is, try --set optimizer.lr={recipe.optimizer.lr / 10:g}"
        )
    return module


def start_at(module: nn.Module, bias: Tensor) -> None:
    """Let each classifier of `module`, those of auxiliary towers too, start at `bias`, float32 [K]."""
    for name, part in module.named_modules():
        if name.endswith("classifier"):
            layers = [layer for layer in part.modules() if isinstance(layer, nn.Linear)]
            if layers and layers[-1].bias is not None:
                layers[-1].bias.data.copy_(bias)
