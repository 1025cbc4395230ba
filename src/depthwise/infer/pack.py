"""A step's numbers in the kernels' layout: panels of weights, with channels padded to whole vectors."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from depthwise.infer.fuse import NOTHING, Step, block, parts
from depthwise.infer.graph import ACTIVATIONS, LANES, Convolution, Function
from depthwise.infer.quantize import Rounding
from depthwise.native import structs
from depthwise.native.library import library
from depthwise.native.plans import arrays

QUAD = 4  # the inputs of a panel start at a multiple of it: int8 multiplies four values at once
BLOCK = 64  # the channels of a depthwise convolution that are multiplied at once in int8


@dataclass(frozen=True)
class Packed:
    """A step's numbers in the kernels' layout, as native/kernels.h describes it; the plan keeps the tensors alive."""

    weights: Tensor | None = None
    panels: Tensor | None = None
    bias: Tensor | None = None
    depthwise: Tensor | None = None
    between_scale: Tensor | None = None
    between_bias: Tensor | None = None
    four_rows: Tensor | None = None
    four_rows_rounding: Tensor | None = None
    scale: Tensor | None = None
    between_rounding: Tensor | None = None
    order: Tensor | None = None
    """The order of the depthwise convolution's channels, unless it is their own."""
    lost: Tensor | None = None
    """Weights of the product other than 0 that round to the int8 0: their places, counted from 1, times their signs."""
    depthwise_lost: Tensor | None = None
    runs: int = 1
    taps: int = 1
    length: int = 0
    out_rounding: Tensor | None = None
    """How the result is rounded, if it is uint8; see `rounding_numbers`."""
    rounded_by_scale: bool = False
    """`scale` and `bias` round it, too."""
    row_spans: Tensor | None = None
    column_spans: Tensor | None = None

    def fields(self) -> dict[str, object]:
        """Those of structs.Step that say what the numbers are and where they lie."""
        sizes = {name: vars(self)[name] for name in ("runs", "taps", "length", "rounded_by_scale")}
        tensors = {name: value for name, value in vars(self).items() if name not in sizes}
        return {**arrays(**tensors), **sizes}


def pack(
    step: Step,
    inputs: int,
    outputs: int,
    *,
    bf16: bool,
    rounding: Rounding | None = None,
    depthwise_rounding: Rounding | None = None,
    uint8_source: bool = False,
) -> Packed:
    """The numbers of `step`, between maps of `inputs` and `outputs` channels with padding, for the kernels in use.

    Its product is in int8 if there is a `rounding` for it. The step then rounds its rows itself, unless they are those
    of a uint8 map. The depthwise part of such a product is in int8 if there is a `depthwise_rounding`, for a uint8 map.
    """
    assert library.handle is not None
    packed = Packed(length=inputs)
    if step.product is not None:
        parted = bf16 and step.depthwise is not None and depthwise_rounding is None
        packed = _with_product(
            step, inputs, outputs, rounding, torch.bfloat16 if bf16 else torch.float32, parted
        )

    def ordered(values: Tensor) -> Tensor:
        return values if packed.order is None else values.index_select(-1, packed.order)

    rows = ordered(rounding_numbers(rounding, inputs)) if rounding else None
    if step.depthwise is None:
        return packed if uint8_source else replace(packed, between_rounding=rows)
    if depthwise_rounding is not None:
        assert rows is not None
        return _with_bytes(packed, step, step.depthwise, depthwise_rounding, rows)
    return replace(
        packed,
        depthwise=ordered(_taps(step.depthwise, inputs)),
        between_bias=ordered(_padded(step.depthwise.bias, inputs)),
        between_rounding=rows,
    )


def _with_product(
    step: Step, inputs: int, outputs: int, rounding: Rounding | None, form: torch.dtype, parted: bool
) -> Packed:
    """The numbers of the product of `step`; parted: its rows are in the order of `_parted`."""
    assert library.handle is not None
    assert step.product is not None
    product, scale, lost = step.product, None, None
    if rounding:
        form, scale = torch.int8, _padded(rounding.step, outputs)
        product, lost = _in_int8(product, rounding)
    windows = _windows(product, inputs, outputs, int(library.handle.depthwise_panel()))
    height, width = product.weight.shape[2:]
    runs, taps, length = 1, 1, inputs
    if len(windows[0][1]) < length:
        runs, taps, length = height * width, width, len(windows[0][1])
    elif step.depthwise is None:
        runs, length = height, width * length
    order = _parted(inputs, length, int(library.handle.depthwise_parted())) if parted else None
    return Packed(
        weights=torch.cat([_panel(product, *window, form, order) for window in windows]),
        panels=torch.tensor([(len(wide), deep.start) for wide, deep in windows]),
        bias=_padded(product.bias, outputs),
        scale=scale,
        order=order,
        lost=lost,
        runs=runs,
        taps=taps,
        length=length,
    )


def _with_bytes(
    packed: Packed, step: Step, depthwise: Convolution, rounding: Rounding, rows: Tensor
) -> Packed:
    """`packed` with a depthwise part in int8, whose result is rounded as `rows` [2, channels] say."""
    inputs = rows.shape[1]
    depthwise, lost = _in_int8(depthwise, rounding)
    taps, scale, bias = (
        _taps(depthwise, inputs),
        _padded(rounding.step, inputs),
        _padded(depthwise.bias, inputs),
    )
    four_rows = four_rows_rounding = None
    if step.between == NOTHING:
        # One factor and one summand take a sum to the rounded row.
        scale, bias = scale * rows[0], bias * rows[0] + rows[1]
        rows = torch.stack([torch.ones(inputs), torch.zeros(inputs)])
        if depthwise.weight.shape[2:] == (3, 3):
            columns = taps.view(3, 3, inputs).permute(1, 2, 0)
            four_rows = _in_blocks(torch.nn.functional.pad(columns, (0, 1))).to(torch.int8)
            four_rows_rounding = _in_blocks(torch.stack([scale, bias])[..., None])
    return replace(
        packed,
        depthwise=taps,
        between_scale=scale,
        between_bias=bias,
        between_rounding=rows,
        four_rows=four_rows,
        four_rows_rounding=four_rows_rounding,
        depthwise_lost=lost,
    )


def _in_blocks(values: Tensor) -> Tensor:
    """`values` [n, channels, m] in the order of native/plan_depthwise_bytes.h, up to whole blocks of channels.

    Bytes are interleaved within a quarter of a register, so its four vectors have four channels of each quarter.
    """
    missing = -values.shape[1] % BLOCK
    blocks = torch.nn.functional.pad(values, (0, 0, 0, missing)).view(
        len(values), -1, 4, 4, 4, values.shape[2]
    )
    return blocks.transpose(2, 3).contiguous()


def with_result_rounded(packed: Packed, step: Step, rounding: Rounding, channels: int) -> Packed:
    """`packed` with a result that is a uint8 map of so many `channels`."""
    numbers = rounding_numbers(rounding, channels)
    packed = replace(packed, out_rounding=numbers)
    if packed.scale is None or step.residual is not None or step.activation != NOTHING:
        return packed
    assert packed.bias is not None
    return replace(
        packed,
        scale=packed.scale * numbers[0],
        bias=packed.bias * numbers[0] + numbers[1],
        rounded_by_scale=True,
    )


def _taps(depthwise: Convolution, channels: int) -> Tensor:
    """The filters of a depthwise convolution, [h * w, channels]."""
    return _padded(depthwise.weight.flatten(1).T, channels)


def _in_int8(convolution: Convolution, rounding: Rounding) -> tuple[Convolution, Tensor]:
    """`convolution` with integers for weights, and which of its weights were lost; see `Packed.lost`."""
    signs = convolution.weight.sign().flatten()
    rounded = rounding.in_int8(convolution)
    places = (rounded.weight.flatten() == 0).logical_and(signs != 0).nonzero().squeeze(1)
    return rounded, ((places + 1) * signs[places]).int()


def unpack(
    packed: Packed, step: Step, rounding: Rounding | None, depthwise_rounding: Rounding | None
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
        if depthwise_rounding is not None:
            depthwise = _from_int8(depthwise, packed.depthwise_lost, depthwise_rounding)
    if product is not None:
        assert packed.bias is not None
        weight = _unpacked(packed, product)
        product = replace(product, weight=weight, bias=packed.bias[: len(weight)].clone())
        if rounding is not None:
            product = _from_int8(product, packed.lost, rounding)
    return depthwise, product


def _from_int8(convolution: Convolution, lost: Tensor | None, rounding: Rounding) -> Convolution:
    """What the integers of `_in_int8` stand for."""
    assert lost is not None
    weight = convolution.weight.clone()
    # Not zero, because zero times infinity is NaN where the original weight gave infinity.
    weight.view(-1)[lost.abs().long() - 1] = lost.sign() / 4
    return replace(
        convolution, weight=rounding.weight(replace(convolution, weight=weight)), bias=rounding.bias
    )


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
