"""A step's numbers in the kernels' layout: panels of weights, with channels padded to whole vectors."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from depthwise.infer.fuse import Step, block, parts
from depthwise.infer.graph import ACTIVATIONS, LANES, Convolution, Function
from depthwise.infer.quantize import Rounding
from depthwise.native import structs
from depthwise.native.library import library
from depthwise.native.plans import arrays

QUAD = 4  # the inputs of a panel start at a multiple of it: int8 multiplies four values at once


@dataclass(frozen=True)
class Packed:
    """A step's numbers in the kernels' layout, as native/kernels.h describes it; the plan keeps the tensors alive."""

    weights: Tensor | None
    panels: Tensor | None
    bias: Tensor | None
    depthwise: Tensor | None
    between_bias: Tensor | None
    scale: Tensor | None
    between_rounding: Tensor | None
    order: Tensor | None
    """The order of the depthwise convolution's channels, unless it is their own."""
    lost: Tensor | None
    """Weights other than 0 that round to the int8 0: their places, counted from 1, times their signs."""
    runs: int
    taps: int
    length: int
    out_rounding: Tensor | None = None
    """How the result is rounded, if it is uint8; see `rounding_numbers`."""
    row_spans: Tensor | None = None
    column_spans: Tensor | None = None

    def fields(self) -> dict[str, object]:
        """Those of structs.Step that say what the numbers are and where they lie."""
        sizes = {name: vars(self)[name] for name in ("runs", "taps", "length")}
        tensors = {name: value for name, value in vars(self).items() if name not in sizes}
        return {**arrays(**tensors), **sizes}


def pack(
    step: Step,
    inputs: int,
    outputs: int,
    *,
    bf16: bool,
    rounding: Rounding | None = None,
    uint8_source: bool = False,
) -> Packed:
    """The numbers of `step`, between maps of `inputs` and `outputs` channels with padding, for the kernels in use.

    Its product is in int8 if there is a `rounding` for it. The step then rounds its rows itself, unless its source is
    a uint8 map.
    """
    assert library.handle is not None
    weights = panels = bias = depthwise = between_bias = scale = between_rounding = order = lost = None
    runs, taps, length = 1, 1, inputs
    if step.product is not None:
        product = step.product
        if rounding:
            signs = product.weight.sign().flatten()
            product = rounding.product(product)
            places = (product.weight.flatten() == 0).logical_and(signs != 0).nonzero().squeeze(1)
            lost = ((places + 1) * signs[places]).int()
            scale = _padded(rounding.step, outputs)
        windows = _windows(product, inputs, outputs, int(library.handle.depthwise_panel()))
        height, width = product.weight.shape[2:]
        if len(windows[0][1]) < length:
            runs, taps, length = height * width, width, len(windows[0][1])
        elif step.depthwise is None:
            runs, length = height, width * length
        if bf16 and step.depthwise is not None:
            order = _parted(inputs, length, int(library.handle.depthwise_parted()))
        form = torch.int8 if rounding else torch.bfloat16 if bf16 else torch.float32
        weights = torch.cat([_panel(product, *window, form, order) for window in windows])
        panels = torch.tensor([(len(wide), deep.start) for wide, deep in windows])
        bias = _padded(product.bias, outputs)

    def ordered(values: Tensor) -> Tensor:
        return values if order is None else values.index_select(-1, order)

    if step.depthwise is not None:
        depthwise = ordered(_padded(step.depthwise.weight.flatten(1).T, inputs))  # [h * w, M]
        between_bias = ordered(_padded(step.depthwise.bias, inputs))
    if rounding and not uint8_source:
        between_rounding = ordered(rounding_numbers(rounding, inputs))
    return Packed(
        weights,
        panels,
        bias,
        depthwise,
        between_bias,
        scale,
        between_rounding,
        order,
        lost,
        runs,
        taps,
        length,
    )


def unpack(
    packed: Packed, step: Step, rounding: Rounding | None
) -> tuple[Convolution | None, Convolution | None]:
    """The depthwise convolution and the product of `step`, from its packed numbers; both pack to the same again."""
    depthwise, product, order = step.depthwise, step.product, packed.order
    if depthwise is not None:
        assert packed.depthwise is not None
        assert packed.between_bias is not None
        values = torch.cat([packed.depthwise, packed.between_bias[None]])
        if order is not None:
            values = torch.empty_like(values).index_copy_(1, order, values)
        *filters, bias = values[:, : len(depthwise.weight)]
        weight = torch.stack(filters, 1).view(depthwise.weight.shape)
        depthwise = replace(depthwise, weight=weight, bias=bias.clone())
    if product is not None:
        assert packed.bias is not None
        weight = _unpacked(packed, product)
        bias = packed.bias[: len(weight)].clone()
        if rounding is not None:
            assert packed.lost is not None
            # Not zero, because zero times infinity is NaN where the original weight gave infinity.
            weight.view(-1)[packed.lost.abs().long() - 1] = packed.lost.sign() / 4
            weight, bias = rounding.weight(replace(product, weight=weight)), rounding.bias
        product = replace(product, weight=weight, bias=bias)
    return depthwise, product


def _unpacked(packed: Packed, product: Convolution) -> Tensor:
    """The product's weights, from all panels."""
    assert packed.weights is not None
    assert packed.panels is not None
    weight = torch.zeros(product.weight.shape)
    height, width = weight.shape[2:]
    panels = packed.panels.tolist()
    depth = packed.weights.numel() // sum(wide for wide, _ in panels)
    first = 0
    for (wide, start), values in zip(
        panels, packed.weights.split([depth * wide for wide, _ in panels]), strict=True
    ):
        matrix = values.float().view(-1, wide, 4 // values.itemsize).transpose(1, 2).reshape(depth, wide)
        if packed.order is not None:
            matrix = torch.empty_like(matrix).index_copy_(0, packed.order[:depth], matrix)
        inputs = range(start, start + depth // (height * width))
        panel = matrix.view(height, width, len(inputs), wide)
        for outputs, read, columns in parts(product, range(first, first + wide), inputs):
            weight[outputs] = panel[:, :, read, columns].permute(3, 2, 0, 1)
        first += wide
    return weight


def function_of(function: Function) -> structs.Function:
    """The activation as an argument of the kernels."""
    return structs.Function(ACTIVATIONS.index(function.kind), *function.numbers)


def rounding_numbers(rounding: Rounding, channels: int) -> Tensor:
    """What a value is multiplied by and what is then added to make it uint8, float32 [2, channels]."""
    return torch.stack([_padded(1 / rounding.scale, channels), _padded(rounding.zero, channels)])


def _panel(
    product: Convolution, outputs: range, inputs: range, form: torch.dtype, order: Tensor | None
) -> Tensor:
    matrix = block(product, outputs, inputs).reshape(-1, len(outputs))
    if order is not None:
        matrix = matrix[order[: len(matrix)]]
    # The values of 4 bytes come from adjacent rows: [depth / 2, K, 2] in bfloat16.
    matrix = matrix.reshape(-1, 4 // form.itemsize, len(outputs)).transpose(1, 2)
    return matrix.to(form).flatten()


def _parted(channels: int, length: int, width: int) -> Tensor:
    """The order in which a bfloat16 product reads the channels of a depthwise convolution.

    Of each 2 * `width` among the first `length` channels the even ones come first.
    """
    order = torch.arange(channels)
    pairs = length // (2 * width) * (2 * width)
    order[:pairs] = order[:pairs].view(-1, width, 2).transpose(1, 2).flatten()
    return order


def _windows(product: Convolution, inputs: int, outputs: int, panel: int) -> list[tuple[range, range]]:
    """The output channels of each panel, and the input channels that it reads, the same number for each panel.

    It reads all input channels, unless panels as wide as a group need fewer.
    """
    whole = [(part, range(inputs)) for part in _panels(outputs, panel)]
    share, width = len(product.weight) // product.groups, product.weight.shape[1]
    windows = []
    for part in _panels(outputs, min(panel, -(-share // LANES) * LANES)):
        first = part.start // share * width // QUAD * QUAD
        last = (min(part.stop, len(product.weight)) - 1) // share
        windows.append((part, range(first, min(-(-(last + 1) * width // QUAD) * QUAD, inputs))))
    length = max(len(window) for _, window in windows)
    if length >= inputs:
        return whole
    return [
        (part, range(start := min(window.start, inputs - length), start + length)) for part, window in windows
    ]


def _panels(channels: int, panel: int) -> list[range]:
    """The channels of each panel; the last two are of about equal width, rather than a full one and a thin one."""
    panels: list[range] = []
    done = 0
    while left := channels - done:
        even = -(-left // (2 * LANES)) * LANES
        wide = min(left, even if panel < left < 2 * panel else panel)
        panels.append(range(done, done + wide))
        done += wide
    return panels


def _padded(values: Tensor, channels: int) -> Tensor:
    return torch.nn.functional.pad(values.float(), (0, channels - values.shape[-1])).contiguous()
