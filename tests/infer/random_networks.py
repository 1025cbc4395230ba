"""Random networks with in-place operations, views, odd poolings and several results, each drawn with a seed."""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tests.infer.test_compiled import randomise
from torch import Tensor, nn

TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "int8": 0.3}
"""Of any value, relative to the largest."""

STEPS = {"fp32": 1e-6, "bf16": 2**-8, "int8": 2**-7}
"""How far a precision rounds, of the largest value."""


Layer = Callable[[Tensor, Any, Any], Tensor]
"""(map of 16 channels, a convolution, a batch norm) -> map of 16 channels."""


class Random(nn.Module):
    """A number of random layers, then a random head, all drawn with `seed`; LAYERS are those with a plan."""

    def __init__(self, seed: int, layers: Sequence[Layer] | None = None) -> None:
        super().__init__()
        torch.manual_seed(seed)
        draw = random.Random(seed)
        self.layers, self.calls = nn.ModuleList(), []
        for _ in range(draw.randint(2, 5)):
            call = draw.choice(layers or LAYERS)
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


def _after(y: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
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


LAYERS: list[Layer] = [
    _viewed,
    _detached,
    _after,
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


def _shuffled(y: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    z = conv(y).unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)
    z[:, ::2] *= 2
    return norm(z)


def _attended(y: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    keys = conv(y).flatten(2)
    weights = (keys @ keys.transpose(1, 2) / keys.shape[-1]).softmax(-1)
    return (weights @ y.flatten(2)).view_as(y)


def _normed(y: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    return F.gelu(F.layer_norm(conv(y).permute(0, 2, 3, 1), (16,)).permute(0, 3, 1, 2))


def _masked(y: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    z = conv(y)
    # Without a jump, which rounding could go over.
    return torch.where(z > 0, z, 0.2 * z) + norm(y.masked_fill(y < 0, 0))


ODD: list[Layer] = [
    _shuffled,
    _attended,
    _normed,
    _masked,
    lambda y, conv, norm: F.max_pool2d(conv(y), (2, 3), (1, 2), (1, 1), ceil_mode=True),
    lambda y, conv, norm: F.max_pool2d(norm(y), 2, 1, dilation=2, padding=1),
    lambda y, conv, norm: F.avg_pool2d(conv(y), 2, 2, 1, ceil_mode=True, divisor_override=5),
    lambda y, conv, norm: F.avg_pool2d(y, (3, 2), (2, 1), (1, 1), ceil_mode=True, count_include_pad=False),
    lambda y, conv, norm: F.adaptive_avg_pool2d(conv(y), (7, 5)),
    lambda y, conv, norm: F.adaptive_max_pool2d(conv(y), (5, 7)),
    lambda y, conv, norm: F.lp_pool2d(y.abs(), 2, 2, 1) if min(y.shape[2:]) > 1 else y,
    lambda y, conv, norm: F.interpolate(conv(y), scale_factor=2, mode="bilinear", align_corners=False),
    lambda y, conv, norm: F.interpolate(norm(y), size=(6, 5)),
    lambda y, conv, norm: F.pad(conv(y), (1, 0, 0, 1), mode="replicate"),
    lambda y, conv, norm: norm(torch.cat([conv(y)[:, 5:], y[:, :5]], 1)).roll(1, 3),
    lambda y, conv, norm: F.group_norm(conv(y), 4).clamp_(-1, 2).flip(2),
    lambda y, conv, norm: F.softmax(conv(y), 1) * y.amax((2, 3), keepdim=True),
    lambda y, conv, norm: conv(y).cumsum(3) / 8 + y.sort(2).values,
    lambda y, conv, norm: F.leaky_relu_(norm(conv(y)), 0.3).std((2, 3), keepdim=True, correction=0) + y,
]
"""What has a plan in part, or none."""

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


def images(seed: int, *, finite: bool = True) -> Tensor:
    """[3, 3, h, w] of an odd size; unless `finite` with a NaN and infinities in them."""
    draw = random.Random(seed)
    x = torch.randn(
        3, 3, draw.randint(17, 26), draw.randint(17, 26), generator=torch.Generator().manual_seed(seed)
    )
    if not finite:
        for value in (torch.nan, torch.inf, -torch.inf):
            x.view(-1)[draw.randrange(x.numel())] = value
    return x


def assert_as_pytorch(
    network: nn.Module, compiled: nn.Module, x: Tensor, precision: str, about: Any, step: float = 0.0
) -> None:
    """Fail unless both give the same of several batches of `x`, NaN and infinities too.

    A network that magnifies differences, or ends in small ones of large values, may be off by ten times what changes of
    its images and weights by `step` make.
    """
    for part in (x, x[:1], x[1:]):
        with torch.no_grad():
            expected, found = network(part.clone()), compiled(part)
        assert found.shape == expected.shape, about
        finite = expected.isfinite()
        for value in (torch.nan, torch.inf, -torch.inf):
            at, wanted = (torch.isclose(y, torch.tensor(value), equal_nan=True) for y in (found, expected))
            assert torch.equal(at, wanted), about
        if not finite.any():
            continue
        error, most = (found - expected)[finite].abs().max(), expected[finite].abs().max()
        if step and error > TOLERANCE[precision] * most:
            moved = [(y - expected)[finite].abs().max() for y in _changed(network, part, step)]
            assert error <= 10 * max(moved), about
        else:
            assert error <= TOLERANCE[precision] * most, about


def _changed(network: nn.Module, x: Tensor, step: float, draws: int = 5) -> Iterator[Tensor]:
    """Its results with weights, and of images, that are moved by `step`; a single draw may happen to change little."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        changed = copy.deepcopy(network)
        with torch.no_grad():
            for parameter in changed.parameters():
                parameter *= 1 + step * torch.randn(parameter.shape, generator=generator)
            yield changed(x.clone())
            yield network(x + step * x.abs().max() * torch.randn(x.shape, generator=generator))
