"""Random networks with in-place operations, views, odd poolings and several results: compiled, they are PyTorch's."""

import random
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from tests.conftest import RUNNABLE, using
from tests.infer.test_compiled import randomise
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer import CompiledModule, compile
from depthwise.infer.engines import usable
from depthwise.infer.graph import Graph
from depthwise.infer.lower import lower

NETWORKS, NETWORKS_AUTO = 60, 4
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "int8": 0.3}
"""Of any value, relative to the largest."""

NON_FINITE = False
"""Whether images hold a NaN and infinities, too."""


class Random(nn.Module):
    """A map through so many random layers, then a random head, all drawn with `seed`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        draw = random.Random(seed)
        self.layers, self.calls = nn.ModuleList(), []
        for _ in range(draw.randint(2, 5)):
            call = draw.choice(LAYERS)
            self.layers.append(nn.ModuleList([nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16)]))
            self.calls.append(call)
        self.stem, self.head, self.tail = nn.Conv2d(3, 16, 3), nn.Linear(16, 5), draw.choice(HEADS)
        self.one = nn.Linear(16, 1)
        randomise(self)

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        for call, (conv, norm) in zip(self.calls, self.layers, strict=True):
            y = call(y, conv, norm)
        return self.tail(self, y)


def _viewed(y: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    z = norm(conv(y))
    v = z.flatten(1)
    z.relu_()
    return v.view(z.shape) + y


def _detached(y: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    z = conv(y)
    z.detach().relu_()
    return norm(z)


def _behind(y: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    z = conv(y)
    z.view(len(z), -1).sigmoid_()
    return z


def _added(y: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    z = F.silu(norm(conv(y)), inplace=True)
    z += y
    return F.hardswish(z, inplace=True)


def _late(y: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    z = conv(y)
    y.relu_()
    return z + y


def _gated(y: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    gate = F.adaptive_avg_pool2d(conv(y), 1).squeeze(-1).squeeze(-1).sigmoid_()
    return norm(y) * gate[:, :, None, None]


def _spelled(y: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    z = norm(conv(y))
    return 1 - z * F.relu6(z + 3) / 6 + 0.5 * y.float()


def _numbered(y: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    z = (conv(y) - norm.running_mean[:, None, None]) / norm.running_var.view(1, -1, 1, 1).sqrt()
    return torch.sub(z.clamp(0, 6), z * torch.sigmoid(z), alpha=0.5)


def _stretched(y: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    gate = 1 - torch.sigmoid(y.flatten(2).mean(-1))
    return F.pad(y * gate[..., None, None].expand_as(y), (0, 1, 0, 1)).clamp_min(0) / 2


def _dilated(y: Tensor, conv: Any, norm: nn.Module) -> Tensor:
    weight = conv.weight / conv.weight.flatten(1).norm(dim=1)[:, None, None, None]
    return y - F.conv2d(y, weight, conv.bias, padding="same", dilation=2)


def _beside(y: Tensor, conv: Any, norm: nn.Module) -> Tensor:
    """A concatenation of 1, 16 and 1 channels."""
    z = torch.cat([y.mean(1, keepdim=True), F.gelu(y), torch.tanh(y).mean(1, keepdim=True)], 1)
    return norm(F.conv2d(z, torch.cat([conv.weight, conv.weight[:, 3:5]], 1), conv.bias, padding=1))


LAYERS: list[Callable[[Tensor, Any, Any], Tensor]] = [
    _viewed,
    _detached,
    _behind,
    _added,
    _late,
    _gated,
    _spelled,
    _numbered,
    _stretched,
    _dilated,
    lambda y, conv, norm: F.max_pool2d(F.relu_(norm(conv(y))), 3, 2, 1, ceil_mode=True),
    lambda y, conv, norm: F.max_pool2d(F.pad(conv(y), (0, 1, 0, 1), value=-torch.inf), 2, 1),
    lambda y, conv, norm: F.avg_pool2d(conv(y), 3, 2, 1, ceil_mode=True),
    lambda y, conv, norm: F.avg_pool2d(conv(y), 3, 2, 1, ceil_mode=True, count_include_pad=False),
    lambda y, conv, norm: F.avg_pool2d(norm(conv(y)), 3, 1, 1, divisor_override=3),
    lambda y, conv, norm: F.avg_pool2d(conv(y), (3, 2), 1, (1, 0)),
    lambda y, conv, norm: F.max_pool2d(conv(y), 3, (1, 2), 1, dilation=(1, 2)),
    lambda y, conv, norm: F.adaptive_avg_pool2d(F.gelu(norm(conv(y))), (y.shape[2] // 2 + 1, 7)),
    lambda y, conv, norm: F.adaptive_max_pool2d(F.elu_(conv(y), 0.5), (9, y.shape[3] - 1)),
    _beside,
    lambda y, conv, norm: F.leaky_relu_(norm(conv(y)), 0.2) + torch.tanh(y),
    lambda y, conv, norm: F.softplus(norm(conv(y)).clamp_(-2, 3)),
    lambda y, conv, norm: norm(conv(y)).flatten(2).relu_().unflatten(2, y.shape[2:]),
]

HEADS: list[Callable[[Any, Tensor], Any]] = [
    lambda net, y: y,
    lambda net, y: y.flatten(1),
    lambda net, y: net.head(y.mean((2, 3))),
    lambda net, y: F.adaptive_avg_pool2d(y, 1).squeeze(),
    lambda net, y: net.one(y.mean((2, 3))).squeeze(1),
    lambda net, y: net.one(y.mean((2, 3))).flatten(),
    lambda net, y: net.head(F.adaptive_avg_pool2d(y, 1).view(-1, 16)),
    lambda net, y: net.head(y.mean((2, 3))).relu_().unsqueeze(1),
    lambda net, y: {"aux": y, "out": net.head(y.mean((2, 3)))},
    lambda net, y: (net.head(y.mean((2, 3))), None),
    lambda net, y: y - y.mean(),
]


def images(seed: int) -> Tensor:
    """[3, 3, h, w] of an odd size."""
    draw = random.Random(seed)
    x = torch.randn(
        3, 3, draw.randint(17, 26), draw.randint(17, 26), generator=torch.Generator().manual_seed(seed)
    )
    if NON_FINITE:
        for value in (torch.nan, torch.inf, -torch.inf):
            x.view(-1)[draw.randrange(x.numel())] = value
    return x


def assert_as_pytorch(network: nn.Module, compiled: nn.Module, x: Tensor, precision: str, about: Any) -> None:
    for part in (x, x[:1], x[1:]):
        with torch.no_grad():
            expected, found = network(part.clone()), compiled(part)
        assert found.shape == expected.shape, about
        finite = expected.isfinite()
        assert torch.equal(found.isfinite(), finite), about
        error = (found - expected)[finite].abs().max()
        assert error <= TOLERANCE[precision] * expected[finite].abs().max(), about


def compiled_or_refused(network: nn.Module, x: Tensor, engine: str) -> CompiledModule | DepthwiseError:
    try:
        return compile(network, x[:1], engine=engine)  # type: ignore[arg-type]
    except DepthwiseError as error:
        return error


def graph_of(network: nn.Module, x: Tensor) -> Graph | None:
    try:
        return lower(network, x[:1])
    except DepthwiseError:
        return None


def test_native_plans_of_random_networks() -> None:
    """Traced once, in every precision on every path."""
    start, planned = random.randrange(2**31), 0
    print("seed", start)
    for seed in range(start, start + NETWORKS):
        network, x = Random(seed), images(seed)
        with torch.no_grad():
            if not isinstance(network(x.clone()), Tensor):
                assert isinstance(compiled_or_refused(network, x, "native"), DepthwiseError), seed
                continue
            graph = graph_of(network, x)
        if graph is None:
            continue
        planned += 1
        for precision in TOLERANCE:
            for path in RUNNABLE:
                about = (seed, precision, path)
                with using(path):
                    compiled = compile(
                        network,
                        x[:1],
                        precision=precision,  # type: ignore[arg-type]
                        calibration=x,
                        engine="native",
                        lower=lambda module, example, graph=graph: graph,
                    )
                    assert_as_pytorch(network, compiled, x, precision, about)
    assert planned >= NETWORKS / 10


def test_random_networks_on_every_engine_installed() -> None:
    start = random.randrange(2**31)
    print("seed", start)
    for seed in range(start, start + NETWORKS_AUTO):
        network, x = Random(seed), images(seed)
        for engine in ("auto", *usable("fp32")):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compiled = compiled_or_refused(network, x, engine)
            if isinstance(compiled, CompiledModule):
                assert_as_pytorch(network, compiled, x, "fp32", (seed, engine))
            else:
                assert engine != "auto" or not isinstance(network(x.clone()), Tensor), seed
