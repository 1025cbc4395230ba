"""What a run starts with: a recipe, and a network that is new or has the weights of a bundle."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from depthwise.bundle import Bundle
from depthwise.data.dataset import Dataset
from depthwise.errors import UsageError
from depthwise.models import FROM_DATA, create_model, model_arguments
from depthwise.recipes import Traits, find_recipe
from depthwise.ship.load import transfer
from depthwise.tasks import find_task
from depthwise.train.recipe import Recipe

EXAMPLES = (Traits(1000, 10, 28, 28), Traits(1000, 10, 480, 640))
"""Of tiny images and of photographs: what published recipes tell apart."""


def recipe_for(asked: str | Recipe | None, data: Traits, model: str | None, bundle: Bundle | None) -> Recipe:
    """The recipe `asked` for, a published one as for `data`; its network is that of `bundle`, `model`, or its own."""
    chosen = asked if isinstance(asked, Recipe) else find_recipe(asked)(data)
    if bundle:
        config = bundle.config
        arguments = {name: value for name, value in config.model_args.items() if name not in FROM_DATA}
        return replace(chosen, model=config.model, model_args=arguments, preprocess=config.preprocess)
    if model in (None, chosen.model):
        return chosen
    # Another network than the recipe was written for takes those of its arguments that it knows.
    known = model_arguments(model)
    arguments = {name: value for name, value in chosen.model_args.items() if name in known}
    return replace(chosen, model=model, model_args=arguments)


def check_settled(
    asked: str | Recipe | None, model: str | None, bundle: Bundle | None, settle: Callable[[Recipe], Recipe]
) -> None:
    """Raise UsageError if what `recipe_for` gives can be settled for no data, and its network not be built."""
    refused: UsageError | None = None
    for data in EXAMPLES:
        try:
            settled = settle(recipe_for(asked, data, model, bundle))
            given = settled.preprocess
            channels = given.for_channels(given.channels or len(given.mean or given.std) or 3).shape[0]
            with torch.device("meta"):
                create_model(settled.model, num_classes=2, in_channels=channels, **settled.model_args)
            return
        except UsageError as error:
            refused = refused or error
    if refused:
        raise refused


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
