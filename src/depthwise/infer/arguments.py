"""Checks of the arguments of `compile`, so that a wrong one gives a sentence of ours and not an error of torch."""

from typing import Any

import torch
from torch import Tensor, nn

from depthwise.errors import DepthwiseError


def check_network(module: Any) -> None:
    """Raise DepthwiseError unless `module` is a network in Python, whose graph can be read."""
    kind = type(module).__name__
    if isinstance(module, torch.export.ExportedProgram):
        kind, fault = "ExportedProgram", "a program that torch.export made, not a torch.nn.Module"
    elif isinstance(module, torch.jit.ScriptModule):
        fault = "a program of TorchScript, whose graph torch.export does not read"
    elif isinstance(module, type) and issubclass(module, nn.Module):
        raise DepthwiseError(f"{module.__name__} is a class, not a network: give an instance of it")
    elif not isinstance(module, nn.Module):
        raise DepthwiseError(
            f"the network is a {kind}, not a torch.nn.Module: put it into the forward of one"
        )
    elif "train" in vars(module):  # torch.export's own, which refuses
        fault = "the module of a program that torch.export made, whose mode is fixed"
    else:
        return _check_weights(module)
    raise DepthwiseError(f"the network ({kind}) is {fault}: give the module that it was made from")


def _check_weights(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise DepthwiseError(
                f"the network's {name} is {dtype} on {parameter.device.type}, and a network is compiled from float32 "
                f"on the CPU: give module.cpu().float()"
            )


def check_example(example: Any) -> None:
    """Raise DepthwiseError unless `example` is a batch of float32 images on the CPU."""
    rule = "an example is float32 images [N, C, H, W] on the CPU"
    if not isinstance(example, Tensor):
        raise DepthwiseError(f"the example is a {type(example).__name__}, and {rule}: give a torch.Tensor")
    if example.ndim != 4:
        remedy = "example[None]" if example.ndim == 3 else "torch.zeros(1, C, H, W)"
        raise DepthwiseError(f"the example is {list(example.shape)}, and {rule}: give {remedy}")
    if example.dtype != torch.float32 or example.device.type != "cpu":
        dtype = str(example.dtype).removeprefix("torch.")
        raise DepthwiseError(
            f"the example is {dtype} on {example.device.type}, and {rule}: give example.cpu().float()"
        )


def check_calibration(images: Any, shape: tuple[int, ...]) -> None:
    """Raise DepthwiseError unless `images` are a batch of images of `shape` [C, H, W] that ranges can be read off."""
    if not isinstance(images, Tensor):
        raise DepthwiseError(
            f"the calibration images are a {type(images).__name__}, and must be one tensor [N, C, H, W]: give "
            f"torch.cat or torch.stack of them"
        )
    if tuple(images.shape[1:]) != shape:
        raise DepthwiseError(
            f"the calibration images are {list(images.shape)} and must be [N, {', '.join(map(str, shape))}] "
            f"as the example is: prepare them alike"
        )
    finite = images.flatten(1).isfinite().all(1)
    if not finite.all():
        faults = (~finite).nonzero().flatten().tolist()
        shown = ", ".join(map(str, faults[:3])) + (", ..." if len(faults) > 3 else "")
        raise DepthwiseError(
            f"{len(faults)} of {len(images)} calibration images hold values that are not finite (number {shown}): "
            f"leave them out"
        )
    if len(images) > 1 and (images == images[:1]).all():
        raise DepthwiseError(
            f"the {len(images)} calibration images are all alike, and ranges are read off them: give some hundred "
            f"different ones, like those to come"
        )
    if len(images) and images.min() == images.max():
        raise DepthwiseError(
            "the calibration image has one value everywhere, and ranges are read off it: give some hundred like those "
            "to come"
        )
