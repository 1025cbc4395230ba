"""BN-Inception against the public Caffe model's count and a plain restatement of its layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.analysis.cost import cost, multiply_adds
from depthwise.layers import ConvNorm
from depthwise.models.inception_v2 import inception_v2

# The layers of an inception module under the names of the Caffe model, and what each branch runs.
BRANCHES = {
    "3a": ("1x1", "3x3", "double_3x3", "avg"),
    "3b": ("1x1", "3x3", "double_3x3", "avg"),
    "3c": ("3x3", "double_3x3", "pass"),
    "4a": ("1x1", "3x3", "double_3x3", "avg"),
    "4b": ("1x1", "3x3", "double_3x3", "avg"),
    "4c": ("1x1", "3x3", "double_3x3", "avg"),
    "4d": ("1x1", "3x3", "double_3x3", "avg"),
    "4e": ("3x3", "double_3x3", "pass"),
    "5a": ("1x1", "3x3", "double_3x3", "avg"),
    "5b": ("1x1", "3x3", "double_3x3", "max"),
}


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def caffe(units: list[ConvNorm], classifier: nn.Linear, x: Tensor) -> Tensor:
    """The Caffe model's logits; `units` hold its layers' tensors in the order of its file."""
    layers = iter(units)

    def conv(x: Tensor, stride: int = 1) -> Tensor:
        unit = next(layers)
        weight, norm = unit.conv.weight, unit.norm
        x = F.conv2d(x, weight, unit.conv.bias, stride, weight.shape[-1] // 2)
        x = (x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + 1e-5).sqrt()
        return (x * norm.weight[:, None, None] + norm.bias[:, None, None]).relu()

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    x = pool(conv(x, 2))
    x = pool(conv(conv(x)))
    for branches in BRANCHES.values():
        stride = 2 if "pass" in branches else 1
        outputs = []
        for branch in branches:
            match branch:
                case "1x1":
                    outputs.append(conv(x))
                case "3x3":
                    outputs.append(conv(conv(x), stride))
                case "double_3x3":
                    outputs.append(conv(conv(conv(x)), stride))
                case "avg":
                    outputs.append(conv(F.avg_pool2d(x, 3, 1, 1)))
                case "max":
                    outputs.append(conv(F.max_pool2d(x, 3, 1, 1)))
                case "pass":
                    outputs.append(pool(x))
        x = torch.cat(outputs, 1)
    assert next(layers, None) is None
    return F.linear(x.mean((2, 3)), classifier.weight, classifier.bias)


def caffe_tower(tower: Any, grid: int, x: Tensor) -> Tensor:
    """The auxiliary logits of lim0606's train_val.prototxt for a map `x`, by the tensors of `tower`."""

    def norm(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
        return F.batch_norm(x, None, None, layer.weight, layer.bias, training=True, eps=layer.eps).relu()

    first, second = tower.features
    x = F.avg_pool2d(x, 5, 3, ceil_mode=True)
    assert x.shape[2:] == (grid, grid)
    x = norm(F.conv2d(x, first.conv.weight), first.norm)
    # Caffe flattens a blob as PyTorch does, channel by channel, and multiplies by one row for each of the 1024.
    x = norm(F.linear(x.flatten(1), second.conv.weight.flatten(1)), second.norm)
    return F.linear(x, tower.classifier.weight, tower.classifier.bias)


def test_parameters_with_biases_are_the_caffe_models() -> None:
    with torch.device("meta"):
        assert count(inception_v2(bias=True)) == 11_295_240
        network = inception_v2()
        norms = sum(m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d))
        assert count(network) == 11_295_240 - norms == 11_285_224
        towers = inception_v2(aux=True)
        assert count(towers) == 16_170_168
        assert [count(tower) for tower in towers.aux.values()] == [
            128 * (channels + 2) + 1024 * (128 * grid * grid + 2) + 1000 * (1024 + 1)
            for channels, grid in ((576, 4), (1056, 2))
        ]
        shared = {name: tensor.shape for name, tensor in towers.state_dict().items() if name[:4] != "aux."}
        assert shared == {name: tensor.shape for name, tensor in network.state_dict().items()}


def test_work_is_2_03_gmac_and_2_05_with_all_else() -> None:
    with torch.device("meta"):
        network = inception_v2()
        macs = multiply_adds(network, (3, 224, 224))
    assert macs == pytest.approx(2.03e9, rel=0.005)
    kinds = {"regular", "pointwise"}
    outputs = sum(
        torch.Size(layer.output_shape).numel()
        for layer in cost(network.to_empty(device="meta"), (3, 224, 224)).layers
        if layer.kind in kinds
    )
    # A bias and a ReLU count one an output, batch norm two.
    assert macs + 4 * outputs == pytest.approx(2.05e9, rel=0.002)


def test_equal_to_the_caffe_model(
    randomise: Callable[[nn.Module], None], difference: Callable[[Tensor, Tensor], float]
) -> None:
    ours = inception_v2(bias=True, norm_eps=1e-5).eval()
    randomise(ours)
    units = [module for module in ours.modules() if isinstance(module, ConvNorm)]
    with torch.no_grad():
        for unit in units:
            unit.conv.bias.normal_(0, 0.1)
        # At 225 and 161 the poolings of the stem leave a row out; every module of stride 2 has an even map.
        for size in ((224, 224), (225, 161)):
            x = torch.randn(2, 3, *size)
            assert difference(ours(x), caffe(units, ours.classifier, x)) < 1e-4


def test_auxiliary_towers_are_those_of_the_caffe_training(
    randomise: Callable[[nn.Module], None], difference: Callable[[Tensor, Tensor], float]
) -> None:
    ours = inception_v2(40, width=0.25, aux=True)
    randomise(ours)
    seen: dict[str, Tensor] = {}
    for name in ("stages.mixed4.0", "stages.mixed5.0", "stages.mixed4", "stages.mixed5"):
        ours.get_submodule(name).register_forward_hook(lambda _, __, y, name=name: seen.update({name: y}))
    x = torch.randn(4, 3, 224, 224)
    for layout in (torch.contiguous_format, torch.channels_last):
        seen.clear()
        logits, behind_3c, behind_4e = ours(x.contiguous(memory_format=layout))
        # Whoever watches a stage or a part of it sees what it puts out, once.
        assert [list(y.shape[2:]) for y in seen.values()] == [[14, 14], [14, 14], [7, 7], [7, 7]]
        for stage, tower, grid, found in (
            ("mixed4", "mixed3c", 4, behind_3c),
            ("mixed5", "mixed4e", 2, behind_4e),
        ):
            expected = caffe_tower(ours.aux[tower], grid, seen[f"stages.{stage}.0"])
            assert difference(found.detach(), expected.detach()) < 1e-4
        expected = ours.classifier(seen["stages.mixed5"].mean((2, 3)))
        assert difference(logits.detach(), expected.detach()) < 1e-5


def test_the_towers_change_nothing_else() -> None:
    with_towers = inception_v2(10, 1, width=0.25, stem="small", aux=True).eval()
    plain = inception_v2(10, 1, width=0.25, stem="small").eval()
    state = with_towers.state_dict()
    plain.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("aux.")})
    x = torch.randn(4, 1, 24, 29).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(with_towers(x), plain(x))
        assert torch.equal(with_towers.pooled(x), plain.pooled(x))
        assert torch.equal(with_towers.stages(x), plain.stages(x))
        assert all(torch.equal(one, plain.features(x)[key]) for key, one in with_towers.features(x).items())
    assert torch.equal(with_towers.train()(x)[0], plain.train()(x))


def test_the_papers_first_convolution_is_separable() -> None:
    with torch.device("meta"):
        network = inception_v2(separable=True)
        depthwise, pointwise = network.stages.stem1
        assert depthwise.weight.shape == (24, 1, 7, 7)
        assert pointwise.conv.weight.shape == (64, 24, 1, 1)
        saved = multiply_adds(inception_v2(), (3, 224, 224)) - multiply_adds(network, (3, 224, 224))
    assert saved == 112 * 112 * (7 * 7 * 3 * 64 - (7 * 7 * 24 + 24 * 64))
    network = inception_v2(10, 1, width=0.25, stem="small", separable=True)
    network(torch.randn(4, 1, 24, 24)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


def test_padding_and_pooling_are_arguments() -> None:
    with torch.no_grad():
        for padding, sides in (("same", (5, 4)), ("symmetric", (4, 3))):
            network = inception_v2(width=0.125, padding=padding).eval()
            assert network.stages(torch.randn(1, 3, 129, 97)).shape[2:] == sides
    pools = [m for m in inception_v2(count_padding=False).modules() if isinstance(m, nn.AvgPool2d)]
    assert len(pools) == 7
    assert not any(pool.count_include_pad for pool in pools)
