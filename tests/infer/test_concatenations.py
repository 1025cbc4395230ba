"""Concatenations of parts that begin and end anywhere in a vector, on every path and in every precision."""

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tests.infer.planned import Calls, assert_planned, conv
from tests.infer.test_compiled import randomise
from torch import Tensor, nn

from depthwise.infer import compile
from depthwise.infer.fuse import fuse
from depthwise.infer.lower import lower
from depthwise.models import create_model


class DenseBlock(nn.Module):
    """Each layer reads all before it, as DenseNet's do; `growth` channels more each time."""

    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        widths = [inputs + growth * number for number in range(layers)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), conv(width, growth)) for width in widths
        )
        self.last = conv(inputs + growth * layers, 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.last(x)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "odd parts": lambda: Calls(
        lambda x, stem, a, b, c, last: last(torch.cat([a(y := stem(x)), b(y), c(y)], 1)),
        conv(3, 24), conv(24, 5), conv(24, 16, 1), conv(24, 23), conv(44, 9, 1),
    ),
    "a whole part, then an odd one": lambda: Calls(
        lambda x, stem, a, b, last: last(torch.cat([a(y := stem(x)), b(y)], 1)),
        conv(3, 24), conv(24, 32), conv(24, 7), conv(39, 9),
    ),
    "one within another": lambda: Calls(
        lambda x, a, b, c, last: last(
            torch.cat([inner := torch.cat([a(x), b(x)], 1), x, read := c(inner), inner, F.relu(read)], 1)
        ),
        conv(3, 12), conv(3, 13), conv(25, 20), conv(25 + 3 + 20 + 25 + 20, 9),
    ),
    "a whole one within an odd one": lambda: Calls(
        lambda x, a, b, c, last: last(torch.cat([torch.cat([a(x), b(x)], 1), x, c(x)], 1)),
        conv(3, 16), conv(3, 32), conv(3, 4), conv(16 + 32 + 3 + 4, 9),
    ),
    "an odd one at a whole one's end": lambda: Calls(
        lambda x, a, b, c, last: last(torch.cat([a(x), torch.cat([b(x), c(x)], 1)], 1)),
        conv(3, 32), conv(3, 16), conv(3, 5), conv(53, 9),
    ),
    "the same map twice": lambda: Calls(
        lambda x, a, last: last(torch.cat([y := a(x), y, x, x], 1)), conv(3, 17), conv(40, 9)
    ),
    "one part": lambda: Calls(lambda x, a, last: last(torch.cat([a(x)], 1)), conv(3, 17), conv(17, 9)),
    "gates and sums": lambda: Calls(
        lambda x, a, b, last: last(
            torch.cat([(y := a(x)) * torch.sigmoid(b(x).mean((2, 3), keepdim=True)), y + b(x), y], 1)
        ),
        conv(3, 19), conv(3, 19), conv(57, 9),
    ),
    "pooled parts": lambda: Calls(
        lambda x, a, b, last: last(
            torch.cat([F.max_pool2d(y := a(x), 3, 1, 1), F.avg_pool2d(y, 3, 1, 1), b(y), y], 1)
        ),
        conv(3, 21), conv(21, 6), conv(69, 9),
    ),
    "means": lambda: Calls(
        lambda x, a, b, last: last(torch.cat([a(x).mean((2, 3)), b(x).mean((2, 3))], 1)),
        conv(3, 21), conv(3, 6), nn.Linear(27, 4),
    ),
    "read by a depthwise convolution": lambda: Calls(
        lambda x, a, b, between, last: last(between(F.relu(torch.cat([a(x), b(x)], 1)))),
        conv(3, 21), conv(3, 6), conv(27, 27, groups=27), conv(27, 9, 1),
    ),
    "dense": lambda: DenseBlock(3, 5, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_of_any_width_are_side_by_side(name: str) -> None:
    torch.manual_seed(0)
    assert_planned(randomise(NETWORKS[name]()), torch.randn(3, 3, 9, 11))


def test_concatenations_of_random_widths(fuzz_seed: int) -> None:
    draw = random.Random(fuzz_seed)
    torch.manual_seed(fuzz_seed)
    for _ in range(6):
        widths = [draw.choice((1, 7, 15, 16, 17, 32, draw.randint(1, 70))) for _ in range(draw.randint(1, 5))]
        parts = [conv(20, width, 1) for width in widths]
        network = Calls(
            lambda x, stem, last, *parts: last(torch.cat([part(stem(x)) for part in parts], 1)),
            conv(3, 20), conv(sum(widths), 12), *parts,
        )  # fmt: skip
        assert_planned(network, torch.randn(2, 3, draw.randint(1, 9), draw.randint(1, 9)), threads=3)


def test_parts_of_whole_vectors_are_written_in_place() -> None:
    """As many copies as parts that do not."""

    def copies(*widths: int) -> int:
        parts = [conv(3, width) for width in widths]
        network = Calls(
            lambda x, last, *parts: last(torch.cat([part(x) for part in parts], 1)),
            conv(sum(widths), 2),
            *parts,
        )
        steps = fuse(lower(network, torch.zeros(1, 3, 4, 4))).steps
        return sum(step.kind == "copy" for step in steps)

    assert copies(16, 32, 48) == copies(16, 7) == copies(5) == 0
    assert copies(16, 7, 9, 32) == 2
    assert copies(16, 7, 9, 32, 3) == 2
    assert copies(7, 16) == 2


@pytest.mark.parametrize(
    ("name", "width", "size"),
    [("inception_v1", 0.5, 65), ("inception_v4", 0.77, 107)],
)
def test_inception_of_odd_widths_is_native(name: str, width: float, size: int) -> None:
    torch.manual_seed(0)
    network = randomise(create_model(name, num_classes=7, width=width))
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected, graph = network(x), lower(network, x[:1])
    for precision, most in (("fp32", 1e-5), ("bf16", 3e-2), ("int8", 5e-2)):
        compiled = compile(
            network,
            x[:1],
            precision=precision,  # type: ignore[arg-type]
            calibration=x,
            lower=lambda module, example: graph,
        )
        assert compiled.engine == "native"
        assert float((compiled(x) - expected).abs().max() / expected.abs().max()) <= most
