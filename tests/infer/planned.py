"""What tests of operators stand on: a plan of any network, in every precision on every path, against PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tests.conftest import RUNNABLE, using
from torch import Tensor, nn

from depthwise.infer import compile
from depthwise.infer.choice import CompiledModule
from depthwise.infer.graph import Graph
from depthwise.infer.lower import lower

TOLERANCE = {"fp32": 1e-5, "bf16": 3e-2, "int8": 1e-1}
"""Of any value, relative to the largest."""


class Calls(nn.Module):
    """`forward` with the parts as further arguments."""

    def __init__(self, forward: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.call, self.parts = forward, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, *self.parts)


def conv(inputs: int, outputs: int, kernel: int = 3, **arguments: Any) -> nn.Conv2d:
    """One that keeps a map's size."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **arguments)


def compiled_from(graph: Graph, network: nn.Module, x: Tensor, precision: str) -> CompiledModule:
    """The native plan of `network`, which was lowered to `graph` before, for images like `x`."""
    return compile(
        network,
        x[:1],
        precision=precision,  # type: ignore[arg-type]
        calibration=x,
        engine="native",
        lower=lambda module, example: graph,
    )


def assert_planned(
    network: nn.Module,
    x: Tensor,
    tolerance: Mapping[str, float] = TOLERANCE,
    *,
    threads: int = 1,
    products: int | None = None,
) -> None:
    """The plan of `network` says of `x`, and of part of it, what PyTorch does in float64.

    Lowered once, planned in every precision on every path. products: the number of int8 products.
    """
    network.eval()
    with torch.no_grad():
        expected = network.double()(x.double()).float()
        network.float()
    graph, before = lower(network, x[:1]), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for precision, most in tolerance.items():
            for path in RUNNABLE:
                with using(path):
                    compiled = compiled_from(graph, network, x, precision)
                    for part, wanted in ((x, expected), (x[1:], expected[1:])):
                        y = compiled(part)
                        assert y.shape == wanted.shape, (precision, path)
                        error = float((y - wanted).abs().max() / expected.abs().max())
                        assert error <= most, (precision, path, error)
                    if precision == "int8" and products is not None:
                        layout = compiled.plan.layout
                        rounded = [step for step in layout.steps if layout.roundings_of(step)[0]]
                        assert len(rounded) == products, (path, len(rounded))
    finally:
        torch.set_num_threads(before)
