"""Inception-ResNet V2 against timm's, whose weights are the TensorFlow release's."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from depthwise.analysis.cost import multiply_adds
from depthwise.layers import Residual
from depthwise.models.inception_resnet_v2 import inception_resnet_v2
from depthwise.weights import translate


def test_parameters_and_work() -> None:
    with torch.device("meta"):
        network = inception_resnet_v2()
        assert sum(p.numel() for p in network.parameters()) == 55_843_464
        assert multiply_adds(network, (3, 299, 299)) == 13_155_794_016


def test_equal_to_timm(
    randomise: Callable[[nn.Module], None], difference: Callable[[Tensor, Tensor], float]
) -> None:
    import timm

    theirs = timm.create_model("inception_resnet_v2", pretrained=False).eval()
    randomise(theirs)
    weights, arguments = translate(theirs.state_dict(), "timm", "inception_resnet_v2")
    with torch.device("meta"):
        ours = inception_resnet_v2(**arguments).eval()
    ours.load_state_dict(weights, assign=True)
    with torch.no_grad():
        for size in ((299, 299), (139, 171)):
            x = torch.randn(1, 3, *size)
            assert difference(ours(x), theirs(x)) < 1e-4


def test_residuals_are_scaled_down_but_the_last() -> None:
    with torch.device("meta"):
        network = inception_resnet_v2(width=0.125)
    residuals = [module for module in network.modules() if isinstance(module, Residual)]
    assert [r.scale for r in residuals] == [0.17] * 10 + [0.1] * 20 + [0.2] * 9 + [1.0]
    assert [isinstance(r.activation, nn.ReLU) for r in residuals] == [True] * 39 + [False]
    assert all(r.body[1].bias is not None for r in residuals)
