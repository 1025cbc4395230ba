"""What a convolutional layer costs by closed formula, and the layer itself, to count whether the formula holds.

M channels in, N out, a kernel of K x K, maps of F x F in and out: stride 1, SAME padding, no bias, and nothing
but convolutions. Each formula gives the parameters; every parameter is used once a pixel of the map, so the
multiply-adds are F * F times as many.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from torch import nn

from depthwise.bounds import Bounds, fit
from depthwise.errors import DepthwiseError, unknown_name
from depthwise.layers import PointwiseConv2d, SeparableConv2d, conv2d


def regular(m: int, n: int, k: int) -> int:
    """Every output channel sees every input channel: K * K * M * N."""
    return k * k * m * n


def separable(m: int, n: int, k: int) -> int:
    """One filter a channel, then a 1x1 (Chollet 2017): K * K * M + M * N."""
    return k * k * m + m * n


def separable_ratio(n: int, k: int) -> float:
    """`separable` over `regular`, whatever M and F: 1 / N + 1 / K^2 (Howard 2017, section 3.1)."""
    return 1 / n + 1 / k**2


def segments(m: int, n: int, k: int, s: int) -> int:
    """The spatial part in `s` groups of channels, then a 1x1: K * K * M * M / s + M * N.

    The spectrum of Chollet 2017, section 1.2: s = 1 is a regular convolution before a 1x1, s = M is `separable`.
    """
    if m % s:
        raise DepthwiseError(f"s={s} segments must divide the m={m} channels evenly")
    return k * k * m * m // s + m * n


def bottleneck(m: int, n: int, k: int, b: int) -> int:
    """A 1x1 to B channels, the K x K on these, a 1x1 to N (He 2016): M * B + K * K * B * B + B * N."""
    return m * b + k * k * b * b + b * n


def factorised(m: int, n: int, k: int) -> int:
    """1 x K, then K x 1 (Szegedy 2016, section 3.2): K * M * N + K * N * N. From N to N channels, K / 2 times less."""
    return k * m * n + k * n * n


def stacked(m: int, n: int, k: int) -> int:
    """As many 3x3 as see K x K pixels, (K - 1) / 2 of them: 9 * M * N for the first, 9 * N * N for the others.

    From N to N channels a 5x5 has 25 / 18 = 1.39 times the parameters of the two 3x3 that replace it. The 2.78
    that Szegedy 2016, section 3.1, quotes is 25 / 9: a 5x5 against one 3x3.
    """
    if k < 3 or k % 2 == 0:
        raise DepthwiseError(f"k={k} must be odd and at least 3, to be seen through 3x3 windows")
    return 9 * m * n + ((k - 1) // 2 - 1) * 9 * n * n


def multipliers(m: int, n: int, k: int, f: int, width: float = 1.0, resolution: float = 1.0) -> float:
    """Multiply-adds of `separable` with MobileNet's multipliers (Howard 2017, sections 3.3 and 3.4).

    (K * K * aM + aM * aN) * rF * rF: with a, `width`, they fall by nearly a^2, and with r, `resolution`, by r^2.
    """
    return (k * k * width * m + width * m * width * n) * (resolution * f) ** 2


_Channels = Annotated[int, Bounds(1, 65_536)]
LIMITS = {**dict.fromkeys("mnbs", _Channels), "k": Annotated[int, Bounds(1, 255)]}


@dataclass(frozen=True)
class Layer:
    """A kind of layer: `formula` and `build` take the arguments that `example` has usual values for, in this order."""

    written: str
    formula: Callable[..., int]
    build: Callable[..., nn.Module]
    example: Mapping[str, int]

    def arguments(self, given: Mapping[str, object]) -> dict[str, int]:
        """The example's arguments with those that are `given` in their place.

        Raises UsageError for one that does not exist or is out of range, DepthwiseError for some that make no layer.
        """
        for name, value in given.items():
            if name not in self.example:
                raise unknown_name("argument of the layer", name, self.example)
            fit(value, LIMITS[name], name, self.example[name])
        arguments: dict[str, Any] = {**self.example, **given}
        self.formula(**arguments)
        return arguments


_same = partial(conv2d, padding="same")


def _segments(m: int, n: int, k: int, s: int) -> nn.Module:
    return nn.Sequential(_same(m, m, k, groups=s), PointwiseConv2d(m, n))


def _bottleneck(m: int, n: int, k: int, b: int) -> nn.Module:
    return nn.Sequential(PointwiseConv2d(m, b), _same(b, b, k), PointwiseConv2d(b, n))


def _factorised(m: int, n: int, k: int) -> nn.Module:
    return nn.Sequential(_same(m, n, (1, k)), _same(n, n, (k, 1)))


def _stacked(m: int, n: int, k: int) -> nn.Module:
    return nn.Sequential(_same(m, n, 3), *(_same(n, n, 3) for _ in range((k - 1) // 2 - 1)))


LAYERS: dict[str, Layer] = {
    "regular": Layer("K²·M·N", regular, _same, {"m": 16, "n": 32, "k": 3}),
    "separable": Layer("K²·M + M·N", separable, SeparableConv2d, {"m": 16, "n": 32, "k": 3}),
    "segments": Layer("K²·M²/S + M·N", segments, _segments, {"m": 728, "n": 728, "k": 3, "s": 4}),
    "bottleneck": Layer("M·B + K²·B² + B·N", bottleneck, _bottleneck, {"m": 256, "n": 256, "k": 3, "b": 64}),
    "factorised": Layer("K·M·N + K·N²", factorised, _factorised, {"m": 192, "n": 192, "k": 7}),
    "stacked": Layer("9·M·N + 9·N²·((K-1)/2 - 1)", stacked, _stacked, {"m": 64, "n": 64, "k": 5}),
}
