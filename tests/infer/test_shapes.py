"""A sweep over shapes: every remainder of the channels, maps just below and above whole tiles, against eager PyTorch.

A kernel that writes beyond its tile changes a neighbour's numbers or the heap's; here the first shows as a wrong answer
and in the build of `make sanitize` both end the run.
"""

import ctypes
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.infer.graph import LANES, Concatenation, Convolution, Graph, Image, Mean, Operation, Pooling
from depthwise.infer.ops import separable_conv2d
from depthwise.infer.plan import Plan
from depthwise.infer.quantize import calibrate
from depthwise.infer.reference import interpret
from depthwise.infer.workspace import Workspace
from depthwise.native import structs
from depthwise.native.plans import run_plans, scratch_bytes

# How native/plan.h cuts a map into tiles: the bytes of their rows, and the most and the least pixels.
TILE_BYTES, MOST_PIXELS, LEAST_PIXELS = 288 << 10, 384, (16, 48)
VALUE_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
TOLERANCE = {"fp32": 1e-5, "bf16": 3e-2, "int8": 1e-1}
"""Of any value, relative to the largest."""

KERNELS = ((3, 3), (5, 5), (7, 2), (1, 3))
SEED = 0


@dataclass(frozen=True)
class Case:
    """A convolution of `kind` from `channels` to `outputs`, between a first and a last one of single pixels."""

    kind: str
    channels: int
    outputs: int
    groups: int
    kernel: tuple[int, int]
    stride: int
    batch: int
    size: tuple[int, int]
    threads: int

    def graph(self, generator: torch.Generator) -> Graph:
        """Image, 1x1, the convolution or convolutions of `kind`, 1x1."""
        channels, outputs, (height, width) = self.channels, self.outputs, self.kernel
        sides = (height // 2, width // 2, height // 2, width // 2)
        operations: list[Operation] = [Image()]
        shapes = [(2, *self.size)]

        def convolve(kernel: tuple[int, int], outputs: int, groups: int, stride: int) -> None:
            inputs, *size = shapes[-1]
            padding = sides if kernel != (1, 1) else (0, 0, 0, 0)
            weight = torch.randn(outputs, inputs // groups, *kernel, generator=generator)
            weight /= weight[0].numel() ** 0.5
            bias = torch.randn(outputs, generator=generator)
            source = len(operations) - 1
            operations.append(
                Convolution(source, weight, bias, (stride, stride), padding, groups, str(source))
            )
            shapes.append(
                (
                    outputs,
                    *(
                        (side + 2 * pad - k) // stride + 1
                        for side, pad, k in zip(size, padding, kernel, strict=False)
                    ),
                )
            )

        convolve((1, 1), channels, 1, 1)
        if self.kind in ("separable", "depthwise"):
            convolve(self.kernel, channels, channels, self.stride)
        if self.kind == "separable":
            convolve((1, 1), outputs, 1, 1)
        if self.kind == "single pixels":
            convolve((1, 1), outputs, self.groups, self.stride)
        if self.kind == "windows":
            convolve(self.kernel, outputs, self.groups, self.stride)
        convolve((1, 1), 5, 1, 1)
        return Graph(tuple(operations), tuple(shapes), flat=False)


def tile_pixels(row: int) -> int:
    """The number of pixels in the largest tile, for rows of that many bytes."""
    return min(MOST_PIXELS, max(random.Random(row).choice(LEAST_PIXELS), TILE_BYTES // row))


def cases(precision: str, rounds: int) -> Iterator[Case]:
    """`rounds` times each remainder of the channels by a vector's, all else drawn; maps end next to a tile's end."""
    draw = random.Random(f"{SEED} {precision}")
    value = VALUE_BYTES[precision]
    for number in range(rounds * LANES):
        # Around as many channels as make a tile's bytes its bound rather than its pixels.
        channels = (
            TILE_BYTES // MOST_PIXELS // value + LANES * draw.choice((0, 0, 0, 1, 2, 8)) + number % LANES
        )
        kind = draw.choice(("separable", "separable", "depthwise", "single pixels", "windows"))
        groups = draw.choice((1, 1, 2, 4)) if kind in ("single pixels", "windows") else 1
        channels -= channels % groups
        outputs = groups * draw.choice((1, 3, 16)) if kind != "separable" else draw.choice((5, 16, 33))
        kernel, stride = draw.choice(KERNELS), draw.choice((1, 1, 1, 2))
        batch, threads = draw.choice((1, 1, 2, 3)), draw.choice((1, 1, 2, 3))
        depth = channels * (kernel[0] * kernel[1] if kind == "windows" else 1)
        row = value * draw.choice((depth, -(-depth // LANES) * LANES))
        pixels = tile_pixels(row) * draw.choice((1, 1, 2)) * threads // batch + draw.choice((-1, 0, 0, 1))
        across = draw.choice([w for w in range(2, 102) if pixels % w == 0] or [pixels])
        result = max(2, pixels // across), max(2, across)
        sides = kernel if kind != "single pixels" else (1, 1)
        height, width = ((n - 1) * stride + k - k // 2 * 2 for n, k in zip(result, sides, strict=True))
        yield Case(kind, channels, outputs, groups, kernel, stride, batch, (height, width), threads)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_plans_of_all_shapes_agree_with_pytorch(path: str, precision: str) -> None:
    for case in cases(precision, rounds=1 if precision == "int8" else 2):
        generator = torch.Generator().manual_seed(SEED)
        graph = case.graph(generator)
        x = torch.randn(case.batch, *graph.shapes[0], generator=generator)
        roundings = calibrate(graph, [x]) if precision == "int8" else None
        torch.set_num_threads(case.threads)
        y, expected = Plan(graph, bf16=precision != "fp32", roundings=roundings)(x), interpret(graph, x)
        difference = float((y - expected).abs().max() / expected.abs().max())
        assert difference <= TOLERANCE[precision], (SEED, case)


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_operator_on_all_shapes_agrees_with_pytorch(path: str, precision: str) -> None:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for case in cases(precision, rounds=2):
        torch.set_num_threads(case.threads)
        generator = torch.Generator().manual_seed(SEED)

        def numbers(*shape: int, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(*shape, generator=generator)

        x, k = numbers(case.batch, case.channels, *case.size).to(dtype), case.kernel[0]
        weights = numbers(case.channels, 1, k, k) / k, None, numbers(case.outputs, case.channels, 1, 1), None
        y = separable_conv2d(x, *weights, padding=k // 2, stride=case.stride).float()
        inner = torch.nn.functional.conv2d(
            x.float(), weights[0], None, case.stride, k // 2, groups=case.channels
        )
        expected = torch.nn.functional.conv2d(inner, weights[2])
        difference = float((y - expected).abs().max() / expected.abs().max())
        assert difference <= TOLERANCE[precision], (SEED, case)


def workspace(case: Case, precision: str) -> Workspace:
    return workspace_of(case.graph(torch.Generator().manual_seed(SEED)), case.batch, case.threads, precision)


def workspace_of(graph: Graph, batch: int, threads: int, precision: str) -> Workspace:
    x = torch.zeros(batch, *graph.shapes[0])
    roundings = calibrate(graph, [torch.randn_like(x)]) if precision == "int8" else None
    plan = Plan(graph, bf16=precision != "fp32", roundings=roundings)
    made = Workspace(plan.layout, plan.packed, batch, threads)
    made.image = x  # type: ignore[attr-defined]  # alive as long as the workspace
    made.call.image, made.call.strides[:] = x.data_ptr(), x.stride()
    return made


SEPARABLE = Case("separable", 200, 33, 1, (3, 3), 1, 2, (27, 27), 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("field", ["scratch_bytes", "arena_bytes"])
def test_memory_that_is_too_small_is_refused_before_it_is_written(
    path: str, precision: str, field: str
) -> None:
    made = workspace(SEPARABLE, precision)
    run_plans([made.call])
    assert made.call.scratch_bytes == scratch_bytes(made.call)
    setattr(made.call, field, getattr(made.call, field) - 64)
    made.arena.fill_(77)
    with pytest.raises(DepthwiseError, match=r"needs \d+ bytes of (scratch|memory) and has \d+.*report it"):
        run_plans([made.call])
    assert bool((made.arena == 77).all())


OF_INT8 = (
    "scale",
    "between_scale",
    "between_rounding",
    "four_rows",
    "four_rows_rounding",
    "out_rounding",
)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("array", [name for name in structs.ARRAYS.split() if "spans" not in name])
def test_numbers_that_are_too_few_are_refused(path: str, precision: str, array: str) -> None:
    made = workspace(SEPARABLE, precision)
    shortened = 0
    for step in made.steps:
        if getattr(step, array):
            place = structs.ARRAYS.split().index(array)
            step.given[place] -= 1
            with pytest.raises(DepthwiseError, match=r"its numbers and has \d+"):
                run_plans([made.call])
            step.given[place] += 1
            shortened += 1
    assert shortened or (precision == "fp32" and array in OF_INT8), "no step has such numbers"
    run_plans([made.call])


@pytest.mark.parametrize("average", [True, False])
def test_windows_that_are_too_few_or_reach_too_far_are_refused(path: str, average: bool) -> None:
    pool = Pooling(0, (3, 3), (2, 1), (1, 1, 1, 1), average=average)
    made = workspace_of(Graph((Image(), pool), ((3, 7, 9), (3, 4, 9)), flat=False), 2, 2, "fp32")
    run_plans([made.call])
    step, packed = made.steps[1], made.packed[1]
    for name, spans in (("row_spans", packed.row_spans), ("column_spans", packed.column_spans)):
        assert spans is not None
        place = structs.ARRAYS.split().index(name)
        assert step.given[place] == spans.nbytes
        step.given[place] -= 1
        with pytest.raises(DepthwiseError, match=r"step 1 .* its numbers and has \d+"):
            run_plans([made.call])
        step.given[place] += 1
        for column, wrong in ((0, -1), (0, 100), (1, 100), (1, -5)):
            right = int(spans[-1, column])
            spans[-1, column] = wrong
            with pytest.raises(DepthwiseError, match=r"step 1 .* rows or columns of a map and has"):
                run_plans([made.call])
            spans[-1, column] = right
        step_name = f"dilation_{'y' if name == 'row_spans' else 'x'}"
        setattr(step, step_name, 0)
        with pytest.raises(DepthwiseError, match="needs 1 rows or columns of a map and has 0"):
            run_plans([made.call])
        setattr(step, step_name, 1)
        setattr(step, name, None)
        with pytest.raises(DepthwiseError, match="its numbers and has 0"):
            run_plans([made.call])
        setattr(step, name, spans.data_ptr())
    run_plans([made.call])


@pytest.mark.parametrize(("field", "change"), [("length", 30), ("length", -6), ("out", 30)])
def test_a_copy_beyond_a_map_is_refused(path: str, field: str, change: int) -> None:
    graph = Graph((Image(), Concatenation((0, 0)), Mean(1)), ((5, 7, 9), (10, 7, 9), (10, 1, 1)), flat=False)
    made = workspace_of(graph, 2, 2, "fp32")
    run_plans([made.call])
    step = made.steps[1]
    assert step.kind == structs.KINDS.index("copy")
    if field == "length":
        step.length += change
    else:
        step.out.channels += change
    with pytest.raises(DepthwiseError, match=r"^step 1 of this network needs .* and has "):
        run_plans([made.call])


@pytest.mark.parametrize("side", ["input", "out"])
@pytest.mark.parametrize(
    ("field", "change"), [("bytes", -128), ("height", 30), ("channels", 16), ("border", -1), ("pixel", 16)]
)
def test_a_map_of_another_size_is_refused(path: str, side: str, field: str, change: int) -> None:
    made = workspace(SEPARABLE, "fp32")
    place = getattr(made.steps[2], side)
    if side == "out" and field == "border":
        change = 1
    setattr(place, field, getattr(place, field) + change)
    with pytest.raises(DepthwiseError, match=r"^step 2 of this network needs .* and has "):
        run_plans([made.call])


def test_what_a_step_is_told_of_its_memory_is_what_it_was_given(path: str) -> None:
    made = workspace(SEPARABLE, "fp32")
    for step, packed in zip(made.steps, made.packed, strict=True):
        for name, given in zip(structs.ARRAYS.split(), step.given, strict=True):
            tensor: Tensor | None = getattr(packed, name, None)
            assert given == (0 if tensor is None else tensor.nbytes)
            assert (getattr(step, name) or 0) == (0 if tensor is None else tensor.data_ptr())
    assert ctypes.addressof(made.steps) == made.call.steps
