"""Whatever operator a network uses, it has a plan that answers as PyTorch or is refused in a sentence."""

import random
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from tests.infer.test_answers import IMAGES, Network
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.infer import compile

USES = 200
TRIED = 100 * USES
TOLERANCE = 1e-4
"""Of any value, relative to the largest."""

UNFIT = (
    "backward", "requires_grad_", "retain_grad", "register_hook", "share_memory_", "pin_memory", "cuda", "set_",
    "resize_", "apply_", "map_", "map2_", "module_load", "storage", "untyped_storage", "record_stream",
)  # fmt: skip
"""What is no operator of tensors."""


def operators() -> list[Callable[..., Any]]:
    """All methods of tensors and all functions of networks, in the order of their names."""
    methods = [getattr(Tensor, name) for name in sorted(dir(Tensor)) if name[0] != "_" and name not in UNFIT]
    functions = [getattr(F, name) for name in sorted(dir(F)) if name[0] != "_" and name[0].islower()]
    return [operator for operator in methods + functions if callable(operator)]


def argument(draw: random.Random, y: Tensor) -> Any:
    """A number, an axis, a shape, or tensors that fit, nearly."""
    kind = draw.randrange(8)
    if kind == 0:
        return draw.choice([0, 1, 2, 3, -1, 16])
    if kind == 1:
        return draw.choice([0.0, 0.5, 1.0, -2.0, 6.0, True, False, None])
    if kind == 2:
        return [draw.choice([0, 1, 2, 3, -1]) for _ in range(draw.randint(1, 4))]
    if kind == 3:
        return draw.choice([[*y.shape], [len(y), -1], [len(y), 16, -1], [-1, 16], [0, 2, 3, 1], [1, 1, 1, 1]])
    if kind == 4:
        return y
    if kind == 5:
        return y.mean((2, 3), keepdim=draw.random() < 0.5)
    shape = draw.choice(
        [[], [1], [16], [8], [16, 1, 1], [1, 16, 1, 1], [8, 8], [16, 16, 1, 1], [16, 1, 3, 3], [5, 16]]
    )
    return torch.ones(shape) * draw.choice([0.5, 2.0])


def use(seed: int) -> Callable[[Any, Tensor], Any]:
    """A network that uses an operator drawn with `seed` on a map, and goes on with what it gives, if that can be."""

    def call(network: Any, x: Tensor) -> Any:
        draw = random.Random(seed)
        y = network.first(x)
        operator = draw.choice(OPERATORS)
        z = operator(y, *(argument(draw, y) for _ in range(draw.choice([0, 0, 1, 1, 2, 3]))))
        if draw.random() < 0.5 and isinstance(z, Tensor) and z.shape == y.shape and z.dtype == y.dtype:
            z = network.second(z)
        return z

    return call


OPERATORS = operators()


def runs(network: Network) -> bool:
    """Whether PyTorch gives some tensor of numbers for it, the same each time, for any number of images."""
    try:
        with torch.no_grad():
            first, second, *_ = (network(IMAGES[:count].clone()) for count in (2, 2, 1, len(IMAGES)))
    except Exception:
        return False
    if not isinstance(first, Tensor) or first.dtype != torch.float32:
        return False
    return first.layout != torch.strided or torch.equal(first, second)


def test_odd_uses_of_all_operators(fuzz_seed: int) -> None:
    found, planned = 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(fuzz_seed * TRIED, (fuzz_seed + 1) * TRIED):
            network = Network(use(seed))
            if not runs(network):
                continue
            found += 1
            planned += planned_or_refused(network, seed)
            if found == USES:
                break
    assert found == USES
    assert planned >= USES / 20


def planned_or_refused(network: Network, seed: int) -> bool:
    refused = ""
    try:
        compiled = compile(network, IMAGES[:2], engine="native")
    except DepthwiseError as error:
        refused = str(error)
    if refused:
        assert "\n" not in refused, seed
        return False
    for x in (IMAGES[:1], IMAGES):
        with torch.no_grad():
            expected, result = network(x.clone()), compiled(x)
        assert result.shape == expected.shape, seed
        assert float((result - expected).abs().max()) <= TOLERANCE * float(expected.abs().max()), seed
    return True
