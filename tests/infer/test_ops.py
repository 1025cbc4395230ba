"""The operator against its definition in PyTorch's own operators, and in everything that takes an operator."""

import gc
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.conftest import RUNNABLE, in_threads, using
from torch import Tensor, nn

import depthwise
from depthwise import native
from depthwise.errors import UsageError
from depthwise.infer import ops
from depthwise.infer.graph import ACTIVATIONS

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
OPERATOR = torch.ops.depthwise.separable_conv2d.default
ALL = {"relu_first": True, "between": "relu6", "activation": "elu"}


@pytest.fixture(params=[*RUNNABLE, "off"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    with using(request.param):
        yield request.param


def example(
    shape: tuple[int, int, int, int],
    outputs: int,
    kernel: int = 3,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Every argument there is, of a map of this shape."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    options = {"stride": 1, "padding": [1, 1, 1, 1]} | options
    weights = (
        random(shape[1], 1, kernel, kernel) / kernel,
        random(shape[1]),
        random(outputs, shape[1], 1, 1) / shape[1] ** 0.5,
        random(outputs),
    )
    x = random(*shape).to(dtype)
    top, left, bottom, right = options["padding"]
    height = (shape[2] + top + bottom - kernel) // options["stride"] + 1
    width = (shape[3] + left + right - kernel) // options["stride"] + 1
    return (x, *weights, random(shape[0], outputs, height, width).to(dtype)), options


def define(
    x: Tensor,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    *,
    stride: int,
    padding: list[int],
    relu_first: bool = False,
    between: str = "nothing",
    activation: str = "nothing",
) -> Tensor:
    """In float64, one thing after another."""
    act = {"nothing": lambda y: y} | {kind: getattr(F, kind) for kind in ACTIVATIONS[1:]}
    tensors = [
        t if t is None else t.double() for t in (depthwise_weight, depthwise_bias, pointwise_weight, bias)
    ]
    top, left, bottom, right = padding
    y = F.pad(x.double().relu() if relu_first else x.double(), (left, right, top, bottom))
    y = act[between](F.conv2d(y, tensors[0], tensors[1], stride, groups=x.shape[1]))
    y = F.conv2d(y, tensors[2], tensors[3])
    return act[activation](y if residual is None else y + residual.double())


def assert_as_defined(y: Tensor, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    expected = define(*arguments, **options)
    assert y.dtype is arguments[0].dtype
    assert y.shape == expected.shape
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert float((y - expected).abs().max()) <= TOLERANCE[y.dtype] * float(expected.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "outputs", "kernel", "options"),
    [
        ((2, 3, 7, 9), 17, 3, {}),
        ((1, 1, 1, 1), 1, 1, {"padding": [0, 0, 0, 0]}),
        ((1, 16, 5, 6), 32, 3, {"padding": [0, 0, 0, 0]}),
        ((3, 72, 8, 8), 130, 3, {"stride": 2, "padding": [0, 0, 1, 1]}),
        ((2, 20, 6, 11), 16, 5, {"padding": [4, 1, 0, 3]}),
        ((1, 33, 4, 3), 7, 3, {"stride": 3}),
    ],
)
def test_it_computes_its_definition(
    path: str,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    outputs: int,
    kernel: int,
    options: dict[str, Any],
) -> None:
    curves = {"activation": "sigmoid", "between": "silu"}
    for more in ({}, ALL, {"activation": "relu6", "between": "elu"}, curves):
        arguments, everything = example(shape, outputs, kernel, dtype, **options, **more)
        assert_as_defined(depthwise.separable_conv2d(*arguments, **everything), arguments, everything)
    bare = (*arguments[:2], None, arguments[3], None, None)
    assert_as_defined(depthwise.separable_conv2d(*bare, **everything), bare, everything)


def test_any_memory_layout_and_no_image_at_all(path: str) -> None:
    arguments, options = example((4, 32, 6, 5), 16, **ALL)
    x, *weights, residual = arguments
    expected = depthwise.separable_conv2d(*arguments, **options)
    for other in (x.contiguous(memory_format=torch.channels_last), x.flip(3).contiguous().flip(3)):
        strided = residual.repeat(1, 1, 1, 2)[..., :5]
        torch.testing.assert_close(depthwise.separable_conv2d(other, *weights, strided, **options), expected)
    assert depthwise.separable_conv2d(x[:0], *weights, residual[:0], **options).shape == (0, 16, 6, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_nan_and_infinities_stand_where_the_definition_has_them(
    path: str, dtype: torch.dtype, kind: str
) -> None:
    for value, more in itertools.product(
        (torch.nan, torch.inf, -torch.inf), ({"between": kind}, {"activation": kind}, {"relu_first": True})
    ):
        if kind == "gelu" and value in (torch.inf, -torch.inf):
            continue  # PyTorch's own of infinity is NaN in a vector and infinite in what is left of one
        arguments, options = example((2, 20, 6, 7), 24, dtype=dtype, **more)
        arguments[0][1, 3, 2, 2] = value
        arguments[5][0, 7, 1, 1] = value  # type: ignore[index]
        y, expected = depthwise.separable_conv2d(*arguments, **options), define(*arguments, **options)
        finite = expected.isfinite()
        assert torch.equal(
            y[~finite].double().nan_to_num(2.0), expected[~finite].to(dtype).double().nan_to_num(2.0)
        )
        assert y[finite].isfinite().all()


def test_one_number_pads_every_side() -> None:
    arguments, options = example((1, 8, 6, 6), 8)
    expected = depthwise.separable_conv2d(*arguments, **options)
    assert torch.equal(depthwise.separable_conv2d(*arguments, padding=1), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("path", ["best", "off"], indirect=True)
def test_pytorch_finds_no_fault_in_it(path: str, dtype: torch.dtype, gradients: bool) -> None:
    for shape, outputs in (((2, 20, 5, 6), 17), ((1, 16, 4, 4), 16)):
        arguments, options = example(shape, outputs, dtype=dtype, **ALL)
        arguments = tuple(tensor.requires_grad_(gradients) for tensor in arguments)
        torch.library.opcheck(OPERATOR, arguments, options)
        torch.library.opcheck(OPERATOR, (arguments[0], arguments[1], None, arguments[3]))


def test_gradients(path: str) -> None:
    arguments, options = example((2, 5, 4, 5), 3, stride=2, between="elu", activation="elu")
    exact = tuple(tensor.double().requires_grad_() for tensor in arguments)
    assert torch.autograd.gradcheck(lambda *tensors: ops.separable_conv2d(*tensors, **options), exact)
    assert torch.autograd.gradgradcheck(lambda *tensors: ops.separable_conv2d(*tensors, **options), exact)
    leaves = [tensor.clone().requires_grad_() for tensor in arguments]
    found = torch.autograd.grad(ops.separable_conv2d(*leaves, **options).square().sum(), leaves[:4])
    wanted = torch.autograd.grad(define(*exact, **options).square().sum(), exact[:4])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-4, atol=1e-4)


def test_gradients_of_a_weight_that_is_used_twice(path: str) -> None:
    arguments, options = example((1, 16, 4, 4), 16)
    outcomes = []
    for function, dtype in ((ops.separable_conv2d, torch.float32), (define, torch.float64)):
        x, *weights, residual = (tensor.detach().to(dtype).requires_grad_() for tensor in arguments)
        y = function(function(x, *weights, residual, **options), *weights, x, **options)
        outcomes.append(torch.autograd.grad(y.square().mean(), [x, *weights]))
    for a, b in zip(*outcomes, strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-4, atol=1e-4)


class Block(nn.Module):
    """Xception's middle block in small, of the operator."""

    def __init__(self) -> None:
        super().__init__()
        arguments, self.options = example((1, 24, 8, 8), 24, relu_first=True)
        self.weights = nn.ParameterList(arguments[1:5])

    def forward(self, x: Tensor) -> Tensor:
        y = depthwise.separable_conv2d(x, *self.weights, **self.options)
        return depthwise.separable_conv2d(y, *self.weights, x, **self.options)


def test_in_what_torch_compile_compiles() -> None:
    block = Block()
    compiled = torch.compile(block, fullgraph=True, dynamic=True)
    for batch in (2, 5):
        x = torch.randn(batch, 24, 8, 8)
        with torch.inference_mode():
            torch.testing.assert_close(compiled(x), block(x))
    x.requires_grad_()
    found, wanted = (
        torch.autograd.grad(module(x).sum(), [x, *block.weights]) for module in (compiled, block)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_in_an_exported_program_with_any_batch(tmp_path: Path) -> None:
    block, x = Block().eval(), torch.randn(3, 24, 8, 8)
    program = torch.export.export(block, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "block.pt2")
    torch.save((x, block(x).detach()), tmp_path / "expected.pt")
    code = (
        "import torch, depthwise.infer.ops\n"
        "x, expected = torch.load('expected.pt')\n"
        "module = torch.export.load('block.pt2').module()\n"
        "torch.testing.assert_close(module(x).detach(), expected)\n"
        "print(module(x[:1]).shape)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "torch.Size([1, 24, 8, 8])"


def test_shapes_are_known_before_anything_runs() -> None:
    arguments, options = example((2, 8, 9, 7), 12, stride=2, dtype=torch.bfloat16)
    y = depthwise.separable_conv2d(*(tensor.to("meta") for tensor in arguments), **options)
    assert (y.shape, y.dtype, y.device.type) == ((2, 12, 5, 4), torch.bfloat16, "meta")


def test_autocast_leaves_it_alone(path: str) -> None:
    arguments, options = example((1, 16, 5, 5), 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise.separable_conv2d(*arguments, **options)
    assert_as_defined(y, arguments, options)


def test_weights_are_packed_once_and_again_when_they_have_changed() -> None:
    gc.collect()
    before = len(ops._entries)
    arguments, options = example((1, 16, 5, 5), 16)
    depthwise.separable_conv2d(*arguments, **options)
    entry = ops._entries[arguments[3]]
    with torch.inference_mode():
        depthwise.separable_conv2d(*arguments, **options)
    assert ops._entries[arguments[3]] is entry
    for index in (1, 2, 3, 4):
        arguments[index].mul_(2)
        assert_as_defined(depthwise.separable_conv2d(*arguments, **options), arguments, options)
    for index in (1, 2, 4):
        other = list(arguments)
        other[index] = torch.randn_like(other[index])
        assert_as_defined(depthwise.separable_conv2d(*other, **options), tuple(other), options)
    weight = nn.Parameter(arguments[3])
    weight.data = torch.randn_like(weight)
    replaced = (*arguments[:3], weight, *arguments[4:])
    depthwise.separable_conv2d(*replaced, **options)
    weight.data = torch.randn_like(weight)
    with torch.no_grad():
        assert_as_defined(depthwise.separable_conv2d(*replaced, **options), replaced, options)
    assert len(ops._entries) == before + 2
    del arguments, other, weight, replaced
    gc.collect()
    assert len(ops._entries) == before


def test_each_kind_of_kernels_has_its_own_packing(path: str) -> None:
    arguments, options = example((1, 16, 5, 5), 100)
    for other in ("off", "best", path):
        native.use(other)
        for dtype in (torch.float32, torch.bfloat16):
            typed = (arguments[0].to(dtype), *arguments[1:5], arguments[5].to(dtype))
            assert_as_defined(depthwise.separable_conv2d(*typed, **options), typed, options)


def test_weights_whose_changes_are_not_counted(path: str) -> None:
    with torch.inference_mode():
        arguments, options = example((1, 16, 5, 5), 16)
        for _ in range(2):
            assert_as_defined(depthwise.separable_conv2d(*arguments, **options), arguments, options)
            arguments[3].mul_(2)


def test_many_threads_with_batches_of_their_own() -> None:
    block = Block()
    images = [torch.randn(index + 1, 24, 8, 8) for index in range(8)]
    with torch.no_grad():
        expected = [block(x) for x in images]
    fresh = Block()

    def work(index: int) -> None:
        with torch.inference_mode():
            for _ in range(20):
                assert torch.equal(fresh(images[index]), expected[index])

    in_threads(work)


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (0, (8, 6, 6), "x, depthwise and pointwise weight have 3, 4 and 4 dimensions"),
        (0, (1, 8, 1, 6), "a map of 1x6, padded by [0, 0, 0, 0], is smaller than the kernel of 3x3: pad it"),
        (1, (8, 1, 3, 5), "the depthwise weight is [8, 1, 3, 5]: for x [1, 8, 6, 6] it must be [8, 1, 3, 3]"),
        (2, (7,), "the depthwise bias is [7]: for x [1, 8, 6, 6] it must be [8]"),
        (3, (4, 8, 3, 3), "the pointwise weight is [4, 8, 3, 3]: for x [1, 8, 6, 6] it must be [4, 8, 1, 1]"),
        (4, (8,), "the bias is [8]: for x [1, 8, 6, 6] it must be [4]"),
        (5, (1, 4, 6, 6), "the residual is [1, 4, 6, 6]: for x [1, 8, 6, 6] it must be [1, 4, 4, 4]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(index: int, shape: tuple[int, ...], message: str) -> None:
    arguments, options = example((1, 8, 6, 6), 4, padding=[0, 0, 0, 0])
    wrong = [*arguments[:index], torch.zeros(shape), *arguments[index + 1 :]]
    with pytest.raises(UsageError, match=re.escape(message)):
        depthwise.separable_conv2d(*wrong, **options)


def test_wrong_options() -> None:
    arguments, _ = example((1, 8, 6, 6), 4)
    with pytest.raises(UsageError, match="unknown activation 'rleu': use one of relu"):
        depthwise.separable_conv2d(*arguments, padding=1, between="rleu")
    with pytest.raises(UsageError, match=re.escape("stride=0, padding=[1, 1, 1, 1] is none")):
        depthwise.separable_conv2d(*arguments, padding=1, stride=0)
    with pytest.raises(UsageError, match=r"the residual is torch\.bfloat16 and x torch\.float32"):
        depthwise.separable_conv2d(*arguments[:5], arguments[5].bfloat16(), padding=1)
