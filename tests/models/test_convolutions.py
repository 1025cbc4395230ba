"""The convolutions by name: what each costs, what it computes, and that a network of them trains."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.bundle import BundleConfig, read_bundle, write_bundle
from depthwise.data import Preprocess
from depthwise.errors import DepthwiseError, UsageError
from depthwise.layers import SeparableConv2d
from depthwise.models.convolutions import EXAMPLES, convolution
from depthwise.models.network import Network
from depthwise.models.xception import xception
from depthwise.ship.load import load_module

M, N, K = 16, 24, 3


def layer(name: str, in_channels: int = M, out_channels: int = N) -> nn.Module:
    return convolution(name, [in_channels], [out_channels])(in_channels, out_channels, K)


def weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in module.parameters()]


def small(name: str) -> Network:
    torch.manual_seed(0)
    return xception(10, 3, width=0.125, stem="small", middle=(728,), conv=name)


@pytest.mark.parametrize("s", [1, 2, 4, 8])
def test_weights_are_those_of_the_formulas(s: int) -> None:
    counts = {
        "regular": K * K * M * N,
        f"segments-{s}": K * K * M * M // s + M * N,
        f"segments-of-{s}": K * K * M * s + M * N,
        "separable": K * K * M + M * N,
        f"towers-{s}": M * N + K * K * N * N // s,
        "pointwise-first": M * N + K * K * N,
        "inception": M * N + 3 * K * K * N * N // 16,
        "5x5": 25 * M * N,
        "3x3-3x3": 9 * M * N + 9 * N * N,
        "1x3-3x1": 3 * M * N + 3 * N * N,
        "bottleneck": M * N // 4 + 9 * N * N // 16 + N * N // 4,
    }
    for name, count in counts.items():
        assert sum(w.numel() for w in weights(layer(name))) == count, name


@pytest.mark.parametrize("s", [1, 2, 4, 8])
def test_segments_add_up_over_xception(s: int) -> None:
    """K*K*M*M/s + M*N for each of the 34 convolutions behind the stem, instead of K*K*M + M*N."""
    with torch.device("meta"):
        separable, segments = xception(), xception(conv=f"segments-{s}")
    widths = [m.depthwise.in_channels for m in separable.modules() if isinstance(m, SeparableConv2d)]
    assert len(widths) == 34
    count = sum(p.numel() for p in segments.parameters())
    assert count == 22_855_952 + sum(9 * m * m // s - 9 * m for m in widths)


def test_the_ends_of_the_spectrum() -> None:
    """One segment is a regular convolution before the 1x1, one a channel the separable convolution, to the bit."""
    x = torch.randn(2, M, 7, 9)
    one, all_ = layer("segments-1"), layer(f"segments-{M}")
    spatial, pointwise = weights(one)
    assert torch.equal(one(x), F.conv2d(F.conv2d(x, spatial, padding=1), pointwise))

    separable = SeparableConv2d(M, N)
    for target, source in zip(separable.parameters(), weights(all_), strict=True):
        target.data.copy_(source)
    assert torch.equal(all_(x), separable(x))
    assert type(layer("separable")) is SeparableConv2d

    towers, first = layer(f"towers-{N}"), layer("pointwise-first")
    first.load_state_dict(towers.state_dict())
    assert torch.equal(towers(x), first(x))


@pytest.mark.parametrize("s", [1, 2, 4, 8])
def test_segments_equal_a_loop_over_slices(s: int) -> None:
    module = layer(f"segments-{s}").double()
    x = torch.randn(2, M, 7, 9, dtype=torch.float64)
    spatial, pointwise = weights(module)
    maps = [
        F.conv2d(x[:, i * M // s : (i + 1) * M // s], spatial[i * M // s : (i + 1) * M // s], padding=1)
        for i in range(s)
    ]
    torch.testing.assert_close(module(x), F.conv2d(torch.cat(maps, 1), pointwise))


@pytest.mark.parametrize("s", [1, 2, 3, 8])
def test_towers_equal_a_loop_over_towers(s: int) -> None:
    """Figure 2, each tower with a 1x1 of its own, is Figure 3, one 1x1 that is cut into segments."""
    module = layer(f"towers-{s}").double()
    x = torch.randn(2, M, 7, 9, dtype=torch.float64)
    pointwise, spatial = weights(module)
    towers = []
    for i in range(s):
        part = slice(i * N // s, (i + 1) * N // s)
        towers.append(F.conv2d(F.conv2d(x, pointwise[part]), spatial[part], padding=1))
    torch.testing.assert_close(module(x), torch.cat(towers, 1))


KINDS = ("segments-4", "segments-of-4", "separable", "towers-4", "pointwise-first", "3x3-3x3", "1x3-3x1")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "function"), [("relu", F.relu), ("elu", F.elu)])
def test_an_activation_stands_between(kind: str, name: str, function: Callable[[Tensor], Tensor]) -> None:
    plain, activated = layer(kind), layer(f"{kind}-{name}")
    for own, other in zip(activated.parameters(), plain.parameters(), strict=True):
        own.data.copy_(other.data)
    x = torch.randn(2, M, 7, 9)
    steps = [module for module in plain.children() if weights(module)]
    torch.testing.assert_close(activated(x), steps[1](function(steps[0](x))))


def test_an_inception_module_by_its_branches() -> None:
    module = layer("inception-relu").double()
    x = torch.randn(2, M, 7, 9).double()
    w = weights(module)
    quarter = N // 4

    def one(weight: Tensor) -> Tensor:
        return F.conv2d(x, weight.reshape(quarter, M, 1, 1))

    tower = F.conv2d(one(w[1]).relu(), w[2], padding=1)
    double = F.conv2d(F.conv2d(one(w[3]).relu(), w[4], padding=1).relu(), w[5], padding=1)
    mean = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    pooled = F.conv2d(mean, w[6].reshape(quarter, M, 1, 1))
    torch.testing.assert_close(module(x), torch.cat([one(w[0]), tower, double, pooled], 1))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_network_of_any_of_them_trains(name: str) -> None:
    """Channels last the native kernels take part. An activation at its kink may fall on either side."""
    network = small(name)
    x, target = torch.randn(8, 3, 24, 24), torch.arange(8)
    logits, gradients = [], []
    for layout in (torch.contiguous_format, torch.channels_last):
        network.zero_grad()
        logits.append(network(x.contiguous(memory_format=layout)))
        F.cross_entropy(logits[-1], target).backward()
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999


def test_a_bundle_keeps_the_name(tmp_path: Path) -> None:
    arguments = {"stem": "small", "width": 0.125, "conv": "towers-4-elu", "fully_connected": [64, 64]}
    network = xception(3, 1, **arguments).eval()
    preprocess = Preprocess((32, 32), channels=1)
    write_bundle(
        tmp_path / "bundle",
        BundleConfig("xception", ("a", "b", "c"), preprocess, arguments),
        network.state_dict(),
    )
    loaded = load_module(read_bundle(tmp_path / "bundle"))
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


@pytest.mark.parametrize("name", ["segments-3", "segments-0", "segments-16"])
def test_segments_that_do_not_divide_get_those_that_do(name: str) -> None:
    sentence = (
        f"conv='{name}' must cut 64, 128, 256, 728, 1024, 1536 channels into equal segments: "
        f"use one of the divisors they share, 1, 2, 4, 8, or other widths"
    )
    with pytest.raises(DepthwiseError, match=re.escape(sentence)):
        xception(conv=name)


def test_towers_count_the_channels_they_put_out() -> None:
    widths = {"entry": (64,), "middle": (), "exit": (96, 120), "stem": "small"}
    with pytest.raises(DepthwiseError, match=re.escape("conv='towers-16' must cut 64, 96, 120 channels")):
        xception(conv="towers-16", **widths)
    xception(conv="segments-16", **widths)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("segmets-4", "segments-4, segments-4-elu, segments-4-relu"),
        ("separble", "separable, separable-elu, separable-relu"),
        ("regular-relu", "regular, "),
        ("separable-4", "separable, "),
        ("towers", "towers-4, "),
        ("separable-gelu", "separable-elu, separable-relu, "),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"unknown convolution '{name}': use one of {near}")):
        xception(conv=name)
