"""From what a training run left to something that answers: the bundle's network with its weights in it."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from depthwise.bundle import Bundle, read_bundle
from depthwise.data.image import DEFAULT, Decoding
from depthwise.data.names import composed
from depthwise.errors import DepthwiseError
from depthwise.infer import Predictor, compile
from depthwise.infer.quantize import from_tensors
from depthwise.models import create_model, list_models
from depthwise.words import quote_path

SHOWN_MISMATCHES = 3


def load(
    path: str | os.PathLike[str], *, device: str | torch.device = "cpu", decoding: Decoding = DEFAULT
) -> Predictor:
    """The Predictor of a bundle folder or of the directory of a training run.

    decoding: how image files are read. Raises DepthwiseError, naming the file, if it is missing, broken or
    made by a newer version.
    """
    if str(path) in list_models() and not Path(path).exists():
        raise DepthwiseError(
            f"{str(path)!r} names a network without trained weights: load a bundle, or build the network "
            f"untrained with create_model({str(path)!r})"
        )
    bundle = read_bundle(path)
    on_cpu = torch.device(device).type == "cpu"
    module = load_compiled(bundle) if on_cpu else load_module(bundle)
    return Predictor(
        module, bundle.config.preprocess, bundle.config.classes, device=device, decoding=decoding
    )


def load_compiled(bundle: Bundle) -> nn.Module:
    """The bundle's network as `load_module` has it, or in its compiled form if the bundle is compiled.

    Where its engine cannot run, the network runs on PyTorch as it is, and a warning says why.
    """
    module, compiled = load_module(bundle), bundle.config.compiled
    if compiled is None:
        return module
    preprocess = bundle.config.preprocess
    try:
        example = torch.zeros(1, preprocess.channels, *preprocess.size)
        precision, engine = compiled.get("precision", "fp32"), compiled.get("engine", "native")
        roundings = None if bundle.roundings is None else from_tensors(bundle.roundings)
        return compile(module, example, precision=precision, engine=engine, roundings=roundings)
    except DepthwiseError as error:
        warnings.warn(f"{bundle.path} runs uncompiled and slower: {error}", stacklevel=2)
        return module


def load_module(bundle: Bundle) -> nn.Module:
    """The bundle's network with its weights, in evaluation mode on the CPU.

    Raises DepthwiseError if the network is unknown here, cannot be built or takes other weights; then nothing
    is loaded at all.
    """
    config = bundle.config
    if not config.classes:
        raise DepthwiseError(
            f"{bundle.path} is a backbone without a classifier and has no classes to answer with: train one on it "
            f"with depthwise train --init {quote_path(bundle.path)}"
        )
    defaults = {"num_classes": len(config.classes), "in_channels": config.preprocess.channels}
    arguments = {**defaults, **config.model_args}
    for name, value in defaults.items():
        if arguments[name] != value:
            raise DepthwiseError(
                f"{bundle.path}: model_args say {name}={arguments[name]!r}, the rest of the config says {value}: "
                f"write the bundle anew"
            )
    try:
        # Without memory a network costs neither time nor random numbers, however large the config says it is.
        with torch.device("meta"):
            module = create_model(config.model, **arguments)
    except DepthwiseError as error:
        raise DepthwiseError(f"{bundle.path}: {error}") from None
    expected = module.state_dict()
    check_fit(bundle.path, config.model, bundle.weights, expected)
    module.load_state_dict(_like(expected, bundle.weights), assign=True)
    return module.eval()


def transfer(bundle: Bundle, module: nn.Module, classes: Sequence[str]) -> bool:
    """Start `module`, a network for `classes`, from the bundle's weights, in place.

    The classifiers come along only if the bundle has the same classes in the same order; returns whether it has.
    Everything else must fit: raises DepthwiseError, and changes nothing, if it does not.
    """
    same_classes = [*map(composed, classes)] == [*map(composed, bundle.config.classes)]
    expected = module.state_dict()
    weights = bundle.weights
    if not same_classes:
        expected, weights = _without_classifiers(expected), _without_classifiers(weights)
    check_fit(bundle.path, bundle.config.model, weights, expected)
    module.load_state_dict({**module.state_dict(), **_like(expected, weights)})
    return same_classes


def _without_classifiers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All but the network's `classifier` and that of its auxiliary tower."""
    return {name: tensor for name, tensor in weights.items() if "classifier" not in name.split(".")}


def _like(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, in the types the network computes in and in memory of their own: the file may be replaced."""
    return {name: weights[name].to(tensor.dtype, copy=True) for name, tensor in expected.items()}


def check_fit(
    path: Path,
    model: str,
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    names: Mapping[str, str] | None = None,
) -> None:
    """Raise DepthwiseError, with the first three differences, unless `weights` are those of the network `model`.

    expected: the network's own state. names: what the file calls the modules, where it is not what the network does.
    """
    mismatches = []
    for name in dict.fromkeys([*expected, *weights]):
        wanted, found = (_shape(tensors.get(name)) for tensors in (expected, weights))
        if wanted != found:
            module, _, leaf = name.rpartition(".")
            shown = f"{names[module]}.{leaf}" if names and module in names else name
            mismatches.append(f"{shown} is {found} in the file and {wanted} in the network")
    if mismatches:
        more = len(mismatches) - SHOWN_MISMATCHES
        shown = "; ".join(mismatches[:SHOWN_MISMATCHES]) + (f"; and {more} more" if more > 0 else "")
        raise DepthwiseError(
            f"the weights in {path} do not fit the network {model}: {shown}; "
            f"use the weights with the network and the arguments they were trained with"
        )


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else str(list(tensor.shape))
