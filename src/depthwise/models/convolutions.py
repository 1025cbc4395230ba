"""The convolutions that a network can be built of, by name: from regular to depthwise separable, and the steps between.

Chollet 2017, section 1: an Inception module lies between a regular convolution and a separable one, on a
spectrum whose parameter is the number of channel segments that the spatial convolution keeps apart. From M to N
channels with a KxK kernel:

| name            | is                                                                             | weights           |
|-----------------|--------------------------------------------------------------------------------|-------------------|
| regular         | one KxK convolution                                                            | K*K*M*N           |
| segments-S      | KxK within each of S segments of the input, then 1x1                           | K*K*M*M/S + M*N   |
| segments-of-G   | the same within segments of G channels                                         | K*K*M*G + M*N     |
| separable       | the same with a segment for each channel                                       | K*K*M + M*N       |
| towers-S        | 1x1, then KxK within each of S segments: Inception's towers (Figures 2 and 3)  | M*N + K*K*N*N/S   |
| pointwise-first | the same with a segment for each channel: "extreme" Inception (Figure 4)       | M*N + K*K*N       |

All but regular take -relu or -elu behind the name: that activation between the two (section 4.7), as in
separable-relu or towers-4-elu; without, nothing stands there, as in the published Xception.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Iterable
from functools import partial

from torch import nn

from depthwise.errors import DepthwiseError, unknown_name
from depthwise.layers import Activation, Conv, PointwiseConv2d, SeparableConv2d, conv2d

ACTIVATIONS: dict[str, Activation] = {"": nn.Identity, "-relu": nn.ReLU, "-elu": nn.ELU}

# Those of the table for 4 segments and segments of 8, from which an unknown name gets its nearest.
EXAMPLES = (
    "regular",
    *(
        kind + activation
        for kind in ("segments-4", "segments-of-8", "separable", "towers-4", "pointwise-first")
        for activation in ACTIVATIONS
    ),
)


def regular(in_channels: int, out_channels: int, kernel_size: int) -> nn.Module:
    """One KxK convolution: [N, M, H, W] -> [N, K, H, W]."""
    return conv2d(in_channels, out_channels, kernel_size, padding="same")


def spatial_first(
    in_channels: int, out_channels: int, kernel_size: int, *, segments: int, between: Activation
) -> nn.Module:
    """KxK within each of the input's `segments`, then 1x1: [N, M, H, W] -> [N, K, H, W]."""
    return nn.Sequential(
        OrderedDict(
            spatial=conv2d(in_channels, in_channels, kernel_size, padding="same", groups=segments),
            between=between(),
            pointwise=PointwiseConv2d(in_channels, out_channels),
        )
    )


def pointwise_first(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    segments: int | None = None,
    between: Activation = nn.Identity,
) -> nn.Module:
    """1x1, then KxK within each of the `segments` (one a channel unless given): [N, M, H, W] -> [N, K, H, W]."""
    groups = out_channels if segments is None else segments
    return nn.Sequential(
        OrderedDict(
            pointwise=PointwiseConv2d(in_channels, out_channels),
            between=between(),
            spatial=conv2d(out_channels, out_channels, kernel_size, padding="same", groups=groups),
        )
    )


def convolution(conv: Conv | str, in_channels: Iterable[int], out_channels: Iterable[int]) -> Conv:
    """What makes the convolutions called `conv`, for layers with these numbers of channels; no name is itself.

    Raises UsageError for a name that does not exist, DepthwiseError for segments that do not divide the channels.
    """
    if callable(conv):
        return conv
    match = re.fullmatch(r"([a-z-]+?)(-\d+)?(-relu|-elu)?", str(conv))
    kind, number, activation = match.groups("") if match else ("", "", "")
    between = ACTIVATIONS[activation]
    match kind, bool(number):
        case "regular", False if not activation:
            return regular
        case "separable", False:
            return partial(SeparableConv2d, between=between)
        case "pointwise-first", False:
            return partial(pointwise_first, between=between)
        case "segments", True:
            segments = _divisor(str(conv), int(number[1:]), in_channels)
            return partial(spatial_first, segments=segments, between=between)
        case "segments-of", True:
            each = _divisor(str(conv), int(number[1:]), in_channels)
            return lambda m, n, k: spatial_first(m, n, k, segments=m // each, between=between)
        case "towers", True:
            segments = _divisor(str(conv), int(number[1:]), out_channels)
            return partial(pointwise_first, segments=segments, between=between)
    raise unknown_name("convolution", str(conv), EXAMPLES)


def _divisor(name: str, number: int, channels: Iterable[int]) -> int:
    widths = sorted(set(channels))
    shared = math.gcd(*widths)
    if number < 1 or shared % number:
        divisors = [str(d) for d in range(1, shared + 1) if shared % d == 0]
        raise DepthwiseError(
            f"conv={name!r} must cut {', '.join(map(str, widths))} channels into equal segments: "
            f"use one of the divisors they share, {', '.join(divisors)}, or other widths"
        )
    return number
