"""What networks spell in other ways has the plan of the plain way, and answers as PyTorch in every precision."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.infer.planned import compiled_from
from tests.infer.test_answers import IMAGES, Network
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer import compile
from depthwise.infer.graph import Graph
from depthwise.infer.lower import lower

TOLERANCE = {"fp32": 1e-5, "bf16": 3e-2, "int8": 0.3}
"""Of any value, relative to the largest: the first two as test_compiled has them."""


class Spelled(Network):
    """With parameters and buffers to be used in odd ways."""

    def __init__(self, call: Callable[[Any, Tensor], Any]) -> None:
        super().__init__(call)
        self.mask, self.scale = nn.Parameter(torch.rand(16, 1, 1, 1)), nn.Parameter(torch.rand(16) + 0.5)
        self.register_buffer("mean", torch.rand(3, 1, 1))
        self.register_buffer("std", torch.rand(1, 3, 1, 1) + 0.5)
        self.register_buffer("two", torch.tensor(2.0))
        self.plain = torch.tensor([0.5, 0.4, 0.3])
        self.eval()

    def y(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x))


def kinds(graph: Graph) -> list[str]:
    """Of its operations; of an activation which."""
    return [getattr(made, "kind", type(made).__name__.lower()) for made in graph.operations[1:]]


def assert_planned(network: nn.Module, x: Tensor = IMAGES) -> Graph:
    """It has a plan whose answers are PyTorch's, traced once for all precisions."""
    with torch.no_grad():
        graph = lower(network, x[:1])
        expected = [network(part.clone()) for part in (x, x[:1])]
    for precision in TOLERANCE:
        compiled = compiled_from(graph, network, x, precision)
        assert compiled.engine == "native"
        for part, wanted in zip((x, x[:1]), expected, strict=True):
            found = compiled(part)
            assert found.shape == wanted.shape
            assert float((found - wanted).abs().max()) <= TOLERANCE[precision] * float(wanted.abs().max())
    return graph


def twice(function: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """`function` between two convolutions, so that bytes have something to do."""
    return lambda n, x: n.second(function(n.y(x)))


ACTIVATIONS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "clamp(0, 6)": ("relu6", lambda y: y.clamp(0, 6)),
    "clamp(0.0, 6.0), in place": ("relu6", lambda y: y.clamp_(0.0, 6.0)),
    "clip": ("relu6", lambda y: torch.clip(y, 0, 6)),
    "hardtanh": ("relu6", lambda y: F.hardtanh(y, 0, 6)),
    "clamp_min, clamp_max": ("relu6", lambda y: y.clamp_min(0).clamp_max(6)),
    "relu, minimum": ("relu6", lambda y: torch.minimum(y.relu(), torch.tensor(6.0))),
    "clamp_min(0)": ("relu", lambda y: y.clamp_min(0)),
    "clamp(min=0)": ("relu", lambda y: y.clamp(min=0)),
    "clamp(tensor)": ("relu", lambda y: y.clamp(min=torch.zeros(()))),
    "maximum": ("relu", lambda y: torch.maximum(torch.tensor(0.0), y)),
    "maximum, zeros": ("relu", lambda y: torch.max(y, torch.zeros(1))),
    "threshold": ("relu", lambda y: F.threshold(y, 0, 0)),
    "relu of relu6": ("relu6", lambda y: F.relu(F.relu6(y)).clamp(0, 8)),
    "x * sigmoid(x)": ("silu", lambda y: y * torch.sigmoid(y)),
    "sigmoid(x) * x, copied": ("silu", lambda y: y.clone().float().sigmoid() * y.contiguous()),
    "x * relu6(x + 3) / 6": ("hardswish", lambda y: y * F.relu6(y + 3) / 6),
    "x * (relu6(x + 3) / 6)": ("hardswish", lambda y: y * (F.relu6(y + 3) / 6)),
    "x * relu6(x + 3) * (1 / 6)": ("hardswish", lambda y: y * F.relu6(3 + y) * (1 / 6)),
    "hardtanh(x + 3, 0, 6) * 0.16666667 * x": (
        "hardswish",
        lambda y: F.hardtanh(y + 3, 0.0, 6.0) * 0.16666667 * y,
    ),
    "x / 6 * clamp(x + 3, 0, 6)": ("hardswish", lambda y: y / 6 * (y + 3).clamp(0, 6)),
    "x * hardsigmoid(x)": ("hardswish", lambda y: y * F.hardsigmoid(y)),
    "x / 2 * (1 + erf(x / sqrt(2)))": ("gelu", lambda y: y * 0.5 * (1.0 + torch.erf(y / 2**0.5))),
    "0.5 * (x * (1 + erf(x * sqrt(0.5))))": ("gelu", lambda y: 0.5 * (y * (1 + torch.erf(y * 0.5**0.5)))),
    "x * tanh(softplus(x))": ("mish", lambda y: y * torch.tanh(F.softplus(y))),
    "x * clamp(x / 6 + 0.5, 0, 1)": ("hardswish", lambda y: y * (y / 6 + 0.5).clamp(0, 1)),
    "hardtanh((x - -3) / 6, 0, 1)": ("hardsigmoid", lambda y: F.hardtanh((y - -3) / 6, 0, 1)),
    "relu6(x + 3) / 6": ("hardsigmoid", lambda y: F.relu6(y + 3) / 6),
    "relu6(x + three) / six": (
        "hardsigmoid",
        lambda y: torch.div(F.relu6(torch.add(y, torch.tensor(3.0))), torch.tensor(6.0)),
    ),
}


@pytest.mark.parametrize("spelling", ACTIVATIONS)
def test_activations_in_other_spellings(spelling: str) -> None:
    kind, function = ACTIVATIONS[spelling]
    graph = assert_planned(Spelled(twice(function)))
    assert kinds(graph) == ["convolution", kind, "convolution"]


NEARLY: dict[str, Callable[[Tensor], Tensor]] = {
    "x * sigmoid(2 * x)": lambda y: y * torch.sigmoid(2 * y),
    "x * relu6(x + 2) / 6": lambda y: y * F.relu6(y + 2) / 6,
    "x * relu6(x + 3) / 3": lambda y: y * F.relu6(y + 3) / 3,
}


@pytest.mark.parametrize("spelling", NEARLY)
def test_similar_patterns_are_not_rewritten(spelling: str) -> None:
    with pytest.raises(DepthwiseError, match="a product of two maps in the network has no compiled form"):
        compile(Spelled(twice(NEARLY[spelling])), IMAGES[:1], engine="native")


def shared(n: Any, x: Tensor) -> Tensor:
    y = n.y(x)
    s = y.sigmoid()
    return n.second(y * s + s)


AFFINE: dict[str, tuple[int, Callable[[Any, Tensor], Tensor]]] = {
    "times": (2, twice(lambda y: y * 0.5)),
    "number first": (2, twice(lambda y: 0.5 * y)),
    "divided": (2, twice(lambda y: y / 2)),
    "divided in place": (2, twice(lambda y: y.div_(2).mul_(3))),
    "plus": (2, twice(lambda y: y + 1.5)),
    "plus, padded": (2, lambda n, x: F.conv2d(n.y(x) + 1.5, n.second.weight, padding=1)),
    "minus": (2, twice(lambda y: y - 0.5)),
    "minus with alpha": (2, twice(lambda y: torch.sub(y, 0.5, alpha=3))),
    "number minus": (2, twice(lambda y: 1 - y)),
    "rsub": (2, twice(lambda y: torch.rsub(y, 1, alpha=2))),
    "negated": (2, twice(lambda y: -y)),
    "by a buffer": (2, lambda n, x: n.second(n.y(x) * n.two)),
    "by a parameter a channel": (2, lambda n, x: n.second(n.y(x) * n.scale[:, None, None])),
    "by a mask": (2, lambda n, x: n.second(n.y(x) * (n.scale > 1)[None, :, None, None])),
    "a bias of its own": (2, lambda n, x: n.second(F.conv2d(x, n.first.weight) + n.scale.view(1, -1, 1, 1))),
    "a bias stretched": (2, lambda n, x: n.second(n.y(x) + n.scale.view(1, -1, 1, 1).expand(1, 16, 8, 8))),
    "item": (2, lambda n, x: n.second(n.y(x) * n.scale.sum().item())),
    "logits": (3, lambda n, x: n.head(n.second(n.y(x)).mean((2, 3))) / 3 + n.head.bias),
    "after an activation": (3, twice(lambda y: F.relu(y) * 2 - 1)),
    "read twice": (3, twice(lambda y: (y * 2) + F.relu(y))),
    "(x - mean) / std": (3, lambda n, x: n.second(n.first((x - n.mean) / n.std))),
    "(x - mean) / std, padded": (
        3,
        lambda n, x: n.second(F.conv2d((x - n.mean).div_(n.std), n.first.weight, padding=1)),
    ),
    "x / 255 - a list": (
        3,
        lambda n, x: n.second(n.first((x / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) * 100)),
    ),
    "a plain attribute": (3, lambda n, x: n.second(n.first(x - n.plain[None, :, None, None]))),
    "2 x - 1": (3, lambda n, x: n.second(n.first((2 * x - 1).to(torch.float32)))),
}


@pytest.mark.parametrize("what", AFFINE)
def test_factors_and_summands_are_folded_or_become_a_convolution(what: str) -> None:
    count, call = AFFINE[what]
    assert kinds(assert_planned(Spelled(call))).count("convolution") == count


def test_grey_images_are_normalised_and_calibrated() -> None:
    class Grey(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Conv2d(*c, 3) for c in ((1, 16), (16, 16), (16, 5)))

        def forward(self, x: Tensor) -> Tensor:
            return self.third(F.relu(self.second(F.relu(self.first((x - 0.5) / 0.25)))))

    torch.manual_seed(0)
    network, x = Grey().eval(), torch.rand(4, 1, 12, 12)
    assert_planned(network, x)
    compiled = compile(network, x[:1], precision="int8", engine="native", calibration=x)
    assert [*compiled.roundings] == ["second"], "neither the product of the image nor the last is in int8"


SUMS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "alpha": lambda n, x: torch.add(F.relu(n.y(x)), n.first(x), alpha=0.5),
    "minus": lambda n, x: F.relu(n.y(x)) - n.first(x),
    "minus, read by others": lambda n, x: (lambda y: F.relu(y) - y)(n.y(x)),
    "minus with alpha": lambda n, x: torch.sub(n.first(x), F.relu(n.y(x)), alpha=0.3),
    "the other way round": lambda n, x: torch.rsub(n.first(x), F.relu(n.y(x)), alpha=2),
    "twice the same": lambda n, x: (lambda y: torch.add(y, y, alpha=2))(n.y(x)),
    "the larger": lambda n, x: torch.maximum(n.first(x), n.y(x) * 2),
    "the larger, as max": lambda n, x: torch.max(n.first(x), n.y(x)),
    "an activation that others read": shared,
    "vectors": lambda n, x: n.head(n.means(x).flatten(1) - n.y(x).mean((2, 3))),
}


@pytest.mark.parametrize("what", SUMS)
def test_sums_and_differences_of_maps(what: str) -> None:
    assert_planned(Spelled(SUMS[what]))


def test_a_map_minus_itself_is_zero() -> None:
    network = Spelled(lambda n, x: (lambda y: y - y)(n.y(x)))
    for precision in TOLERANCE:
        compiled = compile(network, IMAGES, engine="native", precision=precision, calibration=IMAGES)  # type: ignore[arg-type]
        assert not compiled(IMAGES).any()


GATES: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "expand_as": lambda n, y, g: y * g[:, :, None, None].expand_as(y),
    "expand": lambda n, y, g: y * g.view(len(y), 16, 1, 1).expand(-1, -1, 8, 8),
    "broadcast_to": lambda n, y, g: g.unsqueeze(-1).unsqueeze(-1).broadcast_to(y.shape) * y,
    "repeat": lambda n, y, g: y * g[..., None, None].repeat(1, 1, 8, 8),
    "unsqueeze": lambda n, y, g: y * g.unsqueeze(2).unsqueeze(3),
    "by None": lambda n, y, g: y * g[:, :, None, None],
    "by an ellipsis": lambda n, y, g: g[..., None, None] * y,
    "unflatten": lambda n, y, g: y * g.unflatten(1, (16, 1, 1)),
    "one less": lambda n, y, g: y * (1 - g)[:, :, None, None],
    "of vectors": lambda n, y, g: y.mean((2, 3)) * g,
    "of a sum": lambda n, y, g: y * (y.sum((2, 3)) / y[0, 0].numel())[:, :, None, None],
    "of a sum in a row": lambda n, y, g: y * (y.flatten(2).sum(2, keepdim=True) * 0.01).unsqueeze(-1),
    "of a mean in turns": lambda n, y, g: y * y.mean(3).mean(2)[:, :, None, None],
    "of a mean in turns, kept": lambda n, y, g: y * y.mean(2, keepdim=True).mean(-1, keepdim=True),
    "of a mean in a row": lambda n, y, g: y * y.flatten(2).mean(-1).view(y.shape[0], -1, 1, 1),
}


@pytest.mark.parametrize("what", GATES)
def test_a_gate_in_any_shape_is_one_step(what: str) -> None:
    network = Spelled(lambda n, x: (lambda y: GATES[what](n, y, y.mean((2, 3)).sigmoid()))(n.y(x)))
    assert kinds(assert_planned(network))[-1] == "gate"


SAME: dict[str, Callable[[Tensor], Tensor]] = {
    "float": lambda y: y.float(),
    "to": lambda y: y.to(torch.float32).to("cpu").to(y.dtype).type(torch.float32).type_as(y),
    "clone": lambda y: y.clone().contiguous().detach(),
    "channels last": lambda y: y.contiguous(memory_format=torch.channels_last),
    "identity": lambda y: nn.Identity()(F.dropout2d(F.dropout(y, training=False), training=False)),
    "indexed": lambda y: y[:][:, 0:][:, :, :100],
    "viewed": lambda y: y.view(y.shape).reshape(y.shape[0], 16, -1).view_as(y).flatten(1).reshape_as(y),
    "expanded": lambda y: y.expand(-1, -1, -1, -1).repeat(1, 1, 1, 1),
    "permuted and back": lambda y: y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "transposed and back": lambda y: y.transpose(1, 3).swapaxes(-1, 1).movedim(1, 1),
    "permuted with sides of one": lambda y: (
        y.flatten(1)[:, :, None].permute(0, 2, 1).transpose(1, 2).squeeze(2).view(y.shape)
    ),
    "unsqueezed": lambda y: y[:, None].squeeze(1).unsqueeze(-1).squeeze(),
    "plus nothing, times one": lambda y: 1 * (0 + y - 0.0) / torch.tensor(1.0) + torch.zeros(1),
    "padded by nothing": lambda y: F.pad(y, (0, 0, 0, 0)),
}


@pytest.mark.parametrize("what", SAME)
def test_operators_that_change_nothing_are_removed(what: str) -> None:
    assert kinds(assert_planned(Spelled(twice(SAME[what])))) == ["convolution", "convolution"]


PADDED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "before an activation": lambda n, x: n.second(F.relu(F.pad(n.y(x), (1, 2, 0, 1)))),
    "with a number": lambda n, x: n.second(torch.sigmoid(F.pad(n.y(x), (1, 2, 0, 1), value=1.5))),
    "with zeros before a maximum": lambda n, x: F.max_pool2d(F.pad(n.y(x) - 5, (0, 1, 0, 1)), 3, 2),
    "with ones before a convolution": lambda n, x: n.second(F.pad(n.y(x), (1, 1, 1, 1), value=1.0)),
    "in the end": lambda n, x: F.pad(n.second(n.y(x)), (0, 1, 2, 3)),
    "in a sum": lambda n, x: F.pad(n.second(n.y(x)), (1, 1, 1, 1)) - n.first(x),
    "in a sum with numbers": lambda n, x: (
        F.pad(n.second(n.y(x)), (1, 1, 1, 1)) * n.scale[:, None, None] + n.first(x)
    ),
    "in a gate": lambda n, x: F.pad(n.y(x), (1, 1, 1, 1)) * n.means(x),
    "and flattened": lambda n, x: n.wide(F.pad(n.second(n.y(x)), (1, 1, 1, 1)).flatten(1)),
    "twice": lambda n, x: n.second(F.pad(F.pad(n.y(x), (1, 0, 1, 0)), (0, 1, 0, 1), value=0.5)),
    "read twice": lambda n, x: (lambda p: n.second(p) + F.max_pool2d(p, 3, 1))(
        F.pad(n.y(x), (1, 1, 1, 1), value=-1.0)
    ),
}


@pytest.mark.parametrize("what", PADDED)
def test_padding_that_no_reader_applies_is_a_map(what: str) -> None:
    assert_planned(Spelled(PADDED[what]))


def dilated(groups: int, kernel: tuple[int, int], **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    middle = nn.Conv2d(16, 16, kernel, groups=groups, **arguments)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), middle, nn.ReLU(), nn.Conv2d(16, 5, 1)).eval()


@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize(
    ("kernel", "arguments"),
    [
        ((3, 3), {"dilation": 2, "padding": 2}),
        ((3, 3), {"dilation": 2, "padding": "same"}),
        ((3, 3), {"dilation": 3, "stride": 2}),
        ((3, 3), {"dilation": 6, "padding": "same"}),
        ((2, 4), {"dilation": (3, 1), "padding": "same"}),
        ((1, 1), {"dilation": 9, "padding": "valid"}),
        ((2, 2), {"padding": "same"}),
        ((5, 3), {"dilation": (1, 2), "padding": (2, 2)}),
    ],
)
def test_dilated_convolutions(groups: int, kernel: tuple[int, int], arguments: dict[str, Any]) -> None:
    assert_planned(dilated(groups, kernel, **arguments), torch.randn(3, 3, 15, 16))


def test_a_dilation_that_would_be_mostly_zeros_is_refused() -> None:
    with pytest.raises(
        DepthwiseError, match=r"dilated by 12 and 12, which takes 69 times the work with zeros"
    ):
        compile(dilated(1, (3, 3), dilation=12, padding=12), torch.zeros(1, 3, 16, 16), engine="native")


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return self._conv_forward(x, weight, self.bias)


def ws_by_batch_norm(n: Any, x: Tensor) -> Tensor:
    rows = n.first.weight.reshape(1, 16, -1)
    weight = F.batch_norm(rows, None, None, training=True).reshape_as(n.first.weight)
    return n.second(F.conv2d(x, weight, n.first.bias))


def frozen(n: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = F.conv2d(x, n.first.weight * 2)
    return n.second(y)


COMPUTED: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 16, 3)),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 16, 3)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Conv2d(3, 16, 3)),
    "standardised": lambda: Standardised(3, 16, 3),
    "by batch norm": lambda: Spelled(ws_by_batch_norm),
    "times a scale": lambda: Spelled(lambda n, x: F.conv2d(x, n.first.weight * n.scale.view(-1, 1, 1, 1))),
    "masked": lambda: Spelled(lambda n, x: F.conv2d(x, n.first.weight * n.mask.sigmoid().round(), n.first.bias)),
    "rotated": lambda: Spelled(lambda n, x: F.conv2d(x, n.first.weight.flip(3).transpose(2, 3))),
    "summed": lambda: Spelled(lambda n, x: F.conv2d(x, n.first.weight + F.pad(n.mask.repeat(1, 3, 1, 1), [1] * 4))),
    "a bias of zeros": lambda: Spelled(lambda n, x: F.conv2d(x, n.first.weight, torch.zeros(16))),
    "under no_grad": lambda: Spelled(frozen),
    "chunks": lambda: Spelled(lambda n, x: F.conv2d(x, torch.cat(n.first.weight.chunk(2)[::-1]))),
    "matmul": lambda: Spelled(lambda n, x: n.means(x).flatten(1) @ n.head.weight.T + n.head.bias),
    "addmm": lambda: Spelled(lambda n, x: torch.addmm(n.head.bias, n.means(x).flatten(1), n.head.weight.t())),
    "a linear layer on a map's last side": lambda: Spelled(lambda n, x: n.head(n.means(x).permute(0, 2, 3, 1))),
}  # fmt: skip


@pytest.mark.parametrize("what", COMPUTED)
def test_computed_weights_are_constants(what: str) -> None:
    torch.manual_seed(0)
    network = COMPUTED[what]().eval()
    assert_planned(nn.Sequential(network, nn.ReLU()))


def test_the_old_weight_norm() -> None:
    torch.manual_seed(0)
    with pytest.warns(FutureWarning):
        network = nn.utils.weight_norm(nn.Conv2d(3, 16, 3)).eval()
    assert_planned(network)


def test_random_numbers_are_not_constants() -> None:
    network = Spelled(lambda n, x: F.conv2d(x, n.first.weight + 0.1 * torch.randn(16, 3, 3, 3)))
    with pytest.raises(DepthwiseError, match="no compiled form"):
        compile(network, IMAGES[:1], engine="native")


NO_PLAN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "to in float64 in": lambda n, x: n.first(x).double().float(),
    "gt in bool in": lambda n, x: (n.first(x) > 0).float(),
    "add with a number for each pixel in": lambda n, x: n.first(x) + torch.arange(64.0).view(8, 8),
    "mul that stretches a map in": lambda n, x: n.means(x) * torch.ones(4, 4),
    "a sum of unequal shapes in": lambda n, x: n.first(x) + n.means(x),
    "the network's result does not depend on its images": lambda n, x: n.first(torch.ones(2, 3, 9, 9))[: len(x)],
}  # fmt: skip


@pytest.mark.parametrize("what", NO_PLAN)
def test_what_has_no_plan_says_so(what: str) -> None:
    with pytest.raises(DepthwiseError, match=what):
        compile(Spelled(NO_PLAN[what]), IMAGES[:2], engine="native")
