"""A layout says how maps lie in memory, without kernels and without computing anything."""

from itertools import pairwise

import pytest
import torch
from tests.conftest import using
from tests.infer.planned import Calls, conv
from torch import Tensor, nn

from depthwise.infer.arena import ALIGNMENT, place
from depthwise.infer.graph import Graph
from depthwise.infer.layout import Layout, lay_out
from depthwise.infer.lower import lower
from depthwise.infer.quantize import calibrate

X = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))


def branching() -> Graph:
    """One map for int8 products alone, one for a sum too, and parts of a concatenation."""

    def forward(
        x: Tensor, first: nn.Module, wide: nn.Module, left: nn.Module, right: nn.Module, last: nn.Module
    ) -> Tensor:
        x = first(x).relu()
        y = wide(x).relu() + x
        return last(torch.cat([left(y), right(y)], 1)).mean((2, 3))

    torch.manual_seed(0)
    parts = conv(3, 32), conv(32, 32), conv(32, 16, 1), conv(32, 16, 1), conv(32, 5, 1)
    return lower(Calls(forward, *parts).eval(), X)


def laid_out(precision: str) -> Layout:
    graph = branching()
    roundings = calibrate(graph, [X]) if precision == "int8" else {}
    with using("off"):
        return lay_out(graph, bf16=precision != "fp32", roundings=roundings)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("int8", torch.bfloat16)]
)
def test_maps_have_a_dtype_a_border_and_a_place(precision: str, dtype: torch.dtype) -> None:
    layout = laid_out(precision)
    for index, laid in enumerate(layout.maps):
        assert (laid.dtype == torch.uint8) == (laid.rounding is not None)
        assert laid.dtype in (dtype, torch.uint8)
        assert laid.first == 0 or laid.owner != index
    image, first = (layout.maps[step.result] for step in layout.steps[:2])
    assert (image.shape, image.channels, image.border) == ((3, 9, 11), 4, 1)
    assert (first.shape, first.channels) == ((32, 9, 11), 32)
    assert any(laid.owner != index for index, laid in enumerate(layout.maps))


def test_a_map_is_uint8_if_only_int8_products_read_it_and_copied_if_others_do() -> None:
    layout = laid_out("int8")
    readers: dict[int, set[bool]] = {}
    for step in layout.steps[1:]:
        for index in (step.source, step.residual):
            if index is not None:
                in_int8 = layout.roundings_of(step)[0] is not None and index == step.source
                readers.setdefault(index, set()).add(in_int8)
    rounded = [index for index, laid in enumerate(layout.maps) if laid.dtype == torch.uint8]
    assert rounded
    assert all(readers[index] == {True} for index in rounded)
    assert any(step.kind == "sum" and step.result in rounded for step in layout.steps)


def test_maps_that_are_read_at_once_do_not_overlap() -> None:
    layout = laid_out("int8")
    owners = {layout.maps[step.result].owner for step in layout.steps}
    sizes = {index: ALIGNMENT * (1 + index) for index in owners}
    offsets, arena_bytes = place(layout, sizes)
    for step in layout.steps[1:]:
        read = {layout.maps[index].owner for index in (step.source, step.residual) if index is not None}
        places = sorted((offsets[index], sizes[index]) for index in {*read, layout.maps[step.result].owner})
        for (start, size), (after, _) in pairwise(places):
            assert start + size <= after
        assert places[-1][0] + places[-1][1] <= arena_bytes
        assert all(start % ALIGNMENT == 0 for start, _ in places)
