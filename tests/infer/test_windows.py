"""Poolings and means of any kind, on every path and in every precision; convolutions with two strides."""

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tests.infer.planned import Calls, assert_planned, conv
from tests.infer.test_compiled import randomise
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer import compile
from depthwise.infer.graph import AdaptivePooling, Pooling
from depthwise.infer.lower import lower
from depthwise.infer.reference import apply
from depthwise.infer.windows import spans
from depthwise.models import create_model

POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "rounded up, padding counts": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "rounded up, padding does not": lambda x: F.avg_pool2d(x, 3, 2, 1, True, False),
    "a divisor": lambda x: F.avg_pool2d(x, 3, 1, 1, divisor_override=5),
    "a negative divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=-3),
    "strides": lambda x: F.avg_pool2d(x, (3, 2), (1, 2), (1, 0)),
    "padded, padding counts": lambda x: F.avg_pool2d(F.pad(x, (1, 2, 0, 1)), 2, ceil_mode=True),
    "padded, padding does not": lambda x: F.avg_pool2d(F.pad(x, (1, 2, 0, 1)), 3, 2, 1, True, False),
    "largest, dilated": lambda x: F.max_pool2d(x, 3, 2, 1, dilation=2),
    "largest, dilated twice": lambda x: F.max_pool2d(x, (3, 2), (1, 2), (1, 0), (2, 3), ceil_mode=True),
    "largest, rounded up": lambda x: F.max_pool2d(x, (2, 3), (2, 3), ceil_mode=True),
    "largest, padded": lambda x: F.max_pool2d(F.pad(x, (0, 1, 1, 1), value=-torch.inf), 2, 1),
    "largest, with places": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "adaptive, fewer": lambda x: F.adaptive_avg_pool2d(x, (5, 4)),
    "adaptive, more": lambda x: F.adaptive_avg_pool2d(x, (20, 23)),
    "adaptive, one side": lambda x: F.adaptive_avg_pool2d(x, (None, 4)),
    "adaptive, largest": lambda x: F.adaptive_max_pool2d(x, (3, 20)),
    "adaptive, largest of all": lambda x: F.adaptive_max_pool2d(x, 1),
    "largest of a map": lambda x: x.amax((2, 3), keepdim=True),
    "largest of a map, without sides": lambda x: x.amax((-1, -2)),
    "largest of rows": lambda x: x.amax(3),
    "mean of channels": lambda x: x.mean(1, keepdim=True),
    "mean of rows": lambda x: x.mean(3, keepdim=True),
    "mean of columns": lambda x: x.mean(2),
    "mean of columns and channels": lambda x: x.mean((1, 2)),
    "mean of all": lambda x: x.mean((1, 2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", POOLINGS)
def test_poolings_are_pytorchs(name: str) -> None:
    torch.manual_seed(0)
    assert_planned(
        Calls(lambda x, a: POOLINGS[name](a(x)), conv(3, 20)), torch.randn(3, 3, 11, 13), threads=2
    )


def test_poolings_before_int8_products() -> None:
    torch.manual_seed(0)
    network = Calls(
        lambda x, a, b, c, last: last(
            F.adaptive_avg_pool2d(c(F.max_pool2d(F.relu(b(F.avg_pool2d(a(x), 3, 2, 1, True))), 2, 1, 0, 2)), 4)
        ),
        conv(3, 20), conv(20, 24), conv(24, 18, 1), conv(18, 5),
    )  # fmt: skip
    assert_planned(network, torch.randn(3, 3, 12, 15), products=2)


def test_random_poolings(fuzz_seed: int) -> None:
    draw = random.Random(fuzz_seed)
    torch.manual_seed(fuzz_seed)

    def two(least: int, most: int) -> tuple[int, int]:
        return draw.randint(least, most), draw.randint(least, most)

    for _ in range(25):
        kernel, x = two(1, 4), torch.randn(2, 17, *two(7, 12))
        padding = draw.randint(0, kernel[0] // 2), draw.randint(0, kernel[1] // 2)
        stride, ceil = two(1, 4), draw.random() < 0.5
        if draw.random() < 0.5:
            pool: nn.Module = nn.MaxPool2d(kernel, stride, padding, two(1, 2), ceil_mode=ceil)
        else:
            counted, divisor = draw.random() < 0.5, draw.choice((None, None, 7))
            pool = nn.AvgPool2d(kernel, stride, padding, ceil, counted, divisor)
        graph = lower(pool, x[:1])
        expected = pool(x)
        assert graph.shapes[-1] == tuple(expected.shape[1:])
        torch.testing.assert_close(apply(graph.operations[-1], [x], graph.shapes[-1]), expected)
        assert_planned(pool, x)


def test_windows_are_those_of_pytorch() -> None:
    def of(pool: Pooling | AdaptivePooling, inside: int, outside: int) -> list[list[int]]:
        return spans(pool, 0, inside, outside).tolist()

    plain = Pooling(0, (3, 3), (2, 2), (1, 1, 1, 1), average=True)
    assert of(plain, 6, 4) == [[0, 2, 2], [1, 4, 3], [3, 6, 3], [5, 6, 1]]
    counted = Pooling(0, (3, 3), (2, 2), (1, 1, 1, 1), average=True, counted=(1, 1, 1, 1))
    assert of(counted, 6, 4) == [[0, 2, 3], [1, 4, 3], [3, 6, 3], [5, 6, 2]]
    dilated = Pooling(0, (3, 3), (1, 1), (1, 1, 1, 1), dilation=(2, 2))
    assert [span[:2] for span in of(dilated, 6, 4)] == [[1, 4], [0, 5], [1, 6], [2, 6]]
    assert of(AdaptivePooling(0, average=True), 5, 7) == [
        [0, 1, 1], [0, 2, 2], [1, 3, 2], [2, 3, 1], [2, 4, 2], [3, 5, 2], [4, 5, 1],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(20, 24, 3, (2, 1), 1),
        nn.Conv2d(20, 24, (1, 4), (1, 3), (0, 2)),
        nn.Conv2d(20, 24, 1, (1, 2)),
        nn.Conv2d(20, 24, 3, (3, 2), 1, groups=4),
        nn.Conv2d(20, 20, 3, (1, 2), 1, groups=20),
        nn.Conv2d(20, 20, 5, (2, 1), 2, groups=20),
        nn.Conv2d(20, 20, 3, (2, 3), 1, groups=20),
    ],
)
def test_convolutions_with_two_strides(layer: nn.Conv2d) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(conv(3, 20), layer, nn.ReLU(), conv(layer.out_channels, 18, 1), conv(18, 5))
    assert_planned(network, torch.randn(3, 3, 11, 13))


@pytest.mark.parametrize("size", [161, 240])
def test_vgg_off_its_size_is_native(size: int) -> None:
    """Maps of 5x5 and 7x7 at 224: here the last one has another number of rows than the classifier reads."""
    torch.manual_seed(0)
    network = randomise(create_model("vgg16_bn", num_classes=7, width=0.125))
    x = torch.randn(2, 3, size, size)
    assert_planned(network, x)
    assert compile(network, x[:1]).engine == "native"


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda x: x.mean((0, 2, 3), keepdim=True) + x, "a mean over the batch"),
        (lambda x: x.amax(1), "a maximum other than"),
    ],
)
def test_what_has_no_form_is_refused_in_a_sentence(call: Callable[[Tensor], Tensor], what: str) -> None:
    with pytest.raises(DepthwiseError, match=f"^{what}.* has no compiled form$"):
        compile(Calls(lambda x, a: call(a(x)), conv(3, 8)), torch.zeros(1, 3, 8, 8), engine="native")
