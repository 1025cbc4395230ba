"""What every network of the catalogue promises: each contract stands here once, for all of them."""

from typing import Any

import pytest
import torch
from tests.models.networks import AUXILIARY, VARIANTS, narrow, outputs, takes
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from depthwise.errors import DepthwiseError, UsageError
from depthwise.models import CATALOGUE

NOT_LINEAR = ("nin", "nin_maxout")  # their classifier is a convolution: Lin 2014, section 3.2

MIN_SIZES = {**dict.fromkeys(NOT_LINEAR, 4), **{name: 8 for name in CATALOGUE if takes(name, "depths")}}
"""With the small stem; all others take 16x16."""

STRIDES = {
    "nin": (4, 8, 16, 32),
    "nin_maxout": (4, 8, 16, 32),
    "vgg16": (1, 2, 4, 8, 16, 32),
    "vgg16_bn": (1, 2, 4, 8, 16, 32),
}
"""Of the feature maps with the other stem; all others have 2, 4, 8, 16 and 32."""

NOT_ROUNDED_UP = ("nin", "nin_maxout", "vgg16", "vgg16_bn")
"""Their windows leave out what is left of a map at its end, or reach beyond it."""

DROPOUTS = {"vgg16": 2, "vgg16_bn": 2}
"""The number of layers with dropout, where it is not one."""

ALIKE = (
    *("resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d", "se_resnet50", "se_resnext50_32x4d"),
    *("vgg16", "inception_v3_table3"),
)
"""They run the same lines of Python as resnet50, senet154, vgg16_bn and inception_v3, which is what a tracer sees."""

SLOW_TO_TRACE = [name for name in AUXILIARY if name != "inception_v1"]
"""They are made of the same modules as inception_v1, and take up to ten times as long; `tests/infer/test_compiled.py`
exports them, as `compile` does."""

networks = pytest.mark.parametrize("name", CATALOGUE)
variants = pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=str)


@networks
@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_it_says_what_it_takes(name: str, stem: str) -> None:
    network = narrow(name, stem=stem, in_channels=4).eval()
    assert (network.num_classes, network.in_channels) == (7, 4)
    assert name in NOT_LINEAR or isinstance(network.classifier, nn.Linear)
    assert 0 < network.min_size <= network.input_size
    assert network.input_size == (CATALOGUE[name].input_size if stem == "imagenet" else 32)
    assert stem == "imagenet" or network.min_size == MIN_SIZES.get(name, 16)
    side = network.min_size
    with torch.no_grad():
        assert network(torch.zeros(1, 4, side, side + 3)).shape == (1, 7)
    with pytest.raises(DepthwiseError, match=f"below this network's minimum of {side}x{side}"):
        network(torch.zeros(1, 4, side, side - 1))
    with pytest.raises(DepthwiseError, match=r"\[1, 3, 99, 99\] does not fit this network's \[N, 4, H, W\]"):
        network(torch.zeros(1, 3, 99, 99))


@networks
def test_small_pictures_of_any_shape(name: str) -> None:
    same = {"padding": "same"} if name in ("inception_v1", "inception_v2") else {}
    network = narrow(name, stem="small", **same).eval()
    last = max(int(stride.removeprefix("stride")) for stride in network.feature_channels)
    with torch.no_grad():
        for size in ((16, 16), (24, 24), (28, 28), (17, 40)):
            x = torch.randn(2, 3, *size)
            assert network(x).shape == (2, 7)
            if name not in NOT_ROUNDED_UP:
                assert network.stages(x).shape[2:] == tuple(-(-side // last) for side in size)


@networks
def test_it_is_a_backbone(name: str) -> None:
    network = narrow(name).eval()
    height, width = network.min_size + 9, network.min_size + 32
    x = torch.randn(2, 3, height, width)
    with torch.no_grad():
        maps, pooled, logits = network.features(x), network.pooled(x), network(x)
        assert {key: len(value[0]) for key, value in maps.items()} == network.feature_channels
        strides = STRIDES.get(name, (2, 4, 8, 16, 32))
        assert list(maps) == [f"stride{stride}" for stride in strides]
        for stride, value in zip(strides, maps.values(), strict=True):
            # Windows without padding leave out what they cannot reach at the border.
            assert abs(value.shape[2] - height / stride) < 5
            assert abs(value.shape[3] - width / stride) < 5
        assert pooled.shape == (2, network.num_features)
        assert logits.shape == (2, 7)
        network.replace_classifier(3)
        assert network.num_classes == 3
        assert network(x).shape == (2, 3)
        torch.testing.assert_close(network.pooled(x), pooled)
        network.replace_classifier(0)
        torch.testing.assert_close(network(x), pooled)
        assert narrow(name, num_classes=0).eval()(x).shape == pooled.shape


@variants
def test_every_parameter_learns_and_the_native_path_agrees(name: str, arguments: dict[str, Any]) -> None:
    """The kernels run on channels-last maps. An activation at its kink may fall on either side."""
    network = narrow(name, stem="small", **arguments)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x, target = torch.randn(16, 3, 28, 28), torch.arange(16) % 7
    found, gradients = [], []
    for layout in (torch.contiguous_format, torch.channels_last):
        network.zero_grad()
        results = outputs(network(x.contiguous(memory_format=layout)))
        assert len(results) == 1 + (len(AUXILIARY[name]) if arguments.get("aux") else 0)
        torch.stack([cross_entropy(logits, target) for logits in results]).sum().backward()
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            assert parameter.grad.any(), parameter_name
        found.append(torch.cat(results))
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


@networks
def test_weights_make_the_network(name: str) -> None:
    network, other = narrow(name, stem="small").eval(), narrow(name, stem="small").eval()
    for module in other.modules():
        for parameter in module.parameters(recurse=False):
            nn.init.normal_(parameter)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(x)
        assert not torch.equal(other(x), expected)
        other.load_state_dict(network.state_dict())
        assert torch.equal(other(x), expected)


@networks
def test_no_tensor_of_the_caller_is_overwritten(name: str) -> None:
    network = narrow(name, stem="small")
    x = torch.randn(2, 3, 32, 32)
    for layout in (torch.contiguous_format, torch.channels_last):
        images = x.contiguous(memory_format=layout)
        network.train()(images)
        network.eval()(images)
        network.features(images)
        assert torch.equal(images, x)


@pytest.mark.parametrize("name", [name for name in CATALOGUE if takes(name, "dropout")])
def test_dropout_configured_is_dropout_applied(name: str) -> None:
    network = narrow(name, stem="small", dropout=0.25, width=0.25)
    dropped: list[float] = []

    def watch(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        dropped.append((output == 0)[inputs[0] != 0].float().mean().item())

    layers = [module for module in network.modules() if isinstance(module, nn.Dropout) and module.p]
    for layer in layers:
        layer.register_forward_hook(watch)
    x = torch.randn(16, 3, 32, 32)
    network.train()(x)
    assert dropped == pytest.approx([0.25] * len(layers), abs=0.06)
    network.eval()(x)
    assert len(layers) == DROPOUTS.get(name, 1)
    assert dropped[len(layers) :] == [0] * len(layers)


@pytest.mark.parametrize("name", [name for name in CATALOGUE if takes(name, "dropout")])
def test_dropout_has_an_effect(name: str) -> None:
    def spread(dropout: float) -> float:
        """How far apart two draws are, relative to the answer without dropout, all by the batch's own statistics."""
        module = narrow(name, stem="small", dropout=dropout, width=0.25).eval()
        x = torch.randn(2, 3, 32, 38)
        for part in module.modules():
            part.training = isinstance(part, nn.BatchNorm2d)
        with torch.no_grad():
            plain = module(x)
            assert torch.equal(module(x), plain)
            module.train()
            return float((module(x) - module(x)).norm() / plain.norm())

    assert spread(0.0) == 0
    some, more = spread(0.2), spread(0.8)
    assert some > 0.05
    assert more > 1.5 * some


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name not in (*ALIKE, *SLOW_TO_TRACE)])
def test_one_graph_for_compile_and_export(name: str) -> None:
    network = narrow(name, stem="small").eval()
    x = torch.randn(2, 3, 20, 20)
    expected = network(x)
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), expected)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)


@networks
def test_errors_name_the_value(name: str) -> None:
    with pytest.raises(UsageError, match="unknown stem 'tiny': use one of imagenet, small"):
        narrow(name, stem="tiny")
    with pytest.raises(DepthwiseError, match=r"dropout=1\.5 must be at least 0 and below 1"):
        narrow(name, dropout=1.5)
    if takes(name, "norm_eps"):
        with pytest.raises(DepthwiseError, match="norm_eps=0 must be above 0 and at most 1"):
            narrow(name, norm_eps=0)
