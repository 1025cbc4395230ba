"""Native plans of random networks, in every precision on every path: what PyTorch answers.

Of images with a NaN and infinities in them, too.
"""

import random
from typing import Any

import pytest
import torch
from tests.conftest import RUNNABLE, using
from tests.infer.planned import compiled_from
from tests.infer.random_networks import STEPS, TOLERANCE, Random, assert_as_pytorch, images
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer import compile
from depthwise.infer.answers import WrongAnswerError
from depthwise.infer.graph import Graph
from depthwise.infer.lower import lower

NETWORKS = 40


def graph_of(network: nn.Module, x: Tensor) -> Graph | None:
    try:
        return lower(network, x[:1])
    except DepthwiseError:
        return None


def poisoned(x: Tensor, seed: int) -> list[Tensor]:
    """`x` with a NaN, or with one of the infinities, at some place of its second image, and all over the last."""
    draw = random.Random(seed)
    made = []
    for value in (torch.nan, torch.inf, -torch.inf):
        y = x.clone()
        y[1].view(-1)[draw.randrange(x[1].numel())] = value
        y[2] = value
        made.append(y)
    return made


def assert_not_finite_as_pytorch(network: nn.Module, compiled: nn.Module, x: Tensor, about: Any) -> None:
    with torch.no_grad():
        expected, found = network(x.clone()), compiled(x)
    for value in (torch.nan, torch.inf, -torch.inf):
        at, wanted = (torch.isclose(y, torch.tensor(value), equal_nan=True) for y in (found, expected))
        assert torch.equal(at, wanted), about


def test_native_plans_of_random_networks(fuzz_seed: int) -> None:
    """Traced once, in every precision on every path."""
    planned, refused = 0, 0
    for seed in range(fuzz_seed, fuzz_seed + NETWORKS):
        network, x = Random(seed), images(seed)
        with torch.no_grad():
            if not isinstance(network(x.clone()), Tensor):
                with pytest.raises(DepthwiseError):
                    compile(network, x[:1], engine="native")
                continue
            graph = graph_of(network, x)
        if graph is None:
            continue
        planned += 1
        for precision in TOLERANCE:
            for path in RUNNABLE:
                about = (seed, precision, path)
                with using(path):
                    try:
                        compiled = compiled_from(graph, network, x, precision)
                    except WrongAnswerError:
                        # Small differences of large values are rounding alone below float32, and refused.
                        assert precision != "fp32", about
                        refused += 1
                        continue
                    assert_as_pytorch(network, compiled, x, precision, about, STEPS[precision])
                    for y in poisoned(x, seed):
                        assert_not_finite_as_pytorch(network, compiled, y, about)
    assert planned >= NETWORKS / 10
    assert refused <= planned * len(RUNNABLE) / 5
