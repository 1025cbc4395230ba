"""Compiled networks against the networks themselves, on every instruction set that this machine has."""

import re
from collections.abc import Sequence

import pytest
import torch
from planned import compiled_from
from tests.conftest import RUNNABLE, in_threads, using
from tests.models.networks import SHALLOW
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer.choice import compile
from depthwise.infer.lower import lower
from depthwise.infer.plan import Plan
from depthwise.layers import ConvNorm, MaxPool2d, PointwiseConv2d, Residual, SeparableConv2d, conv2d
from depthwise.models import create_model, list_models
from depthwise.native.library import library

TOLERANCE = {"fp32": 1e-5, "bf16": 3e-2}


def randomise(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.1, generator=generator)
            nn.init.normal_(module.running_mean, 0.0, 0.1, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
    return network.eval()


def halve(network: nn.Module) -> None:
    """Else values grow until gates are all open or shut: float32 and float64 disagree on PyTorch, too."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data /= 2


def assert_same(
    network: nn.Module,
    x: Tensor,
    *,
    precisions: Sequence[str] = tuple(TOLERANCE),
    paths: Sequence[str] = RUNNABLE,
) -> list[Plan]:
    """Once compiled it says what it said before, relative to the largest value; twice, for the memory is kept.

    Lowered once, planned in every precision on every path; returns the plans.
    """
    network.eval()
    with torch.no_grad():
        expected = network.double()(x.double()).float()
    graph, plans = lower(network.float(), x[:1]), []
    for precision in precisions:
        for path in paths:
            with using(path):
                compiled = compiled_from(graph, network, x, precision)
                for _ in range(2):
                    y = compiled(x)
                    assert y.shape == expected.shape, (precision, path)
                    error = float((y - expected).abs().max() / expected.abs().max())
                    assert error <= TOLERANCE[precision], (precision, path, error)
                plans.append(compiled.plan)
    return plans


@pytest.mark.parametrize("channels", [(2, 3), (3, 17), (17, 40), (72, 130)])
@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (2, 3), (1, 5), (2, 5)])
@pytest.mark.parametrize("size", [(1, 2), (7, 9), (12, 5)])
def test_a_separable_convolution_of_any_shape(
    channels: tuple[int, int], stride: int, kernel: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.ReLU(), SeparableConv2d(*channels, kernel, stride), nn.ReLU())
    assert_same(layer, torch.randn(5, channels[0], *size))


@pytest.mark.parametrize("before", [nn.Identity, nn.ReLU])
@pytest.mark.parametrize("between", [nn.Identity, nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("stride", [1, 2])
def test_activations_around_a_depthwise_convolution(
    before: type[nn.Module], between: type[nn.Module], stride: int
) -> None:
    torch.manual_seed(0)
    depthwise = ConvNorm(conv2d(72, 72, 3, stride, "same", groups=72), 72, between)
    layer = nn.Sequential(PointwiseConv2d(5, 72), before(), depthwise, PointwiseConv2d(72, 24))
    assert_same(randomise(layer), 3 * torch.randn(2, 5, 6, 21))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("width", [3, 16, 41])
def test_an_image_arrives_as_it_is(path: str, precision: str, channels: int, width: int) -> None:
    layer = nn.Conv2d(channels, channels, 1, bias=False)
    layer.weight.data = torch.eye(channels)[:, :, None, None]
    x = torch.randn(2, channels, 3, width)
    expected = x.bfloat16().float() if precision == "bf16" else x
    compiled = compile(layer, x, precision=precision)
    assert torch.equal(compiled(x), expected)
    assert torch.equal(compiled(x.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("kernel", [(3, 1), (1, 5), (5, 3)])
def test_a_depthwise_kernel_that_is_not_square(kernel: tuple[int, int]) -> None:
    torch.manual_seed(0)
    height, width = kernel
    depthwise = nn.Conv2d(20, 20, kernel, padding=(height // 2, width // 2), groups=20)
    assert_same(
        nn.Sequential(nn.Conv2d(6, 20, 1), depthwise, nn.Conv2d(20, 9, 1)),
        torch.randn(2, 6, 9, 10),
    )


@pytest.mark.parametrize("padding", [0, 1, "same"])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("channels", [(1, 1), (3, 20), (33, 70)])
def test_a_convolution_of_any_shape(
    padding: int | str, kernel: int, stride: int, channels: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    layer = conv2d(*channels, kernel, stride, padding, bias=True)
    assert_same(layer, torch.randn(2, channels[0], 11, 8))


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 2, 1)])
@pytest.mark.parametrize(
    ("channels", "groups", "most"),
    [
        ((24, 24), 3, 16),  # groups of 8: two in one vector
        ((128, 128), 32, 16),  # 32x4d
        ((256, 256), 2, 128),  # groups wider than a panel
        ((60, 60), 5, 24),  # windows that begin within a vector
        ((96, 192), 32, 16),
        ((16, 32), 16, 8),  # depthwise with two filters a channel
        ((6, 12), 2, 6),  # nothing to leave out
    ],
)
def test_a_convolution_in_groups(
    channels: tuple[int, int],
    groups: int,
    most: int,
    kernel: int,
    stride: int,
    padding: int,
) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(conv2d(*channels, kernel, stride, padding, groups, bias=True), nn.ReLU())
    x = torch.randn(2, channels[0], 9, 6)
    for plan in assert_same(layer, x):
        packed = plan.packed[1]
        depth = packed.runs * packed.length
        assert depth <= kernel**2 * most, "more input channels are multiplied than the panels' groups read"


CURVES = (nn.ELU, nn.Sigmoid, nn.SiLU, nn.Hardsigmoid, nn.Hardswish)


KINDS = (nn.ReLU, nn.ReLU6, nn.Identity, *CURVES)


@pytest.mark.parametrize(("between", "after"), [*zip(KINDS, KINDS[1:] + KINDS[:1], strict=True)])
def test_activations(between: type[nn.Module], after: type[nn.Module]) -> None:
    torch.manual_seed(0)
    parts = nn.Sequential(
        ConvNorm(conv2d(20, 20, 3, 1, "same", groups=20), 20, between),
        ConvNorm(PointwiseConv2d(20, 24), 24, after),
    )
    assert_same(randomise(parts), 10 * torch.randn(2, 20, 6, 7), precisions=["fp32"])


@pytest.mark.parametrize("kind", CURVES)
def test_an_activation_of_any_number(path: str, kind: type[nn.Module]) -> None:
    x = torch.cat([torch.linspace(-100, 100, 4001), torch.linspace(-1e-3, 1e-3, 95)])
    layer = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), kind())
    nn.init.ones_(layer[0].weight)
    y = compile(layer, x.view(1, 1, 1, -1))(x.view(1, 1, 1, -1)).flatten()
    torch.testing.assert_close(y, kind()(x), rtol=1e-6, atol=1e-7)
    nan = compile(layer, torch.zeros(1, 1, 1, 1))(torch.full((1, 1, 1, 1), torch.nan))
    assert nan.isnan().all()


class Gated(nn.Module):
    def __init__(self, residual: str) -> None:
        super().__init__()
        self.body, self.skip = PointwiseConv2d(20, 40), PointwiseConv2d(20, 40)
        self.squeeze, self.excite = nn.Conv2d(40, 6, 1), nn.Conv2d(6, 40, 1)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        gate = self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        match self.residual:
            case "a convolution":
                return torch.relu(y * gate + self.skip(x))
            case "a map":
                z = torch.relu(self.skip(x))
                return torch.relu(z + gate * y) + z
            case _:
                return nn.functional.silu(y * gate)


@pytest.mark.parametrize("residual", ["nothing", "a map", "a convolution"])
def test_a_gate_is_one_step(residual: str) -> None:
    torch.manual_seed(0)
    for plan in assert_same(Gated(residual), torch.randn(3, 20, 7, 5)):
        kinds = [step.kind for step in plan.layout.steps]
        assert kinds.count("sum") == (2 if residual == "a map" else 1)


class Maxout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x.unflatten(1, (-1, 3)).amax(2))


@pytest.mark.parametrize(
    "layers",
    [
        (nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 20, 3)),
        (nn.Conv2d(6, 20, 3), nn.MaxPool2d(2), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 8, 1)),
        (nn.Conv2d(6, 7, (3, 6)), nn.AdaptiveAvgPool2d((4, 3)), nn.Flatten(), nn.Dropout(), nn.Linear(84, 5)),
        (nn.Conv2d(6, 7, 3), nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)),
        (nn.Conv2d(6, 20, 3), nn.MaxPool2d(2), nn.ReLU()),
        (nn.Conv2d(6, 20, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        (nn.Conv2d(6, 20, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 333)),
        (Residual(conv2d(6, 6, 3, 1, "same")),),
        (nn.Conv2d(6, 60, 3), Maxout(), nn.Conv2d(20, 5, 1)),
    ],
    ids=lambda layers: "-".join(type(layer).__name__ for layer in layers),
)
def test_what_other_networks_are_made_of(layers: tuple[nn.Module, ...]) -> None:
    torch.manual_seed(0)
    assert_same(randomise(nn.Sequential(*layers)), torch.randn(2, 6, 10, 11))


def test_a_batch_norm_is_not_folded_into_a_convolution_with_other_readers() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.drop, self.norm = nn.Conv2d(3, 8, 3), nn.Dropout(), nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(self.drop(y)) + torch.relu(y)

    torch.manual_seed(0)
    assert_same(randomise(Module()), torch.randn(2, 3, 6, 7), precisions=["fp32"])


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("size", [(7, 8), (2, 3)])
def test_pooling_with_a_sum(padding: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.ReLU(), SeparableConv2d(18, 30), MaxPool2d(3, 2, padding))
    block = Residual(body, ConvNorm(PointwiseConv2d(18, 30, stride=2), 30), nn.ReLU)
    assert_same(randomise(block), torch.randn(3, 18, *size), precisions=["fp32"])


class Odd(nn.Module):
    """Whatever the fusion must leave alone: results read twice, activations of pools, depthwise ones by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv2d(6, 20, 3, 1, "same"), PointwiseConv2d(20, 20)
        self.depthwise = conv2d(20, 20, 3, 2, 1, groups=20, bias=True)
        self.groups = conv2d(20, 20, 3, 1, "same", groups=4)
        self.pool = MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = torch.relu(self.second(x))
        z = self.depthwise(torch.relu(y + x)) + torch.relu(self.pool(y))
        return torch.nn.functional.elu(z + z) + self.groups(z)


def test_a_graph_that_is_no_chain() -> None:
    torch.manual_seed(0)
    assert_same(Odd(), torch.randn(2, 6, 9, 10))


def test_xception_on_every_path() -> None:
    torch.manual_seed(0)
    network = create_model("xception", num_classes=10, in_channels=1, stem="small", width=0.25)
    assert_same(randomise(network), torch.randn(3, 1, 33, 40))


CONVOLUTIONS = ("separable-elu", "pointwise-first", "segments-4", "towers-2", "regular")

DEEPER = ("resnet101", "resnet152")
"""More of the blocks that resnet50 is made of."""

ARGUMENTS: dict[str, dict[str, object]] = {
    **{name: {"width": 1.0} for name in list_models("inception*")},
    # At their own depth they would take longer than all the others.
    **dict.fromkeys(("resnext101_32x8d", "senet154"), SHALLOW),
}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("xception", {"residual": False, "fully_connected": (40, 24)}),
        *(("xception", {"conv": conv}) for conv in CONVOLUTIONS),
        ("mobilenet_v2", {"padding": "same"}),
        *((name, ARGUMENTS.get(name, {})) for name in list_models() if name not in DEEPER),
    ],
)
def test_whole_networks(name: str, arguments: dict[str, object]) -> None:
    torch.manual_seed(0)
    arguments = {"num_classes": 10, "in_channels": 1, "stem": "small", "width": 0.25} | arguments
    network = randomise(create_model(name, **arguments))
    if name.startswith("se"):
        halve(network)
    assert_same(network, torch.randn(2, 1, 33, 40), paths=[library.path])


def test_xception_at_299() -> None:
    torch.manual_seed(0)
    network = randomise(create_model("xception", dropout=0.5))
    assert_same(network, torch.randn(1, 3, 299, 299), precisions=["fp32"], paths=[library.path])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return randomise(create_model("xception", num_classes=10, stem="small", width=0.25, middle=(728,)))


def test_any_batch_and_memory_layout(network: nn.Module) -> None:
    x = torch.randn(5, 3, 32, 32)
    compiled = compile(network, x)
    expected = compiled(x)
    for batch in (1, 2, 4):
        torch.testing.assert_close(compiled(x[:batch]), expected[:batch], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(compiled(x.contiguous(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(compiled(x.flip(3).contiguous().flip(3)), expected)
    assert compiled(x[:0]).shape == (0, 10)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_batch_has_the_same_bits_however_it_is_divided(
    network: nn.Module, precision: str, threads: int
) -> None:
    compiled = compile(network, torch.zeros(1, 3, 64, 64), precision=precision)
    x = torch.randn(7, 3, 64, 64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    alone = torch.cat([compiled(image) for image in x.split(1)])
    for together in (7, 3, 2):
        compiled.plan.together = together
        assert torch.equal(compiled(x), alone)
    torch.set_num_threads(before)


def test_each_thread_runs_images_of_its_own_as_far_as_the_cache_has_room() -> None:
    wide = compile(nn.Conv2d(3, 512, 1), torch.zeros(1, 3, 128, 128)).plan
    assert wide.together == 2
    assert list(wide._turns(7, 1)) == [(1, 1, 1), (1, 2, 1), (1, 2, 1), (1, 2, 1)]
    assert list(wide._turns(7, 2)) == [(2, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)]
    assert list(wide._turns(3, 4)) == [(1, 1, 4), (1, 2, 4)]
    wide.together = 8
    assert list(wide._turns(7, 2)) == [(2, 3, 1), (1, 1, 2)]
    assert list(wide._turns(1, 2)) == [(1, 1, 2)]


def test_bits_do_not_depend_on_the_threads(network: nn.Module) -> None:
    x = torch.randn(2, 3, 32, 32)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(compile(network, x)(x))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("images", [1, 3, 7])
def test_threads_share_the_outputs_of_a_few_pixels(images: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 333)).eval()
    x, before = torch.randn(images, 24, 2, 2), torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        compiled = compile(network, x)
        torch.testing.assert_close(compiled(x), network(x).detach())
    torch.set_num_threads(before)


def test_many_threads_share_one_network_in_batches_of_their_own(network: nn.Module) -> None:
    images = [torch.randn(1 + index // 2, 3, 32, 32) for index in range(8)]
    compiled = compile(network, images[0])
    expected = [compiled(batch) for batch in images]

    def work(index: int) -> None:
        for _ in range(20):
            assert torch.equal(compiled(images[index]), expected[index])

    in_threads(work)


def test_a_change_of_the_number_of_threads_is_followed(network: nn.Module) -> None:
    before, x = torch.get_num_threads(), torch.randn(1, 3, 32, 32)
    compiled = compile(network, x)
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        compiled(x)
    torch.set_num_threads(before)
    assert [idle.get_nowait().call.threads for idle in compiled.plan._idle.values()] == [1, 2]


def test_the_network_itself_stays_as_it_was(network: nn.Module) -> None:
    x = torch.randn(1, 3, 32, 32)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    compiled = compile(network.train(), x)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    result = compiled(x)
    with torch.no_grad():
        next(network.parameters()).add_(1)
    assert torch.equal(compiled(x), result)
    network.load_state_dict(before)
    network.eval()


def test_what_cannot_be_compiled_is_named(network: nn.Module) -> None:
    with pytest.raises(DepthwiseError, match=re.escape("hardshrink in 1 has no compiled form")):
        compile(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardshrink()), torch.zeros(1, 3, 8, 8), engine="native")
    with pytest.raises(DepthwiseError, match=re.escape("precision='fp8' is none of fp32, bf16")):
        compile(network, torch.zeros(1, 3, 32, 32), precision="fp8")
    compiled = compile(network, torch.zeros(1, 3, 32, 32))
    with pytest.raises(
        DepthwiseError, match=re.escape("[N, 3, 32, 32] on the CPU, not float32 [1, 3, 31, 32] on cpu")
    ):
        compiled(torch.zeros(1, 3, 31, 32))
