"""int8 convolutions: exact for integers, near the network otherwise, on every instruction set."""

import pickle
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torchvision
from tests.infer.test_compiled import Gated, Maxout, halve, randomise
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer.graph import Convolution, Graph, sources
from depthwise.infer.lower import lower
from depthwise.infer.plan import Plan
from depthwise.infer.quantize import (
    Rounding,
    RoundingError,
    calibrate,
    check_roundings,
    from_tensors,
    to_tensors,
)
from depthwise.infer.reference import apply, interpret
from depthwise.layers import ConvNorm, PointwiseConv2d, Residual, SeparableConv2d, conv2d
from depthwise.models import create_model


class Tail(nn.Module):
    """`first`, then a copy of every channel by a last product, which is never in int8."""

    def __init__(self, first: nn.Module, channels: int) -> None:
        super().__init__()
        # Of one channel a kernel of 1 would be a mere factor of the image.
        kernel = 3 if channels == 1 else 1
        self.before, self.first = conv2d(channels, channels, kernel, 1, kernel // 2, groups=1), first
        nn.init.dirac_(self.before.weight)
        with torch.no_grad():
            probe = first(torch.zeros(1, channels, 16, 16)).shape[1]
        self.last = PointwiseConv2d(probe, probe)
        nn.init.dirac_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(self.before(x)))


def in_int8(network: nn.Module, x: Tensor, calibration: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The result in int8 and in float32."""
    with torch.no_grad():
        graph = lower(network.eval(), x[:1])
        roundings = calibrate(graph, [x if calibration is None else calibration])
        assert roundings
        plan = Plan(graph, bf16=True, roundings=roundings)
        assert any(packed.scale is not None for packed in plan.packed)
        return plan(x), network(x)


@pytest.mark.parametrize("channels", [(1, 3), (3, 17), (17, 40), (72, 130), (728, 64)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("signed", [False, True])
def test_integers_are_exact(
    path: str, channels: tuple[int, int], kernel: int, stride: int, signed: bool
) -> None:
    """Inputs that are bytes and weights that are, too: nothing is left to round but the result, to bfloat16."""
    inputs, outputs = channels
    generator = torch.Generator().manual_seed(inputs)
    layer = conv2d(inputs, outputs, kernel, stride, kernel // 2)
    weight = torch.randint(-127, 128, layer.weight.shape, generator=generator).float()
    weight[:, 0, 0, 0] = 127
    layer.weight.data = weight
    # With a border the zero point is in the middle.
    low, high = (-127, 128 if kernel == 1 else 127) if signed else (0, 255)
    x = torch.randint(low, high + 1, (2, inputs, 9, 6), generator=generator).float()
    x[0, :, 0, 0], x[0, :, 0, 1] = low, high
    y, expected = in_int8(Tail(layer, inputs), x)
    assert float(((y - expected).abs() / expected.abs().clamp(min=1)).max()) <= 2**-8


def test_a_map_is_rounded_for_a_product_and_not_for_a_sum(path: str) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.ReLU(), Residual(PointwiseConv2d(20, 20), nn.Identity(), nn.ReLU))
    y, expected = in_int8(Tail(layer, 20), torch.randn(3, 20, 5, 7))
    assert float((y - expected).norm() / expected.norm()) <= 0.02


@pytest.mark.parametrize("channels", [(3, 17), (17, 40), (72, 130)])
@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (2, 3), (1, 5), (2, 5)])
@pytest.mark.parametrize("size", [(1, 2), (7, 9), (12, 19)])
def test_a_separable_convolution_of_any_shape(
    path: str, channels: tuple[int, int], stride: int, kernel: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.ReLU(), SeparableConv2d(*channels, kernel, stride), nn.ReLU())
    y, expected = in_int8(Tail(layer, channels[0]), torch.randn(5, channels[0], *size))
    assert float((y - expected).norm() / expected.norm()) <= 0.02


@pytest.mark.parametrize("between", [nn.Identity, nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("size", [1.0, 9.0])
def test_an_activation_before_rounding(path: str, between: type[nn.Module], size: float) -> None:
    torch.manual_seed(0)
    depthwise = ConvNorm(conv2d(72, 72, 3, 1, "same", groups=72), 72, between)
    network = randomise(nn.Sequential(PointwiseConv2d(5, 72), depthwise, PointwiseConv2d(72, 24)))
    x = size * torch.randn(4, 5, 6, 21)
    y, expected = in_int8(Tail(network, 5), x)
    assert float((y - expected).norm() / expected.norm()) <= 0.03


def test_rounding_clamps_as_an_activation_would() -> None:
    def rounding(scale: float, zero: float) -> Rounding:
        return Rounding(
            torch.full((2,), scale), torch.tensor([0.0, zero]), torch.ones(3), torch.zeros(3), 0.0
        )

    assert rounding(0.1, 0.0).saturates("relu")
    assert rounding(6 / 255, 0.0).saturates("relu6")
    assert not rounding(0.1, 0.0).saturates("relu6"), "byte 255 is 25.5"
    assert not rounding(0.1, 3.0).saturates("relu"), "byte 0 is below zero"
    assert not rounding(0.1, 0.0).saturates("nothing")


def rounded_by_hand(graph: Graph, roundings: dict[str, Rounding], x: Tensor) -> Tensor:
    """What the plan of `graph` means, on PyTorch's operators: int8 convolutions read rounded maps and weights."""
    maps: list[Tensor] = []
    for operation, shape in zip(graph.operations, graph.shapes, strict=True):
        read = [maps[source] for source in sources(operation)]
        if isinstance(operation, Convolution) and operation.name in roundings:
            rounding = roundings[operation.name]
            weight = rounding.in_int8(operation).weight * rounding.step[:, None, None, None]
            operation, read = (
                replace(operation, weight=weight, bias=rounding.bias),
                [rounding.rounded(read[0])],
            )
        maps.append(apply(operation, read, shape) if read else x)
    return maps[-1]


@pytest.mark.parametrize("channels", [48, 72, 192])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2), (7, 1)])
@pytest.mark.parametrize("before", [nn.ReLU, nn.Identity])
@pytest.mark.parametrize("between", [nn.ReLU6, nn.SiLU])
def test_a_depthwise_convolution_in_bytes(
    path: str, channels: int, kernel: int, stride: int, before: type[nn.Module], between: type[nn.Module]
) -> None:
    """Of bytes with a zero point and without, in blocks of 64 channels and what is left, on every instruction set."""
    torch.manual_seed(0)
    depthwise = ConvNorm(
        conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels), channels, between
    )
    layers = nn.Sequential(before(), depthwise, PointwiseConv2d(channels, 24), nn.ReLU())
    tail = Tail(randomise(layers), channels).eval()
    # Bytes already: so rounding them leaves nothing to chance.
    x = torch.randint(-127, 128, (2, channels, 9, 21)).float()
    x[0, :, 0, 0], x[0, :, 0, 1] = -127, 127
    if before is nn.ReLU:
        x[0, :, 0, 1] = 255
    with torch.no_grad():
        graph = lower(tail, x[:1])
        roundings = calibrate(graph, [x])
        plan = Plan(graph, bf16=True, roundings=roundings)
        assert [packed.between_scale is not None for packed in plan.packed].count(True) == 1
        y, expected = plan(x), rounded_by_hand(graph, roundings, x)
        assert float((y - expected).norm() / expected.norm()) <= 2**-8
        assert torch.equal(pickle.loads(pickle.dumps(plan))(x), y)


def test_a_layout_of_memory_changes_no_plan() -> None:
    """A strided pointwise convolution, whose map a depthwise one reads, too, is spelled alike in any memory format."""
    torch.manual_seed(0)
    network = randomise(create_model("xception", num_classes=5, width=0.25, middle=(182,)))
    x = torch.randn(2, 3, 71, 71)
    with torch.no_grad():
        plain = calibrate(lower(network, x), [x])
        network = network.to(memory_format=torch.channels_last)
        other = calibrate(lower(network, x.contiguous(memory_format=torch.channels_last)), [x])
    assert plain.keys() == other.keys()


def test_a_depthwise_convolution_reads_bytes_where_nothing_else_reads_its_map() -> None:
    torch.manual_seed(0)
    separable = SeparableConv2d(20, 20, 3), nn.ReLU(), SeparableConv2d(20, 20, 3), nn.ReLU()
    network = randomise(
        nn.Sequential(
            PointwiseConv2d(6, 20), nn.ReLU(), Residual(nn.Sequential(*separable), nn.Identity(), nn.ReLU)
        )
    )
    with torch.no_grad():
        graph = lower(Tail(network, 6), torch.zeros(1, 6, 9, 9))
        roundings = calibrate(graph, [torch.randn(4, 6, 9, 9)])
    depthwise = [name for name in roundings if name.endswith("depthwise")]
    assert [name.split(".")[-2] for name in depthwise] == ["2"], "the first one's map is added, too"
    without = {name: rounding for name, rounding in roundings.items() if name not in depthwise}
    check_roundings(graph, without)
    assert not any(
        packed.between_scale is not None for packed in Plan(graph, bf16=True, roundings=without).packed
    )


class Both(nn.Module):
    """`first`, and what `join` makes of it and of `second` on top of it."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.join, self.first, self.second = join, first, second

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.join(y, self.second(y))


def concatenate(*maps: Tensor) -> Tensor:
    return torch.cat(maps, 1)


def halved_and_added(y: Tensor, z: Tensor) -> Tensor:
    return nn.functional.max_pool2d(y, 2, 2, 1) + z


class Again(nn.Sequential):
    """All layers twice: the same weights, other ranges."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


@pytest.mark.parametrize(
    "layers",
    [
        (Gated("nothing"), PointwiseConv2d(40, 24)),
        (Gated("a map"), PointwiseConv2d(40, 24)),
        (Gated("a convolution"), PointwiseConv2d(40, 24)),
        (conv2d(20, 60, 3), Maxout(), nn.BatchNorm2d(20), nn.ReLU(), conv2d(20, 9, 3, 1, 1)),
        (nn.BatchNorm2d(20), nn.Hardswish(), conv2d(20, 40, 3, 2, 1, groups=4), PointwiseConv2d(40, 9)),
        (nn.Conv2d(20, 7, 3), nn.AdaptiveAvgPool2d((4, 3)), nn.Flatten(), nn.Linear(84, 5), nn.Linear(5, 5)),
        (Both(torch.add, conv2d(20, 32, 3), conv2d(32, 32, 3, 1, 1)), PointwiseConv2d(32, 9)),
        (Both(concatenate, conv2d(20, 32, 1), conv2d(32, 16, 1)), conv2d(48, 9, 3, 1, 1)),
        (Both(concatenate, conv2d(20, 16, 3), nn.MaxPool2d(3, 1, 1)), conv2d(32, 9, 1)),
        (Both(halved_and_added, conv2d(20, 32, 1), nn.Conv2d(32, 32, 1, 2, 1)), conv2d(32, 9, 1)),
        (Both(concatenate, conv2d(20, 32, 1), conv2d(32, 32, 1, groups=2)), conv2d(64, 9, 1)),
        (Again(conv2d(20, 20, 3, 1, 1), nn.SiLU()), conv2d(20, 9, 3)),
        (conv2d(20, 20, 3, 1, 1), nn.ReLU(), PointwiseConv2d(20, 9), nn.ReLU()),
        (conv2d(20, 20, 3, 1, 1), PointwiseConv2d(20, 9), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ],
    ids=lambda layers: "-".join(type(layer).__name__ for layer in layers),
)
def test_what_networks_are_made_of(path: str, layers: tuple[nn.Module, ...]) -> None:
    """Maps with other readers too, maps that are written in parts, and a result that a product writes."""
    torch.manual_seed(0)
    network = randomise(nn.Sequential(PointwiseConv2d(6, 20), *layers))
    y, expected = in_int8(network, torch.randn(4, 6, 10, 8))
    assert float((y - expected).norm() / expected.norm()) <= 0.02


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("xception", {"width": 0.25, "middle": (182,) * 2}),
        ("mobilenet_v1", {"width": 0.5}),
        ("mobilenet_v2", {"width": 0.5}),
        ("resnet50", {"width": 0.25}),
        ("resnext50_32x4d", {"width": 0.5}),
        ("inception_v3", {"width": 0.5}),
        ("se_resnet50", {"width": 0.25}),
        ("nin_maxout", {"width": 0.5}),
    ],
)
def test_whole_networks(name: str, arguments: dict[str, object]) -> None:
    """Within a few hundredths of the network, and within a few hundredths of what the plan is meant to compute."""
    torch.manual_seed(0)
    network = randomise(create_model(name, num_classes=20, **arguments))
    if name.startswith("se"):
        halve(network)
    x = torch.randn(4, 3, max(network.min_size, 96), max(network.min_size, 96))
    y, expected = in_int8(network, x)
    assert float((y - expected).norm() / expected.norm()) <= 0.05


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0"])
def test_other_networks(name: str) -> None:
    """Their batch norms know the images, so that every map is as wide as after training, and roundings add up.

    So bytes are held to what bfloat16, whose numbers have as many digits, makes of the same network.
    """
    torch.manual_seed(0)
    network, x = randomise(getattr(torchvision.models, name)(num_classes=20)), torch.randn(4, 3, 96, 96)
    halve(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = 1.0
    network(x)
    y, expected = in_int8(network, x)
    rounded = Plan(lower(network, x[:1]), bf16=True)(x)
    assert float((rounded - expected).norm() / expected.norm()) <= 0.1
    assert float((y - expected).norm()) <= 4 * float((rounded - expected).norm())


def test_the_parts_of_a_maxout_have_roundings_of_their_own() -> None:
    layer, x = (
        nn.Sequential(conv2d(3, 4, 1), conv2d(4, 12, 1), Maxout(), conv2d(4, 3, 1)),
        torch.randn(2, 3, 4, 4),
    )
    with torch.no_grad():
        names = calibrate(lower(layer.eval(), x), [x])
    assert list(names) == ["1", "1#2", "1#3"]


def test_the_reference_is_the_network() -> None:
    torch.manual_seed(0)
    network = randomise(create_model("inception_v3", num_classes=7, width=0.5))
    x = torch.randn(2, 3, 80, 111)
    with torch.no_grad():
        assert torch.allclose(interpret(lower(network, x[:1]), x), network(x), rtol=1e-4, atol=1e-5)


def test_channels_of_unequal_ranges_lose_no_accuracy() -> None:
    """One channel five hundred times as wide as the others: a scale for the whole map would round them away."""
    torch.manual_seed(0)
    layer = nn.Sequential(conv2d(16, 16, 3, 1, 1, groups=16), PointwiseConv2d(16, 32))
    layer[0].weight.data[3] *= 500
    layer[1].weight.data[:, 3] /= 500
    y, expected = in_int8(Tail(layer, 16), torch.randn(4, 16, 8, 8))
    assert float((y - expected).norm() / expected.norm()) <= 0.02


def test_roundings_survive_a_file_of_tensors() -> None:
    torch.manual_seed(0)
    network = randomise(create_model("mobilenet_v1", num_classes=5, width=0.25))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        graph = lower(network, x[:1])
        roundings = calibrate(graph, [x])
        again = from_tensors(to_tensors(roundings))
        assert torch.equal(
            Plan(graph, bf16=True, roundings=roundings)(x), Plan(graph, bf16=True, roundings=again)(x)
        )
    broken = to_tensors(roundings)
    broken.popitem()
    with pytest.raises(RoundingError, match=r"^\S+\.error is missing$"):
        from_tensors(broken)


class Pair(nn.Module):
    """Two products of one map, which is padded for one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.before = conv2d(3, 6, 1)
        self.one, self.other = conv2d(6, 10, 3, 1, 1), conv2d(6, 10, 1)
        self.last = PointwiseConv2d(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        return self.last(self.one(y) + self.other(y))


@pytest.fixture(scope="module")
def of_pair() -> tuple[Graph, dict[str, Tensor]]:
    torch.manual_seed(0)
    with torch.no_grad():
        graph = lower(Pair().eval(), torch.zeros(1, 3, 5, 5))
        return graph, to_tensors(calibrate(graph, [torch.randn(4, 3, 5, 5)]))


def refusal(graph: Graph, tensors: dict[str, Tensor]) -> str:
    with pytest.raises(RoundingError) as raised:
        check_roundings(graph, from_tensors(tensors))
    return str(raised.value)


def with_first(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone().flatten()
    changed[0] = value
    return changed.view_as(tensor)


WRONG: list[tuple[str, Callable[[Tensor], Tensor | None], str]] = [
    (f"one.{part}", lambda t, value=value: with_first(t, value), f"one.{part} is not finite")
    for part in ("scale", "zero", "step", "bias", "error")
    for value in (torch.inf, -torch.inf, torch.nan)
]
WRONG += [
    (
        f"one.{part}",
        lambda t, value=value: with_first(t, value),
        f"one.{part} goes down to .* must be above 0",
    )
    for part in ("scale", "step")
    for value in (0.0, -1.0, 1e-45)
]
WRONG += [
    (
        "one.zero",
        lambda t, value=value: with_first(t, value),
        "one.zero must hold whole numbers from 0 to 255",
    )
    for value in (-1.0, 256.0, 0.5)
]
WRONG += [
    (f"one.{part}", change, f"one.{part} (has|is) ")
    for part in ("scale", "zero", "step", "bias")
    for change in (lambda t: t[:-1], lambda t: torch.cat([t, t]), lambda t: t[None], lambda t: t.double())
]
WRONG += [
    ("one.error", lambda t: -1 - t, "one.error is -1.* at least 0"),
    ("one.error", lambda t: t[None], r"one.error is float32 \[1\] and must be float32 with 0 dimensions"),
    ("one.scale", lambda t: t.half(), r"one.scale is float16 \[6\] and must be float32 with 1"),
    ("one.scale", lambda t: None, "one.scale is missing"),
    ("one.error", lambda t: None, "one.error is missing"),
    ("one.zero", lambda t: with_first(t, float(t[0]) - 1), "one.zero must be one number"),
    (
        "other.scale",
        lambda t: with_first(t, 1.001 * float(t[0])),
        "other.scale differs from one.scale, of the same map",
    ),
    ("one.step", lambda t: t * 2, "one.step does not fit the weights and one.scale"),
    ("one.scale", lambda t: t / 2, "one.step does not fit the weights and one.scale"),
]


@pytest.mark.parametrize(("name", "change", "message"), WRONG)
def test_a_tensor_that_is_no_rounding_is_named(
    of_pair: tuple[Graph, dict[str, Tensor]],
    name: str,
    change: Callable[[Tensor], Tensor | None],
    message: str,
) -> None:
    graph, tensors = of_pair
    changed = change(tensors[name])
    tensors = {key: tensor for key, tensor in tensors.items() if key != name}
    assert re.search(message, refusal(graph, tensors if changed is None else {**tensors, name: changed}))


def test_roundings_of_other_products_are_named(of_pair: tuple[Graph, dict[str, Tensor]]) -> None:
    graph, tensors = of_pair
    parts = {key.removeprefix("one."): tensor for key, tensor in tensors.items() if key.startswith("one.")}
    assert "last.scale is of no convolution" in refusal(
        graph, {**tensors, **{f"last.{part}": tensor for part, tensor in parts.items()}}
    )
    missing = {key: tensor for key, tensor in tensors.items() if not key.startswith("other.")}
    assert refusal(graph, missing) == "other.scale is missing"
    for odd in ("odd", "one.odd", ".scale", ""):
        assert f"{odd} is no part of a rounding" in refusal(graph, {**tensors, odd: torch.ones(1)})
    check_roundings(graph, from_tensors(tensors))


def test_the_error_of_a_layer_is_told() -> None:
    """None where nothing is rounded; what is left of one wide weight beside narrow ones where much is."""
    torch.manual_seed(0)
    even, uneven = PointwiseConv2d(16, 16), PointwiseConv2d(16, 16)
    even.weight.data = torch.randint(-127, 128, even.weight.shape).float()
    even.weight.data[:, 0] = 127
    uneven.weight.data[:, 0] = 100
    network = nn.ModuleList([Tail(even, 16), Tail(uneven, 16)])
    x = torch.randint(0, 256, (8, 16, 4, 4)).float()
    x[0, :, 0, 0], x[0, :, 0, 1] = 0, 255
    with torch.no_grad():
        exact, rounded = (calibrate(lower(part.eval(), x), [x])["first"].error for part in network)
    assert exact < 1e-6
    assert 1e-4 < rounded < 0.05


@pytest.mark.parametrize(
    ("images", "message"),
    [(torch.zeros(0, 3, 8, 8), "there are none"), (torch.full((1, 3, 8, 8), torch.nan), "not finite")],
)
def test_calibration_images_without_ranges_are_refused(images: Tensor, message: str) -> None:
    layer = Tail(PointwiseConv2d(3, 4), 3)
    with torch.no_grad(), pytest.raises(DepthwiseError, match=message):
        calibrate(lower(layer.eval(), torch.zeros(1, 3, 8, 8)), [images])
