"""int8 convolutions: how each is rounded, as calibration images ask for.

What a convolution reads is uint8 with a scale and a zero point for each input channel. The scales are folded into the
weights, which are then rounded to int8 with a scale for each output channel. So a channel of small values loses no
accuracy beside one of large values; with one scale for a whole map it does, and depthwise networks suffer from that.
The mean error of each output channel is subtracted from its bias (Nagel et al. 2019, "Data-free quantization through
weight equalization and bias correction"). A map stays bfloat16 if anything but int8 convolutions reads it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.infer.fuse import PASSING, is_affine, is_depthwise, is_pointwise
from depthwise.infer.graph import Activation, Convolution, Graph, Image, Mean, sources
from depthwise.infer.reference import apply, interpret

MOST_ERROR = 0.05
"""The largest Rounding.error of a convolution in int8; with a larger one it stays bfloat16."""

LEAST_RANGE = 0.001
"""The least range of a channel, relative to the widest: a narrower one would clamp values that calibration missed."""

MOST_DEPTH = 2**31 // (255 * 127)
"""The depth of a product up to which its int32 sums cannot overflow."""


class RoundingError(DepthwiseError):
    """A rounding that no calibration of this network gives; the text names the tensor."""


class CalibrationError(DepthwiseError):
    """Calibration images that give no ranges."""


@dataclass(frozen=True)
class Rounding:
    """How one convolution is rounded: an input v to v / scale + zero, and a weight w to w * scale / step.

    scale, zero [M], step, bias [K], all float32. error: the root mean square of its error on the calibration images,
    relative to that of its result.
    """

    scale: Tensor
    zero: Tensor
    step: Tensor
    bias: Tensor
    error: float

    def in_int8(self, convolution: Convolution) -> Convolution:
        """`convolution` with integers from -127 to 127 for weights, in float32, and its sums in units of `step`."""
        weight = (_times(convolution, self.scale) / self.step[:, None, None, None]).round().clamp(-127, 127)
        rounded = replace(convolution, weight=weight)
        # The zero points add this to every sum.
        zeros = _times(rounded, self.zero).sum((1, 2, 3))
        return replace(rounded, bias=self.bias - self.step * zeros)

    def weight(self, rounded: Convolution) -> Tensor:
        """The weights that the integers of `in_int8` stand for."""
        return _times(rounded, 1 / self.scale) * self.step[:, None, None, None]

    def saturates(self, activation: str) -> bool:
        """Whether rounding to uint8, which clamps to 0 and 255, does what `activation` does."""
        if activation not in ("relu", "relu6") or self.zero.any():
            return False
        return activation == "relu" or bool((6 / self.scale >= 254.5).all())

    def rounded(self, x: Tensor) -> Tensor:
        """`x` [N, M, H, W] rounded to uint8, minus the zero point, in float32."""
        scale, zero = self.scale[None, :, None, None], self.zero[None, :, None, None]
        return (x / scale + zero).round().clamp(0, 255) - zero


def _times(convolution: Convolution, factors: Tensor) -> Tensor:
    """The weights times a factor [M] for each input channel."""
    factors = factors.view(convolution.groups, -1).repeat_interleave(
        len(convolution.weight) // convolution.groups, 0
    )
    return convolution.weight * factors[:, :, None, None]


def _step(convolution: Convolution, scale: Tensor) -> Tensor:
    """The steps [K] with which the largest weight of each output channel becomes 127."""
    return _times(convolution, scale).abs().amax((1, 2, 3)).clamp(min=1e-30) / 127


def quantizable(graph: Graph) -> dict[int, Convolution]:
    """The convolutions that can be in int8, by the numbers of their operations.

    Left out are: products of the image, also after a scale and a shift; the last product, which gives the logits;
    convolutions whose weights or biases are not finite; what is computed from means alone, as gates are, because that
    is little work and scales whole maps; and depthwise convolutions unless they are part of a separable one in int8
    and nothing but int8 reads what they read.
    """
    products: dict[int, Convolution] = {}
    from_means: set[int] = set()
    images: set[int] = set()
    last = 0
    for index, operation in enumerate(graph.operations):
        read = sources(operation)
        if isinstance(operation, Mean) or (read and from_means.issuperset(read)):
            from_means.add(index)
        if isinstance(operation, Image) or (is_affine(operation) and images.issuperset(read)):
            images.add(index)
        if not isinstance(operation, Convolution) or is_depthwise(operation) or is_affine(operation):
            continue
        last = index
        if (
            operation.source not in images
            and bool(operation.weight.isfinite().all() and operation.bias.isfinite().all())
            and index not in from_means
            and operation.weight[0].numel() <= MOST_DEPTH
        ):
            products[index] = operation
    products.pop(last, None)
    return dict(sorted({**products, **_depthwise(graph, products)}.items()))


def _depthwise(graph: Graph, products: Mapping[int, Convolution]) -> dict[int, Convolution]:
    """The depthwise convolutions before `products` whose maps can be uint8."""
    readers: list[list[int]] = [[] for _ in graph.operations]
    for index, operation in enumerate(graph.operations):
        for source in sources(operation):
            readers[source].append(index)

    def feeds_product(index: int) -> bool:
        following = readers[index]
        if len(following) == 1 and isinstance(graph.operations[following[0]], Activation):
            following = readers[following[0]]
        return len(following) == 1 and following[0] in products and is_pointwise(products[following[0]])

    def made_by_step(index: int) -> bool:
        """Whether map `index` is written by a step that can round it."""
        operation = graph.operations[index]
        if isinstance(operation, Activation) and len(readers[operation.source]) == 1:
            operation = graph.operations[operation.source]
        return isinstance(operation, PASSING)

    found = {
        index: operation
        for index, operation in enumerate(graph.operations)
        if isinstance(operation, Convolution)
        and is_depthwise(operation)
        and not is_affine(operation)
        and bool(operation.weight.isfinite().all() and operation.bias.isfinite().all())
        and feeds_product(index)
        and made_by_step(operation.source)
    }
    return {
        index: operation
        for index, operation in found.items()
        if all(reader in found or reader in products for reader in readers[operation.source])
    }


def calibrate(graph: Graph, batches: Iterable[Tensor]) -> dict[str, Rounding]:
    """How each convolution of `graph` is rounded, by its name, from float32 images [N, C, H, W].

    Raises CalibrationError if there are no images or a map is not finite on them.
    """
    batches = list(batches)
    if not sum(map(len, batches)):
        raise CalibrationError("int8 is calibrated on images and there are none: give at least one")
    convolutions = quantizable(graph)
    ranges = _ranges(graph, convolutions, batches)
    padded = {convolution.source for convolution in convolutions.values() if any(convolution.padding)}
    roundings = {}
    for index, convolution in convolutions.items():
        low, high = ranges[convolution.source]
        scale, zero = _scale_and_zero(low, high, one_zero=convolution.source in padded)
        roundings[index] = Rounding(scale, zero, _step(convolution, scale), convolution.bias, 0.0)
    corrected = _measure(graph, convolutions, roundings, batches)
    return {convolution.name: corrected[index] for index, convolution in convolutions.items()}


def _ranges(
    graph: Graph, convolutions: Mapping[int, Convolution], batches: list[Tensor]
) -> dict[int, tuple[Tensor, Tensor]]:
    """The least and the largest value of each channel of the maps that convolutions read; zero is within them."""
    wanted = {convolution.source for convolution in convolutions.values()}
    ranges: dict[int, tuple[Tensor, Tensor]] = {}

    def visit(index: int, read: list[Tensor], made: Tensor) -> None:
        if index not in wanted:
            return
        if not made.isfinite().all():
            raise CalibrationError(
                "the network's maps are not finite on the calibration images: its training diverged"
            )
        low, high = ranges.get(index, (torch.zeros(made.shape[1]), torch.zeros(made.shape[1])))
        ranges[index] = torch.minimum(low, made.amin((0, 2, 3))), torch.maximum(high, made.amax((0, 2, 3)))

    for batch in batches:
        interpret(graph, batch, visit)
    return ranges


def _scale_and_zero(low: Tensor, high: Tensor, *, one_zero: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each channel. one_zero: the same zero point for all, as a padded map needs it."""
    width = high - low
    least = (LEAST_RANGE * width.max()).clamp(min=1e-30)
    if one_zero:
        if (low < 0).any():
            scale = torch.maximum(torch.maximum(high, -low), least) / 127
            return scale, torch.full_like(scale, 128)
        return torch.maximum(high, least) / 255, torch.zeros_like(high)
    scale = torch.maximum(width, least) / 255
    return scale, (-low / scale).round()


def _measure(
    graph: Graph,
    convolutions: Mapping[int, Convolution],
    roundings: Mapping[int, Rounding],
    batches: list[Tensor],
) -> dict[int, Rounding]:
    """Each rounding with its error, and with the mean of that error subtracted from the bias."""
    sums: dict[int, list[Tensor]] = {}

    def visit(index: int, read: list[Tensor], made: Tensor) -> None:
        if index not in convolutions:
            return
        convolution, rounding = convolutions[index], roundings[index]
        weight = rounding.in_int8(convolution).weight * rounding.step[:, None, None, None]
        error = (
            apply(replace(convolution, weight=weight), [rounding.rounded(read[0])], graph.shapes[index])
            - made
        )
        pure = made - convolution.bias[None, :, None, None]
        parts = [error.sum((0, 2, 3)), error.square().sum((0, 2, 3)), pure.square().sum((0, 2, 3))]
        count = torch.tensor(error.numel() / error.shape[1])
        found = sums.get(index)
        sums[index] = (
            [*parts, count] if found is None else [a + b for a, b in zip(found, [*parts, count], strict=True)]
        )

    for batch in batches:
        interpret(graph, batch, visit)
    result = {}
    for index, rounding in roundings.items():
        error, squares, pure, count = sums[index]
        mean = error / count
        left = (squares - count * mean.square()).clamp(min=0).sum()
        relative = float((left / pure.sum().clamp(min=1e-30)).sqrt())
        result[index] = replace(rounding, bias=rounding.bias - mean, error=relative)
    return result


def to_tensors(roundings: Mapping[str, Rounding]) -> dict[str, Tensor]:
    """The roundings as named tensors, for a file."""
    return {
        f"{name}.{part}": torch.as_tensor(value, dtype=torch.float32)
        for name, rounding in roundings.items()
        for part, value in vars(rounding).items()
    }


def from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Rounding]:
    """The roundings of `to_tensors`. Raises RoundingError, naming the tensor, if one is missing or has wrong values."""
    parts = [part.name for part in fields(Rounding)]
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(".")
        if not name or part not in parts:
            raise RoundingError(f"{key} is no part of a rounding, which has {', '.join(parts)}")
        _check_part(key, part, tensor)

    def rounding(name: str) -> Rounding:
        scale, zero, step, bias, error = (tensors[f"{name}.{part}"] for part in parts)
        return Rounding(scale, zero, step, bias, float(error))

    try:
        return {name: rounding(name) for name in dict.fromkeys(key.rpartition(".")[0] for key in tensors)}
    except KeyError as error:
        raise RoundingError(f"{error.args[0]} is missing") from None


def _check_part(key: str, part: str, tensor: Tensor) -> None:
    wanted = 0 if part == "error" else 1
    if tensor.dtype != torch.float32 or tensor.ndim != wanted:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise RoundingError(
            f"{key} is {kind} {list(tensor.shape)} and must be float32 with {wanted} dimensions"
        )
    if not tensor.isfinite().all():
        raise RoundingError(f"{key} is not finite")
    least = torch.finfo(torch.float32).tiny
    if part in ("scale", "step") and not (tensor >= least).all():
        raise RoundingError(f"{key} goes down to {float(tensor.min()):g} and must be above 0")
    if part == "zero" and not ((tensor >= 0) & (tensor <= 255) & (tensor == tensor.round())).all():
        raise RoundingError(f"{key} must hold whole numbers from 0 to 255")
    if part == "error" and tensor < 0:
        raise RoundingError(f"{key} is {float(tensor):g} and must be at least 0")


def check_roundings(graph: Graph, roundings: Mapping[str, Rounding]) -> None:
    """Raise RoundingError, naming the tensor, unless `roundings` are those that a calibration of `graph` gives.

    Depthwise convolutions may be left out, as they were before they could be in int8, and may be there where another
    spelling of the network keeps them from it.
    """
    convolutions = {
        index: convolution
        for index, convolution in quantizable(graph).items()
        if convolution.name in roundings or not is_depthwise(convolution)
    }
    needed = {convolution.name: convolution for convolution in convolutions.values()}
    depthwise = {
        operation.name: operation
        for operation in graph.operations
        if isinstance(operation, Convolution) and is_depthwise(operation)
    }
    named = {**depthwise, **needed}
    for name in dict.fromkeys([*needed, *roundings]):
        if name not in roundings:
            raise RoundingError(f"{name}.scale is missing")
        if name not in named:
            raise RoundingError(f"{name}.scale is of no convolution of this network that can be in int8")
        _check_sizes(named[name], roundings[name])
    padded = {convolution.source for convolution in convolutions.values() if any(convolution.padding)}
    first: dict[int, str] = {}
    for convolution in convolutions.values():
        rounding, other = (
            roundings[convolution.name],
            roundings[first.setdefault(convolution.source, convolution.name)],
        )
        if convolution.source in padded and not (rounding.zero == rounding.zero[0]).all():
            raise RoundingError(f"{convolution.name}.zero must be one number, for its map is padded")
        for part in ("scale", "zero"):
            if not torch.equal(getattr(rounding, part), getattr(other, part)):
                one = first[convolution.source]
                raise RoundingError(f"{convolution.name}.{part} differs from {one}.{part}, of the same map")


def _check_sizes(convolution: Convolution, rounding: Rounding) -> None:
    inputs, outputs = convolution.groups * convolution.weight.shape[1], len(convolution.weight)
    for part, count in {"scale": inputs, "zero": inputs, "step": outputs, "bias": outputs}.items():
        found = len(getattr(rounding, part))
        if found != count:
            raise RoundingError(
                f"{convolution.name}.{part} has {found} numbers and its convolution has {count} channels"
            )
    # A step follows from the scale and the weights. Another one would clamp weights or waste bits of the int8.
    if not torch.allclose(rounding.step, _step(convolution, rounding.scale), rtol=0.01, atol=0):
        raise RoundingError(f"{convolution.name}.step does not fit the weights and {convolution.name}.scale")
