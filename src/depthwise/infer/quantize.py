"""Products in bytes: how each is to be rounded, read off images that stand for those to come.

A product's rows are kept as unsigned bytes with a scale and a zero point for each input channel; the scales go into the
weights, which then are rounded to signed bytes with a scale for each output channel. So a channel of small values costs
no accuracy beside one of large ones, which is what spoils depthwise networks when a whole map has one scale. The mean
error that rounding leaves in an output channel is taken out of its bias (Nagel et al. 2019, "Data-free quantization
through weight equalization and bias correction"). Maps themselves stay bfloat16 wherever somebody else reads them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.infer.fuse import is_affine, is_depthwise
from depthwise.infer.graph import Convolution, Graph, Image, Mean, sources
from depthwise.infer.reference import apply, evaluate

MOST_ERROR = 0.05
"""Of a product in bytes, see Rounding.error: with more it stays bfloat16."""

LEAST_RANGE = 0.001
"""Of a channel, relative to the widest: values that calibration never saw are cut off."""

MOST_DEPTH = 2**31 // (255 * 127)
"""Of a product whose sums of bytes fit into 32 bits, whatever the image."""


class RoundingError(DepthwiseError):
    """A rounding that is not, or not of this network, what a calibration gives; its text names the tensor."""


class CalibrationError(DepthwiseError):
    """Images that ranges cannot be read off."""


@dataclass(frozen=True)
class Rounding:
    """One product in bytes: an input v is v / scale + zero, rounded, a weight w times its input's scale is w / step.

    scale, zero [M], step, bias [K], all float32. error: of the product on the calibration images, root mean square,
    relative to the product's own.
    """

    scale: Tensor
    zero: Tensor
    step: Tensor
    bias: Tensor
    error: float

    def product(self, product: Convolution) -> Convolution:
        """`product` for bytes: the weights are whole numbers from -127 to 127, in float32; a sum is worth `step`."""
        weight = (_times(product, self.scale) / self.step[:, None, None, None]).round().clamp(-127, 127)
        rounded = replace(product, weight=weight)
        # What the zero points add to every sum.
        zeros = _times(rounded, self.zero).sum((1, 2, 3))
        return replace(rounded, bias=self.bias - self.step * zeros)

    def weight(self, rounded: Convolution) -> Tensor:
        """The weights of the whole numbers that `product` gave."""
        return _times(rounded, 1 / self.scale) * self.step[:, None, None, None]

    def saturates(self, activation: str) -> bool:
        """Whether bytes, which end at 0 and 255, cut off by themselves what `activation` would."""
        if activation not in ("relu", "relu6") or self.zero.any():
            return False
        return activation == "relu" or bool((6 / self.scale >= 254.5).all())

    def whole(self, x: Tensor) -> Tensor:
        """The bytes of `x` [N, M, H, W] less the zero point, in float32."""
        scale, zero = self.scale[None, :, None, None], self.zero[None, :, None, None]
        return (x / scale + zero).round().clamp(0, 255) - zero


def _times(product: Convolution, factors: Tensor) -> Tensor:
    """The weights times a factor [M] for each input channel."""
    factors = factors.view(product.groups, -1).repeat_interleave(len(product.weight) // product.groups, 0)
    return product.weight * factors[:, :, None, None]


def _step(product: Convolution, scale: Tensor) -> Tensor:
    """What makes the largest weight of each output 127, [K]."""
    return _times(product, scale).abs().amax((1, 2, 3)).clamp(min=1e-30) / 127


def quantizable(graph: Graph) -> dict[int, Convolution]:
    """The operations that bytes are for: products of maps, but neither of the image nor the last, which decides.

    An image whose channels were scaled and shifted is one still. None with a weight or a bias that is not finite, for
    that has no byte.

    What is computed from means alone, as gates are, is little work and scales whole maps: it stays as it is.
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
    return products


def calibrate(graph: Graph, batches: Iterable[Tensor]) -> dict[str, Rounding]:
    """How each product of `graph` is to be rounded, by its name, from float32 images [N, C, H, W].

    Raises CalibrationError if there are no images or a map is not finite on them.
    """
    batches = list(batches)
    if not sum(map(len, batches)):
        raise CalibrationError("int8 is calibrated on images and there are none: give at least one")
    products = quantizable(graph)
    ranges = _ranges(graph, products, batches)
    padded = {product.source for product in products.values() if any(product.padding)}
    roundings = {}
    for index, product in products.items():
        low, high = ranges[product.source]
        scale, zero = _bytes(low, high, one_zero=product.source in padded)
        roundings[index] = Rounding(scale, zero, _step(product, scale), product.bias, 0.0)
    corrected = _measure(graph, products, roundings, batches)
    return {product.name: corrected[index] for index, product in products.items()}


def _ranges(
    graph: Graph, products: Mapping[int, Convolution], batches: list[Tensor]
) -> dict[int, tuple[Tensor, Tensor]]:
    """The least and the largest value of each channel of the maps that products read; zero is always between."""
    wanted = {product.source for product in products.values()}
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
        evaluate(graph, batch, visit)
    return ranges


def _bytes(low: Tensor, high: Tensor, *, one_zero: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each channel. one_zero: the same zero point for all, as a map with a border has it."""
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
    products: Mapping[int, Convolution],
    roundings: Mapping[int, Rounding],
    batches: list[Tensor],
) -> dict[int, Rounding]:
    """Each rounding with its error, and with the mean of that error taken out of the bias."""
    sums: dict[int, list[Tensor]] = {}

    def visit(index: int, read: list[Tensor], made: Tensor) -> None:
        if index not in products:
            return
        product, rounding = products[index], roundings[index]
        weight = rounding.product(product).weight * rounding.step[:, None, None, None]
        error = apply(replace(product, weight=weight), [rounding.whole(read[0])], graph.shapes[index]) - made
        pure = made - product.bias[None, :, None, None]
        parts = [error.sum((0, 2, 3)), error.square().sum((0, 2, 3)), pure.square().sum((0, 2, 3))]
        count = torch.tensor(error.numel() / error.shape[1])
        found = sums.get(index)
        sums[index] = (
            [*parts, count] if found is None else [a + b for a, b in zip(found, [*parts, count], strict=True)]
        )

    for batch in batches:
        evaluate(graph, batch, visit)
    result = {}
    for index, rounding in roundings.items():
        error, squares, pure, count = sums[index]
        mean = error / count
        left = (squares - count * mean.square()).clamp(min=0).sum()
        relative = float((left / pure.sum().clamp(min=1e-30)).sqrt())
        result[index] = replace(rounding, bias=rounding.bias - mean, error=relative)
    return result


def to_tensors(roundings: Mapping[str, Rounding]) -> dict[str, Tensor]:
    """As a file of tensors has them."""
    return {
        f"{name}.{part}": torch.as_tensor(value, dtype=torch.float32)
        for name, rounding in roundings.items()
        for part, value in vars(rounding).items()
    }


def from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Rounding]:
    """What `to_tensors` made. Raises RoundingError, naming the tensor, if one is missing or cannot be what it says."""
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
    """Raise RoundingError, naming the tensor, unless `roundings` are those that a calibration of `graph` gives."""
    products = quantizable(graph)
    named = {product.name: product for product in products.values()}
    for name in dict.fromkeys([*named, *roundings]):
        if name not in roundings:
            raise RoundingError(f"{name}.scale is missing")
        if name not in named:
            raise RoundingError(f"{name}.scale is of no product of this network that is done in bytes")
        _check_sizes(named[name], roundings[name])
    padded = {product.source for product in products.values() if any(product.padding)}
    first: dict[int, str] = {}
    for product in products.values():
        rounding, other = roundings[product.name], roundings[first.setdefault(product.source, product.name)]
        if product.source in padded and not (rounding.zero == rounding.zero[0]).all():
            raise RoundingError(f"{product.name}.zero must be one number, for its map is padded")
        for part in ("scale", "zero"):
            if not torch.equal(getattr(rounding, part), getattr(other, part)):
                one = first[product.source]
                raise RoundingError(f"{product.name}.{part} differs from {one}.{part}, of the same map")


def _check_sizes(product: Convolution, rounding: Rounding) -> None:
    inputs, outputs = product.groups * product.weight.shape[1], len(product.weight)
    for part, count in {"scale": inputs, "zero": inputs, "step": outputs, "bias": outputs}.items():
        found = len(getattr(rounding, part))
        if found != count:
            raise RoundingError(
                f"{product.name}.{part} has {found} numbers and its product has {count} channels"
            )
    # Both numbers were made of these weights; others would cut them off, or leave bits of the bytes without use.
    if not torch.allclose(rounding.step, _step(product, rounding.scale), rtol=0.01, atol=0):
        raise RoundingError(f"{product.name}.step does not fit the weights and {product.name}.scale")
