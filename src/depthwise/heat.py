"""Where a network looked: how much each place of its last map speaks for a class, laid over the picture.

Where the mean of the last map and a linear layer make the logits, the layer on each place of the map makes class
activation maps (Zhou 2016, arXiv 1512.04150, section 2), in one forward pass. Where other layers stand between, maps
are weighed by the mean of their gradient (Grad-CAM, Selvaraju 2017, arXiv 1610.02391, section 3).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from depthwise.data.channels import to_channels
from depthwise.data.transform import Preprocess
from depthwise.errors import DepthwiseError
from depthwise.layers import GlobalAverage
from depthwise.modes import in_mode

Method = Literal["cam", "grad-cam"]

COLOURS = ((0.0, (66, 10, 104)), (0.35, (147, 38, 103)), (0.6, (221, 81, 58)), (1.0, (252, 255, 164)))
"""From no heat to the most: strength and RGB, taken from matplotlib's inferno, whose lightness grows evenly."""

MOST_OPAQUE = 0.78
VEIL_PIXELS = 64


@runtime_checkable
class Mapped(Protocol):
    """A network whose stages make a last map, whose neck makes features of it, and whose classifier logits of these."""

    neck: nn.Module
    classifier: nn.Module

    def last_map(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, c, h, w]."""


class Linear(NamedTuple):
    """weight [K, C] and bias [K], by which the means of a last map's C channels are K logits."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class Heat:
    """How much each place of a network's last map speaks for one class of a picture.

    index: the class's number. map: float32 [h, w]. By "cam" it is in units of the logit, and its mean and the `bias`
    add up to the `logit`; by "grad-cam" it has no unit and nothing below 0, and no bias. size: the picture's height and
    width, upright. box: what of the picture the network saw, (top, left, height, width) in pixels; the map covers it.
    """

    index: int
    map: Tensor
    method: Method
    logit: float
    bias: float | None
    size: tuple[int, int]
    box: tuple[float, float, float, float]

    @property
    def strength(self) -> Tensor:
        """float32 [h, w], 0 to 1: what speaks for the class, as a share of the largest; what speaks against it is 0."""
        strength = self.map.nan_to_num(0, 0, 0).clamp(min=0)
        return strength / strength.max().clamp(min=1e-12)

    def coarse(self, most: int) -> Tensor:
        """The strength, as means of places where a side has more than `most`: float32 [h, w], 0 to 1."""
        height, width = (min(side, most) for side in self.map.shape)
        return nn.functional.adaptive_avg_pool2d(self.strength[None], (height, width))[0]

    def over_picture(self, values: Tensor | None = None) -> Tensor:
        """The map, or other `values` [h, w] on it, bilinear, as a value for each pixel of the picture: float32 [H, W].

        Pixels that the network did not see, beyond the crop, have 0.
        """
        values = self.map if values is None else values
        (height, width), (top, left, tall, wide) = self.size, self.box
        rows = _shares(height, top, tall, values.shape[0])
        columns = _shares(width, left, wide, values.shape[1])
        return rows @ values @ columns.T

    def overlay(self, picture: Tensor) -> Image.Image:
        """The heat over its `picture`, uint8 [C, H, W], as an image in RGB of that size."""
        colours = np.asarray(_coloured(self.over_picture(self.strength)))
        base = to_channels(picture, 3).permute(1, 2, 0).contiguous().numpy()
        alpha = colours[..., 3:].astype(np.uint16)
        mixed = (base * (255 - alpha) + colours[..., :3] * alpha + 127) // 255
        return Image.fromarray(mixed.astype(np.uint8))

    def veil(self) -> Image.Image:
        """The heat alone, in RGBA, about VEIL_PIXELS wide: to be stretched over the `box` of the picture."""
        strength = self.strength
        scale = max(1, round(VEIL_PIXELS / max(strength.shape)))
        rows, columns = (_shares(scale * side, 0, scale * side, side) for side in strength.shape)
        return _coloured(rows @ strength @ columns.T)


Look = Callable[[Tensor, int], Heat]
"""Of a picture, uint8 [C, H, W], and the number of a class: where the network looked for it."""


def linear_head(network: Mapped) -> Linear | None:
    """What makes the logits of the mean of the last map; None if that is more than a linear layer."""
    classifier = network.classifier
    if not isinstance(network.neck, GlobalAverage) or not isinstance(classifier, nn.Linear):
        return None
    bias = classifier.weight.new_zeros(len(classifier.weight)) if classifier.bias is None else classifier.bias
    return Linear(classifier.weight, bias)


def heats(
    indices: Sequence[int],
    last: Tensor,
    logits: Tensor,
    head: Linear | Callable[[Tensor], Tensor],
    size: tuple[int, int],
    preprocess: Preprocess,
) -> list[Heat]:
    """The Heat of each class in `indices` for a picture of `size` [height, width].

    last: the last map [C, h, w]; logits: [K]. head: what makes logits of a map, which is differentiated unless it is
    Linear.
    """
    chosen = list(indices)
    method: Method = "cam" if isinstance(head, Linear) else "grad-cam"
    if isinstance(head, Linear):
        with torch.no_grad():
            maps = torch.einsum("kc,chw->khw", head.weight[chosen], last)
        biases: list[float | None] = head.bias[chosen].tolist()
    else:
        maps, biases = _grad_cams(head, last, chosen), [None] * len(chosen)
    box = preprocess.seen(*size)
    return [
        Heat(index, one.float().cpu(), method, float(logits[index]), bias, size, box)
        for index, one, bias in zip(chosen, maps, biases, strict=True)
    ]


def head_of(network: Mapped) -> Linear | Callable[[Tensor], Tensor]:
    """What makes logits of the network's last map, for `heats`; the network is in evaluation."""
    return linear_head(network) or (lambda last: network.classifier(network.neck(last)))


def looking(network: object, preprocess: Preprocess) -> Look | None:
    """What looks at one picture at a time by `network`, as if it were in evaluation; None if it cannot be looked into.

    Raises DepthwiseError, when it is called, for a class that has no logit.
    """
    if not isinstance(network, Mapped) or not isinstance(network, nn.Module):
        return None
    parameter = next(network.parameters())

    def look(picture: Tensor, index: int) -> Heat:
        x = preprocess(picture)[None].to(parameter.device)
        with in_mode(network, training=False):
            with torch.no_grad():
                last = network.last_map(x)
                logits = network.classifier(network.neck(last))[0]
            check_classes([index], len(logits))
            size = picture.shape[-2], picture.shape[-1]
            return heats([index], last[0], logits, head_of(network), size, preprocess)[0]

    return look


def check_classes(indices: Sequence[int], num_logits: int) -> None:
    """Raise DepthwiseError unless each class has a logit of its own."""
    if any(not 0 <= index < num_logits for index in indices):
        raise DepthwiseError(
            f"the network answers with {num_logits} numbers and none is that of class {max(indices)}: heat is of a "
            f"class that has a logit of its own"
        )


def _grad_cams(head: Callable[[Tensor], Tensor], last: Tensor, indices: Sequence[int]) -> Tensor:
    """float32 [n, h, w]; the head, and no more, is gone through backwards."""
    with torch.inference_mode(False), torch.enable_grad():
        last = last.detach().clone().requires_grad_()
        logits = head(last[None])[0]
        maps = []
        for index in indices:
            (gradient,) = torch.autograd.grad(logits[index], last, retain_graph=True)
            maps.append(torch.einsum("c,chw->hw", gradient.mean((1, 2)), last).clamp(min=0).detach())
    return torch.stack(maps)


def _shares(pixels: int, first: float, extent: float, places: int) -> Tensor:
    """float32 [pixels, places]: what each place counts in each pixel, bilinear, if they cover `extent` from `first` on.

    Beyond the middles of the outermost places nothing changes any more; pixels outside have no share.
    """
    centres = (torch.arange(pixels) + 0.5 - first) / extent
    at = (centres * places - 0.5).clamp(0, places - 1)
    shares = (1 - (at[:, None] - torch.arange(places)).abs()).clamp(min=0)
    return shares * ((centres >= 0) & (centres <= 1))[:, None]


def palette() -> np.ndarray:
    """uint8 [256, 4], RGBA from no heat to the most: the stronger, the lighter and the less transparent."""
    steps = np.linspace(0, 1, 256)
    at, colours = [at for at, _ in COLOURS], np.array([colour for _, colour in COLOURS])
    channels = [np.interp(steps, at, colours[:, channel]) for channel in range(3)]
    return np.stack([*channels, 255 * MOST_OPAQUE * steps**0.8], 1).round().astype(np.uint8)


def _coloured(strength: Tensor) -> Image.Image:
    """float32 [H, W], 0 to 1, in RGBA."""
    return Image.fromarray(palette()[strength.mul(255).round().clamp(0, 255).byte().numpy()])
