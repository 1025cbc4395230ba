"""From what a training run left to something that answers: the bundle's network with its weights in it."""

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from depthwise.analysis.cost import cost, machine_memory
from depthwise.bundle import ROUNDINGS, WEIGHTS, Bundle, BundleConfig, digest, read_bundle
from depthwise.data.image import DEFAULT, Decoding
from depthwise.data.names import composed
from depthwise.errors import DepthwiseError, UsageError, unknown_name
from depthwise.errors import shown as describe
from depthwise.infer import Predictor, compile
from depthwise.infer.eventual import Eventual
from depthwise.infer.general import GENERAL
from depthwise.infer.kept import Keeper
from depthwise.infer.predictor import ready
from depthwise.infer.quantize import RoundingError, from_tensors
from depthwise.models import create_model, list_models
from depthwise.places import find_bundle
from depthwise.words import quote_path, spoken

SHOWN_MISMATCHES = 3

COUNTED_FROM = 2**20
"""Pixels of an image, from where what it takes is counted before a network is loaded: that takes a moment."""


Engine = Literal["auto", "bundle", "native", "torch", "openvino", "onnxruntime"]
ENGINES: tuple[str, ...] = ("auto", "bundle", "native", *GENERAL)
PRECISIONS = ("fp32", "bf16")
FOREIGN = ("openvino", "onnxruntime")
"""Other people's engines: started only by whoever asks for them, not by a bundle that may have come from anywhere."""


def load(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    engine: Engine = "auto",
    precision: Literal["fp32", "bf16"] | None = None,
    decoding: Decoding = DEFAULT,
) -> Predictor:
    """The Predictor of a bundle folder or of the directory of a training run.

    engine: "auto" is the native kernels where they pay, see `load_compiled`; "native" is them from the start, "torch"
    PyTorch as it is, "openvino" and "onnxruntime" are those, and "bundle" is whichever the bundle was compiled for.
    precision: what it was compiled in unless given, else "fp32". Both are for the CPU.
    decoding: how image files are read.

    Raises DepthwiseError, naming the file, if it is missing, broken or made by a newer version, and if an engine that
    was asked for does not run the network; UsageError for an unknown engine or precision.
    """
    if str(path) in list_models() and not Path(path).exists():
        raise DepthwiseError(
            f"{str(path)!r} names a network without trained weights: load a bundle, or build the network "
            f"untrained with create_model({str(path)!r})"
        )
    on_cpu = torch.device(device).type == "cpu"
    if not on_cpu and (engine not in ("auto", "torch") or precision is not None):
        raise UsageError(
            f"engine={engine!r} and precision={precision!r} are for the CPU, not for {device}: leave them out"
        )
    bundle = read_bundle(path)
    module = load_compiled(bundle, engine=engine, precision=precision) if on_cpu else load_module(bundle)
    return Predictor(
        ready(module, device),
        bundle.config.preprocess,
        bundle.config.classes,
        device=device,
        decoding=decoding,
        task=bundle.config.task,
        task_args=bundle.config.task_args,
        uncompiled=partial(_uncompiled, bundle.path, bundle.config, device),
    )


def _uncompiled(path: Path, config: BundleConfig, device: str | torch.device) -> nn.Module:
    """The network of the bundle that had this config, read again: its weights need not stay in memory until then."""
    bundle = read_bundle(path)
    if bundle.config != config:
        raise DepthwiseError(f"{path} was replaced since it was loaded: load it again")
    return ready(load_module(bundle), device)


def weights_digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of the weights of a bundle or a run, by which one tells whether two networks are the same."""
    return digest(find_bundle(path) / WEIGHTS)


def load_compiled(
    bundle: Bundle, *, engine: Engine = "auto", precision: Literal["fp32", "bf16"] | None = None
) -> nn.Module:
    """The bundle's network as it is to be run on the CPU; `engine` and `precision` as in `load`.

    With "auto" a network in float32 runs on PyTorch until a plan pays (see infer/eventual.py); one that is compiled for
    the native kernels runs in its plan from the start. Where that cannot be, it runs on PyTorch and a warning says why.
    """
    chosen, wanted = _choice(bundle, engine, precision)
    module = load_module(bundle)
    if (chosen, wanted) == ("torch", "fp32"):
        return module
    preprocess, keeper = bundle.config.preprocess, keeper_of(bundle)
    shape = preprocess.shape
    for_kernels = (bundle.config.compiled or {}).get("engine") == "native"
    if (chosen, wanted) == ("auto", "fp32") and not for_kernels:
        return Eventual(module, shape, keeper)
    try:
        roundings = None if bundle.roundings is None else from_tensors(bundle.roundings)
        return compile(
            module,
            torch.zeros(1, *shape),
            precision=cast(Any, wanted),
            engine=cast(Any, "native" if chosen == "auto" else chosen),
            roundings=roundings,
            lower=keeper.lower,
        )
    except RoundingError as error:
        raise DepthwiseError(f"{bundle.path / ROUNDINGS}: {error}: compile the bundle anew") from None
    except DepthwiseError as error:
        if chosen != "auto":
            raise DepthwiseError(f"{bundle.path} is not run by {chosen} in {wanted}: {error}") from None
        warnings.warn(f"{bundle.path} runs uncompiled and slower: {error}", stacklevel=2)
        return module


def _choice(bundle: Bundle, engine: str, precision: str | None) -> tuple[str, str]:
    """The engine, "auto" where the native kernels are only a wish, and the precision."""
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if precision not in (None, *PRECISIONS):
        raise unknown_name("precision", str(precision), PRECISIONS)
    compiled = bundle.config.compiled or {}
    named, own = compiled.get("engine"), compiled.get("precision", "fp32")
    if compiled.get("asked") and precision is None and engine in ("auto", "bundle"):
        warnings.warn(
            f"{bundle.path} is run in {own} where {compiled['asked']} was asked for: {compiled.get('why_not')}",
            stacklevel=3,
        )
    if engine == "bundle" or (engine == "auto" and named == "torch"):
        return named if named in GENERAL else "auto", precision or own
    if engine == "auto" and named in FOREIGN:
        warnings.warn(
            spoken(
                f"{bundle.path} was compiled for {named} and is run by our own kernels: to have it run by {named}, say "
                f"so with --engine={named}"
            ),
            stacklevel=3,
        )
    if engine in FOREIGN:
        return engine, precision or (own if own in PRECISIONS else "fp32")
    return engine, precision or ("fp32" if engine == "torch" else own)


def keeper_of(bundle: Bundle) -> Keeper:
    """What remembers how the bundle's network is traced, whatever its weights."""
    config = bundle.config
    return Keeper(
        {
            "model": config.model,
            "arguments": config.model_args,
            "classes": config.build_task().num_outputs,
            "channels": config.preprocess.channels,
        }
    )


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
    defaults = _defaults(config)
    arguments = {**defaults, **config.model_args}
    for name, value in defaults.items():
        if arguments[name] != value:
            given = describe(arguments[name])
            raise DepthwiseError(
                f"{bundle.path}: model_args say {name}={given}, the rest of the config says {value}: write the bundle "
                f"anew"
            )
    try:
        # Without memory a network costs neither time nor random numbers, however large the config says it is.
        with torch.device("meta"):
            module = create_model(config.model, **arguments)
    except DepthwiseError as error:
        raise DepthwiseError(f"{bundle.path}: {error}") from None
    _check_size(bundle, module)
    expected = module.state_dict()
    check_fit(bundle.path, config.model, bundle.weights, expected)
    module.load_state_dict(_like(expected, bundle.weights), assign=True)
    return module.eval()


def _defaults(config: BundleConfig) -> dict[str, Any]:
    """What the rest of the config says of the network's arguments."""
    return {"num_classes": config.build_task().num_outputs, "in_channels": config.preprocess.channels}


def costs(config: BundleConfig) -> tuple[int, int]:
    """The parameters of the config's network, and its multiply-adds for an image; takes up to seconds.

    Raises DepthwiseError if it cannot be built.
    """
    with torch.device("meta"):
        module = create_model(config.model, **{**_defaults(config), **config.model_args})
    counted = cost(module, config.preprocess.shape)
    return counted.parameters, counted.macs


def _check_size(bundle: Bundle, module: Any) -> None:
    """Raise DepthwiseError if the network, which has no memory yet, cannot take images of the config's size here."""
    preprocess = bundle.config.preprocess
    size = "x".join(map(str, preprocess.size))
    if min(preprocess.size) < module.min_size:
        raise DepthwiseError(
            f"{bundle.path}: {bundle.config.model} takes images from {module.min_size}x{module.min_size} pixels, and "
            f"the config says {size}: write the bundle anew"
        )
    if math.prod(preprocess.size) <= COUNTED_FROM:
        return
    needed, most = cost(module, preprocess.shape).inference_bytes, machine_memory()
    if needed > most:
        raise DepthwiseError(
            f"{bundle.path}: an image of {size} takes {bundle.config.model} {needed / 1e9:,.0f} GB, and this machine "
            f"has {most / 1e9:,.0f}: write the bundle anew with a smaller size, or load it on a larger machine"
        )


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
        wanted, found = (_kind(tensors.get(name)) for tensors in (expected, weights))
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


def _kind(tensor: Tensor | None) -> str:
    """The shape; with whole numbers, which are no weights, or with others where these should be, so it says."""
    if tensor is None:
        return "absent"
    return f"{list(tensor.shape)}{'' if tensor.is_floating_point() else ' of whole numbers'}"
