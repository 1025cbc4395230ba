"""Who does a convolution: decided by results and times, which are made up here, and kept as plain values."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depthwise.analysis.cost import without_memory
from depthwise.errors import UsageError
from depthwise.gpu.calls import Shape, shape_of, shapes, watching
from depthwise.gpu.choice import FRAMEWORK, Choice, Choices, Step, decided
from depthwise.layers import conv2d
from depthwise.models import create_model

SHAPE = Shape(8, 6, 6, 3, 1, 1, "float32")


def gives(*values: float) -> Step:
    """A step that gives these numbers, one each time."""
    numbers = cycle(values)
    return lambda: [torch.tensor([1.0, next(numbers)])]


def fails() -> Sequence[Tensor]:
    raise RuntimeError("out of\nregisters")


def decide(triton: Step, theirs: Sequence[float], ours: Sequence[float]) -> Choice:
    """By a clock on which steps take `theirs` and `ours` seconds, one after another."""
    framework = gives(1.0)
    clocks: dict[Step, Iterator[float]] = {framework: cycle(theirs), triton: cycle(ours)}
    return decided(SHAPE, framework, triton, lambda step: next(clocks[step]), rounds=10)


@pytest.mark.parametrize(
    ("triton", "theirs", "ours", "chosen", "said"),
    [
        (gives(1.0), [3.0], [2.0], True, "1.5 times as fast"),
        (gives(1.001), [3.0], [2.0], True, "1.5 times as fast"),
        (gives(1.0), [2.0], [3.0], False, "0.667 times as fast"),
        # Faster half of the time: the stopwatch alone would have it.
        (gives(1.0), [3.0, 2.0], [2.0, 2.5], False, "times as fast"),
        (gives(1.1), [3.0], [2.0], False, "wrong: it differs by 0.1 of"),
        (gives(float("nan")), [3.0], [2.0], False, "other bits"),
        (gives(1.0, 1.001), [3.0], [2.0], False, "other bits the second time"),
        (fails, [3.0], [2.0], False, "did not run (RuntimeError: out of registers)"),
    ],
)
def test_the_kernel_must_be_right_and_faster(
    triton: Step, theirs: Sequence[float], ours: Sequence[float], chosen: bool, said: str
) -> None:
    choice = decide(triton, theirs, ours)
    assert choice.triton is chosen
    assert said in choice.reason


def test_choices_are_plain_values() -> None:
    choices = Choices(
        32,
        (
            Choice(SHAPE, True, "faster", 2.0, 1.0),
            Choice(Shape(8, 3, 3, 5, 2, 2, "bfloat16"), False, "wrong"),
        ),
    )
    assert Choices.from_json(choices.to_json()) == choices
    assert choices
    assert [*choices.versions] == ["triton"]
    assert Choices.from_json(None) is FRAMEWORK
    assert FRAMEWORK.to_json() is None
    assert not FRAMEWORK
    assert not FRAMEWORK.versions


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 0},
        {"choices": 3},
        {"choices": [{}]},
        {"choices": [{"shape": {}, "triton": True, "reason": "x"}]},
    ],
)
def test_choices_that_are_none_are_refused(change: dict[str, Any]) -> None:
    values = Choices(32, (Choice(SHAPE, True, "faster", 2.0, 1.0),)).to_json()
    assert values
    with pytest.raises(UsageError):
        Choices.from_json(values | change)


def test_a_network_says_which_convolutions_it_has() -> None:
    """Of MobileNet V1 those of table 1 (Howard 2017), each once; strided ones see a map that is padded already."""
    mobilenet = without_memory(create_model("mobilenet_v1", num_classes=10))
    found = shapes(mobilenet, (3, 224, 224), "bfloat16")
    plain = [(32, 112), (128, 56), (256, 28), (512, 14), (1024, 7)]
    strided = [(64, 113), (128, 57), (256, 29), (512, 15)]
    expected = {Shape(c, s, s, 3, 1, 1, "bfloat16") for c, s in plain}
    expected |= {Shape(c, s, s, 3, 2, 0, "bfloat16") for c, s in strided}
    assert {*found} == expected
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("conv", "size", "dtype"),
    [
        (nn.Conv2d(8, 8, 3, 1, 1), 6, torch.float32),
        (nn.Conv2d(8, 16, 3, 1, 1, groups=8, bias=False), 6, torch.float32),
        (nn.Conv2d(8, 8, 3, 1, 1, groups=8), 6, torch.float32),
        (nn.Conv2d(8, 8, 7, 1, 3, groups=8, bias=False), 9, torch.float32),
        (nn.Conv2d(8, 8, 3, 1, 1, dilation=2, groups=8, bias=False), 6, torch.float32),
        (nn.Conv2d(8, 8, (3, 5), 1, 1, groups=8, bias=False), 6, torch.float32),
        (nn.Conv2d(8, 8, 3, (1, 2), 1, groups=8, bias=False), 6, torch.float32),
        (nn.Conv2d(8, 8, 3, 1, (0, 1), groups=8, bias=False), 6, torch.float32),
        (nn.Conv2d(8, 8, 3, 3, 1, groups=8, bias=False), 6, torch.float32),
        (nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), 6, torch.float64),
    ],
)
def test_what_has_no_kernel_is_the_frameworks(conv: nn.Conv2d, size: int, dtype: torch.dtype) -> None:
    def refuse(x: Tensor, weight: Tensor, shape: Shape) -> Tensor:
        raise AssertionError(shape)

    x = torch.randn(2, 8, size, size, dtype=dtype)
    conv = conv.to(dtype)
    with watching(refuse):
        assert torch.equal(
            conv(x),
            F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups),
        )


def test_autocast_and_padding_are_understood() -> None:
    found: list[Shape] = []
    x = torch.randn(2, 8, 6, 6)
    with watching(lambda x, weight, shape: found.append(shape)), torch.autocast("cpu", torch.bfloat16):
        conv2d(8, 8, 5, 1, "same", groups=8)(x)
        conv2d(8, 8, 3, 2, "same", groups=8)(x)
        conv2d(8, 8, 3, 2, "symmetric", groups=8)(x)
    assert found == [
        Shape(8, 6, 6, 5, 1, 2, "bfloat16"),
        Shape(8, 7, 7, 3, 2, 0, "bfloat16"),
        Shape(8, 6, 6, 3, 2, 1, "bfloat16"),
    ]
    assert shape_of(x, torch.randn(8, 1, 3, 3), padding="valid", groups=8) == Shape(
        8, 6, 6, 3, 1, 0, "float32"
    )
