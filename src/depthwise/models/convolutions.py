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

What other papers make of a convolution, for N a multiple of 4:

| name       | is                                                                    | weights                  |
|------------|-----------------------------------------------------------------------|--------------------------|
| inception  | Figure 1, to N/4 each: 1x1; 1x1, KxK; 1x1, KxK, KxK; 3x3 average, 1x1 | M*N + 3*K*K*N*N/16       |
| 5x5        | one 5x5 convolution                                                   | 25*M*N                   |
| 3x3-3x3    | two 3x3 instead, which see as much (Szegedy 2016, section 3.1)        | 9*M*N + 9*N*N            |
| 1x3-3x1    | a row, then a column, instead of one 3x3 (Szegedy 2016, section 3.2)  | 3*M*N + 3*N*N            |
| bottleneck | 1x1 to N/4, 3x3, 1x1 to N (He 2016, Figure 5)                         | M*N/4 + 9*N*N/16 + N*N/4 |

Those of several convolutions take -relu and -elu as well, between all of them.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from torch import nn

from depthwise.errors import DepthwiseError, unknown_name
from depthwise.layers import Activation, Branches, Conv, PointwiseConv2d, SeparableConv2d, conv2d

ACTIVATIONS: dict[str, Activation] = {"": nn.Identity, "-relu": nn.ReLU, "-elu": nn.ELU}

# Those of the table for 4 segments and segments of 8, from which an unknown name gets its nearest.
EXAMPLES = (
    "regular",
    "inception",
    "5x5",
    "3x3-3x3",
    "1x3-3x1",
    "bottleneck",
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


def inception(
    in_channels: int, out_channels: int, kernel_size: int, *, between: Activation = nn.Identity
) -> nn.Module:
    """A canonical Inception module, four branches side by side: [N, M, H, W] -> [N, K, H, W]."""
    quarter = out_channels // 4
    first = out_channels - 3 * quarter

    def to(channels: int) -> nn.Module:
        return PointwiseConv2d(in_channels, channels)

    def square() -> nn.Module:
        return conv2d(quarter, quarter, kernel_size, padding="same")

    return Branches(
        to(first),
        nn.Sequential(to(quarter), between(), square()),
        nn.Sequential(to(quarter), between(), square(), between(), square()),
        nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), to(quarter)),
    )


def chain(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    kernels: Sequence[int | tuple[int, int]],
    inner: int = 1,
    between: Activation = nn.Identity,
) -> nn.Module:
    """Convolutions of these `kernels`, all but the last 1 / inner as wide: [N, M, H, W] -> [N, K, H, W]."""
    modules: list[nn.Module] = []
    channels = in_channels
    for i, kernel in enumerate(kernels, 1):
        width = out_channels if i == len(kernels) else max(1, out_channels // inner)
        if i > 1:
            modules.append(between())
        modules.append(
            PointwiseConv2d(channels, width)
            if kernel == 1
            else conv2d(channels, width, kernel, padding="same")
        )
        channels = width
    return nn.Sequential(*modules)


CHAINS: dict[str, Callable[..., nn.Module]] = {
    "inception": inception,
    "5x5": partial(chain, kernels=(5,)),
    "3x3-3x3": partial(chain, kernels=(3, 3)),
    "1x3-3x1": partial(chain, kernels=((1, 3), (3, 1))),
    "bottleneck": partial(chain, kernels=(1, 3, 1), inner=4),
}


def convolution(conv: Conv | str, in_channels: Iterable[int], out_channels: Iterable[int]) -> Conv:
    """What makes the convolutions called `conv`, for layers with these numbers of channels; no name is itself.

    Raises UsageError for a name that does not exist, DepthwiseError for segments that do not divide the channels.
    """
    if callable(conv):
        return conv
    match = re.fullmatch(rf"({'|'.join(CHAINS)}|[a-z-]+?)(-\d+)?(-relu|-elu)?", str(conv))
    kind, number, activation = match.groups("") if match else ("", "", "")
    between = ACTIVATIONS[activation]
    match kind, bool(number):
        case "regular", False if not activation:
            return regular
        case name, False if name in CHAINS and not (name == "5x5" and activation):
            return partial(CHAINS[name], between=between)
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
