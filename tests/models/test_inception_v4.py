"""Inception V4 against timm's, whose weights are the TensorFlow release's."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from depthwise.analysis.cost import multiply_adds
from depthwise.models.inception_v4 import inception_v4
from depthwise.weights import translate


def test_parameters_and_work() -> None:
    with torch.device("meta"):
        network = inception_v4()
        assert sum(p.numel() for p in network.parameters()) == 42_679_816
        assert multiply_adds(network, (3, 299, 299)) == 12_253_974_624


def test_equal_to_timm(
    randomise: Callable[[nn.Module], None], difference: Callable[[Tensor, Tensor], float]
) -> None:
    import timm

    theirs = timm.create_model("inception_v4", pretrained=False).eval()
    randomise(theirs)
    weights, arguments = translate(theirs.state_dict(), "timm", "inception_v4")
    with torch.device("meta"):
        ours = inception_v4(**arguments).eval()
    ours.load_state_dict(weights, assign=True)
    with torch.no_grad():
        for size in ((299, 299), (139, 171)):
            x = torch.randn(1, 3, *size)
            assert difference(ours(x), theirs(x)) < 1e-4
