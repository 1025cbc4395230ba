"""What a separable network is measured against: the same network with regular convolutions."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from depthwise.analysis.cost import KINDS, LayerCost, cost, is_leaf

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
    layers: dict[str | None, LayerCost] = {layer.name: layer for layer in cost(module, input_shape).layers}
    pairs = {first: layer for layer in layers.values() if (first := _first_half(layer, layers))}
    twin = nn.Sequential(copy.deepcopy(module))  # around it, so that the module itself has a name, "0"
    parts = [_name(name) for name, part in module.named_modules() if is_leaf(part)]
    for layer in layers.values():
        conv = twin.get_submodule(_name(layer.name))
        if layer.kind not in ("depthwise", "grouped") or not isinstance(conv, CONVOLUTIONS):
            continue
        last = pairs.get(layer.name, layer)
        bias = getattr(twin.get_submodule(_name(last.name)), "bias", None) is not None
        here, end = parts.index(_name(layer.name)), parts.index(_name(last.name))
        for emptied in parts[here + 1 : end + 1]:
            twin.set_submodule(emptied, nn.Identity())
        twin.set_submodule(parts[here], _regular(conv, last.output_shape[0], bias=bias))
    return twin[0]


def _name(name: str) -> str:
    return f"0.{name}".rstrip(".")


def _first_half(layer: LayerCost, layers: Mapping[str | None, LayerCost]) -> str | None:
    """The depthwise convolution of which `layer` is the pointwise half, with at most norms and activations between."""
    if layer.kind != "pointwise" or layer.input_shape[1:] != layer.output_shape[1:]:
        return None
    source = layers.get(layer.source)
    while source is not None and source.output_shape == layer.input_shape:
        if source.kind in KINDS:
            return source.name if source.kind == "depthwise" else None
        source = layers.get(source.source)
    return None


def _regular(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d, channels: int, *, bias: bool) -> nn.Module:
    # A copy: a subclass may pad in a way of its own.
    regular = copy.deepcopy(conv)
    regular.groups, regular.out_channels = 1, channels
    shape = (channels, conv.in_channels, *conv.kernel_size)
    regular.weight = nn.Parameter(torch.empty(shape, dtype=conv.weight.dtype, device=conv.weight.device))
    nn.init.kaiming_normal_(regular.weight)
    regular.bias = nn.Parameter(regular.weight.new_zeros(channels)) if bias else None
    return regular
