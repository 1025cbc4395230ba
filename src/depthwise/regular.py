"""What a separable network is measured against: the same network with regular convolutions."""

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from depthwise.cost import KINDS, LayerCost, cost, is_leaf

CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d


def regular_twin(module: nn.Module, input_shape: Sequence[int]) -> nn.Module:
    """A copy of `module` in which every convolution works on all channels at once; takes what `module` takes.

    A depthwise convolution and the pointwise one that it feeds become one regular convolution of the same
    kernel, stride and shape, as in the table of MobileNet's paper (Howard 2017, section 4.1); a norm and an
    activation between them go. Any other depthwise or grouped convolution keeps its place and loses its groups.
    New filters are He normal by fan-in, all else is copied with its weights.

    `input_shape`, (C, H, W), finds out which layer feeds which. Built under `torch.device("meta")`, a twin
    takes no memory and can be counted all the same.
    """
    layers = [layer for layer in cost(module, input_shape).layers if layer.kind in KINDS]
    twin = nn.Sequential(copy.deepcopy(module))  # around it, so that the module itself has a name, "0"
    parts = [f"0.{name}".rstrip(".") for name, part in module.named_modules() if is_leaf(part)]
    for layer, successor in zip(layers, [*layers[1:], None], strict=True):
        name = f"0.{layer.name}".rstrip(".")
        conv = twin.get_submodule(name)
        if layer.kind not in ("depthwise", "grouped") or not isinstance(conv, CONVOLUTIONS):
            continue
        if layer.kind == "depthwise" and successor is not None and _feeds(layer, successor):
            pointwise = twin.get_submodule(f"0.{successor.name}")
            channels, bias = successor.output_shape[0], getattr(pointwise, "bias", None) is not None
            place = parts.index(name)
            for emptied in parts[place + 1 : parts.index(f"0.{successor.name}") + 1]:
                twin.set_submodule(emptied, nn.Identity())
        else:
            channels, bias = layer.output_shape[0], conv.bias is not None
        twin.set_submodule(name, _regular(conv, channels, bias=bias))
    return cast(nn.Module, twin[0])


def _feeds(layer: LayerCost, successor: LayerCost) -> bool:
    """Whether `successor` is the pointwise half of a separable convolution that begins with `layer`."""
    same_map = (
        successor.input_shape == layer.output_shape and layer.output_shape[1:] == successor.output_shape[1:]
    )
    return successor.kind == "pointwise" and same_map


def _regular(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, channels: int, *, bias: bool) -> nn.Module:
    # A copy: a subclass may pad in a way of its own.
    regular = copy.deepcopy(conv)
    regular.groups, regular.out_channels = 1, channels
    shape = (channels, conv.in_channels, *conv.kernel_size)
    regular.weight = nn.Parameter(torch.empty(shape, dtype=conv.weight.dtype, device=conv.weight.device))
    nn.init.kaiming_normal_(regular.weight)
    regular.bias = nn.Parameter(regular.weight.new_zeros(channels)) if bias else None
    return regular
