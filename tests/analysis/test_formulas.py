"""Every closed formula against the layer itself, counted; and the figures that the papers quote."""

import pytest

from depthwise.analysis.cost import cost
from depthwise.analysis.formulas import (
    LAYERS,
    bottleneck,
    factorised,
    multipliers,
    regular,
    segments,
    separable,
    separable_ratio,
    stacked,
)
from depthwise.errors import DepthwiseError, UsageError
from depthwise.layers import SeparableConv2d, scale_width


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *((name, {}) for name in LAYERS),
        ("regular", {"m": 3, "n": 5, "k": 7}),
        ("separable", {"m": 24, "n": 7, "k": 5}),
        *(("segments", {"m": 24, "n": 10, "s": s}) for s in (1, 2, 3, 8, 24)),
        ("bottleneck", {"m": 20, "n": 40, "b": 6, "k": 5}),
        ("factorised", {"m": 6, "n": 9, "k": 3}),
        ("stacked", {"m": 5, "n": 8, "k": 3}),
        ("stacked", {"m": 5, "n": 8, "k": 9}),
    ],
)
def test_the_formula_is_the_count(name: str, given: dict[str, int]) -> None:
    layer = LAYERS[name]
    arguments = layer.arguments(given)
    bill = cost(layer.build(*arguments.values()), (arguments["m"], 6, 6))
    assert bill.parameters == layer.formula(**arguments)
    assert bill.macs == layer.formula(**arguments) * 36


@pytest.mark.parametrize(("m", "n", "k"), [(16, 32, 3), (728, 728, 3), (5, 64, 7)])
def test_the_ratio_is_that_of_the_two_formulas(m: int, n: int, k: int) -> None:
    assert separable_ratio(n, k) == pytest.approx(separable(m, n, k) / regular(m, n, k))


@pytest.mark.parametrize("width", [1, 0.75, 0.5, 0.25])
@pytest.mark.parametrize("resolution", [1, 192 / 224, 160 / 224, 128 / 224])
def test_the_multipliers_are_a_narrower_layer_on_a_smaller_map(width: float, resolution: float) -> None:
    m, n, side = scale_width(64, width), scale_width(128, width), round(112 * resolution)
    bill = cost(SeparableConv2d(m, n), (m, side, side))
    assert bill.macs == multipliers(64, 128, 3, 112, width, resolution)
    # About a^2 r^2: a little above, because the depthwise part falls by a alone.
    fraction = bill.macs / multipliers(64, 128, 3, 112)
    assert width**2 * resolution**2 <= fraction <= width**2 * resolution**2 * 1.25


def test_the_figures_that_are_quoted() -> None:
    assert (regular(16, 32, 3), separable(16, 32, 3)) == (4608, 656)
    # A 5x5 against two 3x3, and against one.
    assert regular(64, 64, 5) / stacked(64, 64, 5) == 25 / 18
    assert regular(64, 64, 5) / regular(64, 64, 3) == 25 / 9
    # 33% less for a 3x3, and 3.5 times less for a 7x7 (Szegedy 2016, section 3.2).
    assert factorised(64, 64, 3) / regular(64, 64, 3) == 2 / 3
    assert regular(192, 192, 7) / factorised(192, 192, 7) == 3.5
    # Called "close to 10 times less"; it is 8.47.
    assert regular(256, 256, 3) / bottleneck(256, 256, 3, 64) == pytest.approx(8.47, abs=0.005)


def test_the_spectrum_of_segments_ends_in_both_known_layers() -> None:
    assert segments(728, 728, 3, 1) == regular(728, 728, 3) + 728 * 728
    assert segments(728, 728, 3, 728) == separable(728, 728, 3)
    spectrum = [segments(728, 728, 3, s) for s in (1, 2, 4, 7, 8, 13, 91, 364, 728)]
    assert spectrum == sorted(spectrum, reverse=True)


@pytest.mark.parametrize(
    ("name", "given", "kind", "sentence"),
    [
        ("separable", {"s": 4}, UsageError, "unknown argument of the layer 's': use one of"),
        ("separable", {"m": 0}, DepthwiseError, "m=0 must be at least 1 and at most 65,536"),
        ("separable", {"k": 3.0}, DepthwiseError, "k=3.0 must be a whole number"),
        ("segments", {"m": 10, "s": 4}, DepthwiseError, "s=4 segments must divide the m=10 channels evenly"),
        ("stacked", {"k": 4}, DepthwiseError, "k=4 must be odd and at least 3"),
        ("stacked", {"k": 1}, DepthwiseError, "k=1 must be odd and at least 3"),
    ],
)
def test_what_makes_no_layer_is_refused(
    name: str, given: dict[str, object], kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        LAYERS[name].arguments(given)
