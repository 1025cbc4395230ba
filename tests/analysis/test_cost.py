"""The bill against the closed formulas, and that counting changes nothing."""

import gc
import weakref
from collections.abc import Iterator
from itertools import accumulate

import pytest
import torch
from torch import Tensor, nn

from depthwise.analysis.cost import cost, multiply_adds, without_memory
from depthwise.layers import ConvNorm, SeparableConv2d, conv2d, relu
from depthwise.models import create_model


@pytest.mark.parametrize(
    ("m", "n", "k", "side", "stride"), [(16, 32, 3, 12, 1), (3, 17, 5, 9, 2), (1, 1, 3, 7, 2)]
)
def test_a_separable_convolution_costs_what_the_formula_says(
    m: int, n: int, k: int, side: int, stride: int
) -> None:
    bill = cost(SeparableConv2d(m, n, k, stride), (m, side, side))
    f = -(-side // stride)
    assert bill.parameters == k * k * m + m * n
    assert bill.macs == (k * k * m + m * n) * f * f
    assert bill.activation_bytes == 4 * (m + n) * f * f
    assert [(layer.name, layer.macs) for layer in bill.layers] == [
        ("depthwise", k * k * m * f * f),
        ("pointwise", m * n * f * f),
    ]
    regular = cost(conv2d(m, n, k, stride, k // 2), (m, side, side))
    assert regular.macs == k * k * m * n * f * f
    assert bill.macs / regular.macs == pytest.approx(1 / n + 1 / k**2)


def test_segments_cost_what_the_formula_says() -> None:
    grouped = cost(nn.Conv2d(24, 24, 3, padding=1, groups=4, bias=False), (24, 10, 10))
    assert grouped.parameters == 9 * 24 * 24 // 4
    assert grouped.macs == grouped.parameters * 100


@pytest.mark.parametrize("name", ["xception", "inception_v3"])
def test_the_layers_add_up_to_the_network(name: str) -> None:
    bill = cost(create_model(name, width=0.125, stem="small"), (3, 32, 32))
    assert sum(layer.macs for layer in bill.layers) == bill.macs
    assert sum(layer.parameters for layer in bill.layers) == bill.parameters


def test_layers_are_named_in_the_order_they_run() -> None:
    network = nn.Sequential(
        ConvNorm(conv2d(3, 8, 3), 8, relu), nn.Identity(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )
    bill = cost(network, (3, 8, 8))
    assert [
        (layer.name, layer.kind, layer.parameters, layer.macs, layer.output_shape) for layer in bill.layers
    ] == [
        ("0.conv", "regular", 216, 216 * 36, (8, 6, 6)),
        ("0.norm", "BatchNorm2d", 16, 0, (8, 6, 6)),
        ("2", "Flatten", 0, 0, (288,)),
        ("3", "linear", 1445, 1440, (5,)),
    ]
    assert bill.activation_bytes == 4 * (288 + 288 + 288 + 5)


class Odd(nn.Module):
    """Runs one layer twice and a product that is in no module."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1, bias=False)
        self.unused = nn.Linear(3, 3)
        self.layer.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.layer(x))
        return x.flatten(2) @ x.flatten(2).transpose(1, 2)


def test_any_module_is_counted() -> None:
    bill = cost(Odd(), (4, 5, 5))
    assert (bill.parameters, bill.trainable) == (28, 12)
    assert bill.macs == 2 * 16 * 25 + 4 * 25 * 4
    assert [(layer.name, layer.macs) for layer in bill.layers] == [("layer", 2 * 16 * 25), ("", 4 * 25 * 4)]


def test_counting_changes_nothing() -> None:
    network = create_model("inception_v3", num_classes=5, width=0.125, stem="small", aux=True, dropout=0.5)
    network.stages.mixed7.eval()
    network.classifier.weight.grad = torch.ones_like(network.classifier.weight)
    modes = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()

    cost(network, (3, 32, 32))

    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(network.classifier.weight.grad, torch.ones_like(network.classifier.weight))
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_failed_count_changes_nothing_either() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout())
    with pytest.raises(RuntimeError, match="channels"):
        cost(network, (1, 8, 8))
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())


def stack() -> nn.Sequential:
    return nn.Sequential(conv2d(3, 8, 3), nn.BatchNorm2d(8), relu(), nn.MaxPool2d(2), conv2d(8, 4, 3))


def test_training_keeps_what_the_backward_pass_reads() -> None:
    # The image; the first convolution's output; batch norm's, which the ReLU overwrites, and its mean and deviation
    # over the two images of the count; the pool's indices, 8 bytes each, and its output.
    maps = 3 * 8 * 8 + 8 * 6 * 6 + 8 * 6 * 6 + 8 * 3 * 3
    assert cost(stack(), (3, 8, 8)).training_bytes == 4 * maps + 8 * 8 * 3 * 3 + 4 * 2 * 8 // 2


def test_what_needs_no_gradient_keeps_nothing() -> None:
    network = stack().requires_grad_(False)
    assert cost(network, (3, 8, 8)).training_bytes == 0
    network[4].requires_grad_(True)
    assert cost(network, (3, 8, 8)).training_bytes == 4 * 8 * 3 * 3
    with torch.no_grad():
        assert cost(network, (3, 8, 8)).training_bytes == 4 * 8 * 3 * 3


class Fork(nn.Module):
    """Adds what it keeps to what it makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv2d(4, 8, 1), conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y: Tensor = self.second(self.second(x))
        return y + x


def test_inference_needs_what_is_alive_at_once() -> None:
    # A chain frees what lies behind: at its most the image and two neighbouring outputs are alive.
    chain = nn.Sequential(conv2d(3, 8, 3), relu(), conv2d(8, 4, 3), conv2d(4, 4, 1))
    assert cost(chain, (3, 8, 8)).inference_bytes == 4 * (3 * 8 * 8 + 8 * 6 * 6 + 4 * 4 * 4)
    # The image, x, the second convolution's input and output; behind it x, y and their sum.
    assert cost(Fork(), (4, 5, 5)).inference_bytes == 4 * 25 * (4 + 8 + 8 + 8)


def test_intensity_is_work_over_traffic() -> None:
    layer = nn.Sequential(conv2d(4, 6, 3))
    bill = cost(layer, (4, 8, 8))
    traffic = 4 * (4 * 64 + 9 * 24 + 6 * 36)
    assert bill.bytes_moved == bill.layers[0].bytes_moved == traffic
    assert bill.intensity == bill.layers[0].intensity == 9 * 24 * 36 / traffic
    # A view moves nothing; what works in place reads and writes.
    assert cost(nn.Sequential(layer, relu(), nn.Flatten()), (4, 8, 8)).bytes_moved == traffic + 2 * 4 * 6 * 36
    assert cost(nn.Identity(), (4, 8, 8)).intensity == 0


def test_shares_of_the_kinds_of_work() -> None:
    network = nn.Sequential(
        conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        SeparableConv2d(8, 4),
        conv2d(4, 4, 3, padding=1, groups=2),
        nn.Flatten(),
        nn.Linear(100, 10),
    )
    bill = cost(network, (3, 5, 5))
    parameters = {
        "regular": 216,
        "depthwise": 72,
        "pointwise": 32,
        "grouped": 72,
        "linear": 1010,
        "other": 16,
    }
    macs = {"regular": 5400, "depthwise": 1800, "pointwise": 800, "grouped": 1800, "linear": 1000, "other": 0}
    assert bill.shares.keys() == parameters.keys()
    for kind, share in bill.shares.items():
        assert share["parameters"] == pytest.approx(parameters[kind] / 1418)
        assert share["macs"] == pytest.approx(macs[kind] / 10800)


@pytest.mark.parametrize(
    ("layer", "shape", "kind"),
    [
        (nn.Conv1d(4, 8, 3), (4, 9), "regular"),
        (nn.Conv1d(4, 8, 1), (4, 9), "pointwise"),
        (nn.Conv3d(4, 8, 3, groups=4), (4, 5, 5, 5), "depthwise"),
        (nn.Conv3d(4, 8, 3, groups=2), (4, 5, 5, 5), "grouped"),
        (nn.Linear(7, 3), (7,), "linear"),
    ],
)
def test_other_shapes_than_images_are_counted(layer: nn.Module, shape: tuple[int, ...], kind: str) -> None:
    bill = cost(layer, shape)
    assert [part.kind for part in bill.layers] == [kind]
    assert bill.macs == multiply_adds(layer, shape) > 0


@pytest.mark.parametrize(("name", "channels"), [("xception", 3), ("mobilenet_v2", 1), ("inception_v3", 3)])
def test_a_network_without_memory_costs_the_same(name: str, channels: int) -> None:
    arguments = {"num_classes": 10, "in_channels": channels, "width": 0.25, "stem": "small"}
    with torch.device("meta"):
        bill = cost(create_model(name, **arguments), (channels, 32, 32))
    real = cost(create_model(name, **arguments), (channels, 32, 32))
    assert (bill.parameters, bill.macs) == (real.parameters, real.macs)
    assert (bill.activation_bytes, bill.training_bytes) == (real.activation_bytes, real.training_bytes)
    # Without memory PyTorch's batch norm claims to return two numbers a channel in evaluation too.
    assert bill.inference_bytes == pytest.approx(real.inference_bytes, rel=0.01)
    assert bill.bytes_moved == pytest.approx(real.bytes_moved, rel=0.01)


def test_a_layer_knows_where_its_input_comes_from() -> None:
    bill = cost(nn.Sequential(stack(), nn.Identity(), Fork()), (3, 8, 8))
    sources = {layer.name: layer.source for layer in bill.layers}
    assert sources == {
        "0.0": None,
        "0.1": "0.0",
        "0.3": "0.1",  # the ReLU works in place
        "0.4": "0.3",
        "2.first": "0.4",
        "2.second": None,  # runs twice
    }


def test_the_native_kernels_do_not_change_the_bill() -> None:
    network = create_model("mobilenet_v2", in_channels=1, width=0.25, stem="small")
    before = cost(network, (1, 32, 32))
    assert cost(network.to(memory_format=torch.channels_last), (1, 32, 32)) == before


def test_a_count_holds_on_to_nothing() -> None:
    network = stack()
    cost(network, (3, 8, 8))
    gone = weakref.ref(network[0])
    del network
    gc.collect()
    assert gone() is None


def allocations(network: nn.Module, images: Tensor) -> list[int]:
    """What PyTorch's allocator gives out and takes back in a forward pass, in bytes, while the output is alive."""
    network(images)  # what is allocated once is not of interest
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        output = network(images)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    del output
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["xception", "inception_v3", "resnet50"])
@pytest.mark.usefixtures("one_thread")  # each thread of an operator has memory of its own
def test_the_allocator_agrees(name: str) -> None:
    network = create_model(name, num_classes=10, width=0.25, stem="small")
    bill, image = cost(network, (3, 64, 64)), 4 * 3 * 64 * 64
    # The image is there before, the ten logits are not kept for the backward pass.
    assert (
        sum(allocations(network.train(), torch.zeros(2, 3, 64, 64))) / 2 == bill.training_bytes - image + 40
    )
    with torch.no_grad():
        peak = max(accumulate(allocations(network.eval(), torch.zeros(1, 3, 64, 64))))
    # Beyond the bill is what operators allocate for themselves.
    assert bill.inference_bytes - image <= peak < 1.5 * (bill.inference_bytes - image)


def test_a_copy_without_memory_costs_the_same() -> None:
    module = create_model("xception", num_classes=5, stem="small", width=0.25, middle=(64,))
    copy = without_memory(module)
    assert all(tensor.is_meta for tensor in copy.state_dict().values())
    assert not any(tensor.is_meta for tensor in module.state_dict().values())
    own, copied = cost(module, (3, 32, 32)), cost(copy, (3, 32, 32))
    assert (own.parameters, own.macs, own.trainable) == (copied.parameters, copied.macs, copied.trainable)
    assert cost(copy, (3, 4096, 4096)).training_bytes > 4e9


@pytest.mark.parametrize(
    "name", ["xception", "mobilenet_v2", "inception_v3", "se_resnext50_32x4d", "nin_maxout", "vgg16_bn"]
)
@pytest.mark.parametrize("width", [0.25, 0.9])
def test_multiply_adds_without_batch_norms_are_those_of_the_whole_bill(name: str, width: float) -> None:
    with torch.device("meta"):
        network = create_model(name, width=width, stem="small", num_classes=10)
    assert multiply_adds(network, (3, 40, 32)) == cost(network, (3, 40, 32)).macs > 0
