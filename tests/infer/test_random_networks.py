"""Native plans of random networks, in every precision on every path: what PyTorch answers."""

import random

import pytest
import torch
from tests.conftest import RUNNABLE, using
from tests.infer.random_networks import STEPS, TOLERANCE, Random, assert_as_pytorch, images
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer import compile
from depthwise.infer.answers import WrongAnswerError
from depthwise.infer.graph import Graph
from depthwise.infer.lower import lower

NETWORKS = 60

FINITE = True
"""Whether images hold no NaN and no infinities."""


def graph_of(network: nn.Module, x: Tensor) -> Graph | None:
    try:
        return lower(network, x[:1])
    except DepthwiseError:
        return None


def test_native_plans_of_random_networks() -> None:
    """Traced once, in every precision on every path."""
    start, planned, refused = random.randrange(2**31), 0, 0
    print("seed", start)
    for seed in range(start, start + NETWORKS):
        network, x = Random(seed), images(seed, finite=FINITE)
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
                        compiled = compile(
                            network,
                            x[:1],
                            precision=precision,  # type: ignore[arg-type]
                            calibration=x,
                            engine="native",
                            lower=lambda module, example, graph=graph: graph,
                        )
                    except WrongAnswerError:
                        # Small differences of large values are rounding alone below float32, and refused.
                        assert precision != "fp32", about
                        refused += 1
                        continue
                    assert_as_pytorch(network, compiled, x, precision, about, STEPS[precision])
    assert planned >= NETWORKS / 10
    assert refused <= planned * len(RUNNABLE) / 5
