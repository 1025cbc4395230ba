"""Xception against the paper's numbers and against the two implementations people use."""

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from depthwise.errors import DepthwiseError, UsageError
from depthwise.layers import ConvNorm, Residual, SeparableConv2d
from depthwise.models.network import Network
from depthwise.models.xception import xception
from depthwise.weights import LAYOUTS, translate

Randomise = Callable[[nn.Module], None]
Difference = Callable[[Tensor, Tensor], float]


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def small(**arguments: Any) -> Network:
    """A network for 16x16 that runs in milliseconds."""
    arguments = {"num_classes": 10, "in_channels": 1, "width": 0.125, "stem": "small"} | arguments
    torch.manual_seed(0)
    return xception(**arguments)


def units(network: Network) -> list[list[Tensor]]:
    """The tensors of each convolution and its batch norm, in the order of the forward pass, a block's skip last."""
    return [list(m.state_dict().values()) for m in network.modules() if isinstance(m, ConvNorm)]


def test_parameters_are_those_of_table_3() -> None:
    assert count(xception()) == 22_855_952


def test_it_has_36_convolution_layers_in_14_modules() -> None:
    network = xception(width=0.125)
    skips = [m for name, m in network.named_modules() if name.endswith("skip") and isinstance(m, ConvNorm)]
    assert len(units(network)) - len(skips) == 36
    separable = [m for m in network.modules() if isinstance(m, SeparableConv2d)]
    assert len(separable) == 34
    assert sum(isinstance(m, Residual) for m in network.modules()) == 12


def test_maps_at_299_are_those_of_figure_5() -> None:
    network = xception(width=0.125).eval()
    sides = []
    parts = [*network.stages[0], *network.stages[1:]]
    x = torch.randn(1, 3, 299, 299)
    with torch.no_grad():
        for part in parts:
            x = part(x)
            sides.append((x.shape[2], x.shape[3]))
    assert [height for height, _ in sides] == [149, 147, 74, 37, 19, 19, 10]
    assert all(height == width for height, width in sides)


def from_timm(theirs: nn.Module) -> Network:
    weights, arguments = translate(theirs.state_dict(), source="timm", model="xception")
    ours = xception(**arguments)
    ours.load_state_dict(weights)
    return ours


@pytest.fixture(scope="module")
def legacy_xception() -> nn.Module:
    return import_module("timm").create_model("legacy_xception", pretrained=False)


def test_equal_to_timm_feature_by_feature(
    legacy_xception: Any, randomise: Randomise, difference: Difference
) -> None:
    """At the default size and an odd one that leaves even maps too; both pool with symmetric padding."""
    theirs = legacy_xception.eval()
    randomise(theirs)
    ours = from_timm(theirs).eval()
    for size in ((299, 299), (161, 127)):
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert difference(ours(x), theirs(x)) < 1e-4
            features = ours.features(x)
            # Theirs are taken behind the ReLU that begins the next block; their stem is not padded either.
            for (name, feature), expected in zip(
                features.items(), theirs.forward_intermediates(x, intermediates_only=True), strict=True
            ):
                assert difference(feature if name == "stride2" else feature.relu(), expected) < 1e-4


def test_same_padding_is_timm_where_the_maps_are_odd(
    legacy_xception: Any, randomise: Randomise, difference: Difference
) -> None:
    """At these sizes every strided pooling sees an odd map, where TensorFlow's padding is (1, 1) as well."""
    theirs = legacy_xception.eval()
    randomise(theirs)
    weights, arguments = translate(theirs.state_dict(), source="timm", model="xception")
    ours = xception(**{**arguments, "padding": "same"}).eval()
    ours.load_state_dict(weights)
    for size in ((71, 71), (71, 103)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            assert difference(ours(x), theirs(x)) < 1e-4


def test_gradients_agree_with_timm(
    legacy_xception: Any, randomise: Randomise, difference: Difference
) -> None:
    """In training mode, where dropout is 0 on both sides; float64 keeps the kinks of ReLU and pooling in place.

    The weights are drawn in float32, which an imported network has, so that both sides have the very same.
    """
    theirs = legacy_xception.train().float()
    randomise(theirs)
    ours = from_timm(theirs).train().double()
    theirs.double()
    names = LAYOUTS["timm"]["legacy_xception"].translate(theirs.state_dict()).names
    x, target = torch.randn(4, 3, 75, 91, dtype=torch.float64), torch.arange(4)
    losses = []
    for network in (ours, theirs):
        network.zero_grad()
        losses.append(nn.functional.cross_entropy(network(x), target))
        losses[-1].backward()
    torch.testing.assert_close(*losses)
    compared = 0
    for name, parameter in ours.named_parameters():
        module, _, leaf = name.rpartition(".")
        expected = theirs.get_submodule(names[module]).get_parameter(leaf)
        assert difference(parameter.grad, expected.grad) < 1e-9, name
        compared += parameter.numel()
    assert compared == 22_855_952
    legacy_xception.float()


def test_equal_to_keras_at_299(
    monkeypatch: pytest.MonkeyPatch, randomise: Randomise, difference: Difference
) -> None:
    """At 299 the maps of 74 pixels need TensorFlow's SAME, (0, 1)."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = import_module("keras")
    theirs = keras.applications.Xception(weights=None, classifier_activation=None)
    ours = xception().eval()
    randomise(ours)
    for source, (conv, norm) in zip(units(ours), keras_units(theirs, keras), strict=True):
        *kernels, gamma, beta, mean, variance, _ = [tensor.numpy() for tensor in source]
        # Keras has (height, width, in, out), and (height, width, channels, 1) for a depthwise kernel.
        depthwise = isinstance(conv, keras.layers.SeparableConv2D)
        axes = [(2, 3, 0, 1), (2, 3, 1, 0)] if depthwise else [(2, 3, 1, 0)]
        conv.set_weights([kernel.transpose(axis) for kernel, axis in zip(kernels, axes, strict=True)])
        norm.set_weights([gamma, beta, mean, variance])
    weight, bias = (p.detach().numpy() for p in ours.classifier.parameters())
    theirs.get_layer("predictions").set_weights([weight.T, bias])
    assert sum(w.numel() for w in map(keras.ops.convert_to_tensor, theirs.trainable_weights)) == count(ours)

    x = torch.randn(1, 3, 299, 299)
    with torch.no_grad():
        expected = theirs(x.permute(0, 2, 3, 1), training=False)
        assert difference(ours(x), expected.cpu()) < 1e-4


def keras_units(network: Any, keras: Any) -> Iterator[tuple[Any, Any]]:
    # The skips have numbered names; their widths tell them apart.
    skips = {
        layer.filters: layer
        for layer in network.layers
        if isinstance(layer, keras.layers.Conv2D) and not layer.name.startswith("block")
    }
    for block in range(1, 15):
        kind = "conv" if block == 1 else "sepconv"
        for i in range(1, 4 if 5 <= block <= 12 else 3):
            name = f"block{block}_{kind}{i}"
            yield network.get_layer(name), network.get_layer(f"{name}_bn")
        width = {2: 128, 3: 256, 4: 728, 13: 1024}.get(block)
        if width is not None:
            (node,) = skips[width]._outbound_nodes
            yield skips[width], node.operation


def test_min_size_is_the_one_keras_documents() -> None:
    network = xception(width=0.125)
    assert network.min_size == 71
    with pytest.raises(
        DepthwiseError, match=re.escape("an image of 70x71 is below this network's minimum of 71x71")
    ):
        network(torch.zeros(1, 3, 70, 71))


@pytest.mark.parametrize("entry", [(8,), (8, 16), (8, 16, 16, 16)])
def test_min_size_follows_the_depth(entry: tuple[int, ...]) -> None:
    assert small(entry=entry).min_size == 2 ** (len(entry) + 1)
    network = small(in_channels=3, stem="imagenet", entry=entry, middle=(), exit=(8, 16)).eval()
    with torch.no_grad():
        for side, last in ((network.min_size - 1, 2), (network.min_size, 3)):
            assert network.stages(torch.zeros(1, 3, side, side)).shape[2] == last


def test_depth_and_width_are_data() -> None:
    network = small(width=1, entry=[16, 24], middle=(40,) * 4, exit=(48,))
    assert len(network.stages.middle) == 4
    assert network.classifier.in_features == 48
    assert network(torch.randn(2, 1, 9, 8)).shape == (2, 10)
    quarter = xception(1000, width=0.25)
    assert quarter.classifier.in_features == 512
    assert count(quarter) < 22_855_952 / 10


def test_convolution_and_residuals_are_injected() -> None:
    def regular(in_channels: int, out_channels: int, kernel_size: int) -> nn.Module:
        return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)

    network = small(conv=regular)
    assert not any(isinstance(module, SeparableConv2d) for module in network.modules())
    assert network(torch.randn(2, 1, 16, 16)).shape == (2, 10)

    plain = small(residual=False)
    assert count(small()) - count(plain) == sum(
        p.numel() for name, p in small().named_parameters() if ".skip." in name
    )
    assert plain(torch.randn(2, 1, 16, 16)).shape == (2, 10)


def test_fully_connected_layers_stand_before_the_classifier() -> None:
    """Two of 4096 (Chollet 2017, Table 2): 2048 -> 4096 -> 4096 -> classes, each with its bias."""
    with torch.device("meta"):
        network = xception(fully_connected=(4096, 4096))
    assert network.num_features == network.classifier.in_features == 4096
    assert count(network) - 22_855_952 == (2048 + 1) * 4096 + (4096 + 1) * 4096 + (4096 - 2048) * 1000

    network = small(width=1, entry=(16,), middle=(), exit=(24, 32), fully_connected=(64, 48))
    network.eval()
    x = torch.randn(2, 1, 16, 16)
    features = network.stages(x).mean((2, 3))
    for layer in (network.neck[1], network.neck[3]):
        features = nn.functional.relu(nn.functional.linear(features, layer.weight, layer.bias))
        # He normal, as the convolutions: twice the mean of the squares goes on to the next.
        assert layer.weight.std().item() == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.1)
    torch.testing.assert_close(network.pooled(x), features)
    torch.testing.assert_close(network(x), network.classifier(features))
    assert small(fully_connected=(4096,)).classifier.in_features == 512  # width scales it as well


def test_bfloat16_channels_last_agrees_with_float32() -> None:
    """The path of training on a CPU, which runs the pointwise convolutions as linear layers."""
    network = small(width=0.25)
    x, target = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    losses, gradients = [], []
    for enabled in (False, True):
        network.zero_grad()
        batch = x.contiguous(memory_format=torch.channels_last) if enabled else x
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = nn.functional.cross_entropy(network(batch), target)
        loss.backward()
        losses.append(loss.item())
        gradients.append(network.classifier.weight.grad.clone())
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert torch.cosine_similarity(*(g.flatten() for g in gradients), dim=0) > 0.98


def test_errors_name_the_value() -> None:
    with pytest.raises(DepthwiseError, match=re.escape("exit=() must hold 1 to 256 values")):
        small(exit=())
    with pytest.raises(DepthwiseError, match=re.escape("entry=(0,): 0 must be at least 1")):
        small(entry=(0,))
    with pytest.raises(UsageError, match=re.escape("unknown stem 'tiny': use one of imagenet, small")):
        small(stem="tiny")
    with pytest.raises(
        DepthwiseError, match=re.escape("[2, 3, 16, 16] does not fit this network's [N, 1, H, W]")
    ):
        small()(torch.zeros(2, 3, 16, 16))
