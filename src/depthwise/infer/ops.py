"""A separable convolution with its activations and residual as an operator of PyTorch, `depthwise::separable_conv2d`.

Importing this module registers the operator: do so before you load a program that was exported with it. `_compose`
defines what it computes. On a CPU with native kernels it is one pass, in which the depthwise result, as large as the
input, stays in the processor's cache.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from depthwise.errors import UsageError, unknown_name
from depthwise.infer.arena import ALIGNMENT
from depthwise.infer.fuse import Step
from depthwise.infer.graph import ACTIVATIONS, LANES, NUMBERS, Convolution, Function
from depthwise.infer.pack import Packed, function_of, pack
from depthwise.infer.reference import activate
from depthwise.native import structs
from depthwise.native.library import library
from depthwise.native.plans import run_plans, scratch_bytes

__all__ = ["separable_conv2d"]

_SCHEMA = (
    "(Tensor x, Tensor depthwise_weight, Tensor? depthwise_bias, Tensor pointwise_weight, Tensor? bias=None, "
    "Tensor? residual=None, *, int stride=1, int[4] padding=0, bool relu_first=False, str between='nothing', "
    "str activation='nothing') -> Tensor"
)


@dataclass(frozen=True)
class _Options:
    """The keyword arguments; PyTorch leaves those out of a call that are the schema's defaults."""

    stride: int = 1
    padding: Sequence[int] = (0, 0, 0, 0)
    relu_first: bool = False
    between: str = "nothing"
    activation: str = "nothing"


class _Tensors(NamedTuple):
    x: Tensor
    depthwise_weight: Tensor
    depthwise_bias: Tensor | None
    pointwise_weight: Tensor
    bias: Tensor | None = None
    residual: Tensor | None = None

    @property
    def weights(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        return self[1:5]


def separable_conv2d(
    x: Tensor,
    depthwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int | Sequence[int] = 0,
    relu_first: bool = False,
    between: str = "nothing",
    activation: str = "nothing",
) -> Tensor:
    """activation(pointwise(between(depthwise(relu(x)))) + residual): x [N, C, H, W] to channels-last [N, K, H', W'].

    `depthwise_weight` is [C, 1, k, k] and `pointwise_weight` [K, C, 1, 1], with batch norms folded into them and into
    the biases [C] and [K]; `residual` is [N, K, H', W']. `padding` is zeros on top, left, bottom and right, or on every
    side; the stride is the depthwise part's. `between` and `activation` are nothing, relu, relu6, hardtanh, elu,
    sigmoid, silu, hardsigmoid, hardswish, leaky_relu, tanh, gelu, softplus or mish, with the numbers that
    PyTorch's functions have where none are given.

    It works with torch.compile and torch.export, and PyTorch's own operators compute its gradients. It is native on a
    CPU in float32 and bfloat16. Weights are packed in the first call and again after they change; a change through
    `.data`, which PyTorch does not count, goes unnoticed. Raises UsageError for shapes that do not fit each other.
    Source: Chollet 2017, section 2.
    """
    sides = [padding] * 4 if isinstance(padding, int) else list(padding)
    result: Tensor = torch.ops.depthwise.separable_conv2d(
        x,
        depthwise_weight,
        depthwise_bias,
        pointwise_weight,
        bias,
        residual,
        stride=stride,
        padding=sides,
        relu_first=relu_first,
        between=between,
        activation=activation,
    )
    return result


@torch.library.custom_op("depthwise::separable_conv2d", mutates_args=(), schema=_SCHEMA)
def _operator(*arguments: Any, **keywords: Any) -> Tensor:
    options, tensors = _Options(**keywords), _Tensors(*arguments)
    shape, x = _result_shape(options, tensors), tensors.x
    native = (
        library.handle is not None
        and x.dtype in (torch.float32, torch.bfloat16)
        and all(tensor is None or tensor.device.type == "cpu" for tensor in tensors)
        and x.numel() > 0
    )
    y = _run(options, tensors, _packed(tensors), shape) if native else None
    return _compose(options, tensors).contiguous(memory_format=torch.channels_last) if y is None else y


@_operator.register_fake
def _(*arguments: Any, **keywords: Any) -> Tensor:
    tensors = _Tensors(*arguments)
    shape, x = _result_shape(_Options(**keywords), tensors), tensors.x
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _compose(options: _Options, tensors: _Tensors) -> Tensor:
    """The definition, in PyTorch's own operators and in the dtype of `x`."""
    x, depthwise_weight, depthwise_bias, pointwise_weight, bias, residual = tensors

    def cast(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(x.dtype)

    top, left, bottom, right = options.padding
    with torch.autocast(x.device.type, enabled=False):
        y = F.pad(F.relu(x) if options.relu_first else x, (left, right, top, bottom))
        y = F.conv2d(y, depthwise_weight.to(x.dtype), cast(depthwise_bias), options.stride, groups=x.shape[1])
        y = F.conv2d(activate(_function(options.between), y), pointwise_weight.to(x.dtype), cast(bias))
        return activate(_function(options.activation), y if residual is None else y + residual)


def _keep(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    ctx.options = _Options(**keyword_only_inputs)
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The definition's gradients; the maps between its operators are computed again, because they were not kept."""
    twice = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that autograd stops here: if `x` was computed with one of these weights, it would go on through `x`.
        tensors: list[Any] = [
            None if tensor is None else tensor.view_as(tensor) for tensor in ctx.saved_tensors
        ]
        # needs_input_grad also has the arguments after the tensors, which have no gradients.
        wanted = [tensor for tensor, needed in zip(tensors, ctx.needs_input_grad, strict=False) if needed]
        y = _compose(ctx.options, _Tensors(*tensors))
        gradients = iter(torch.autograd.grad(y, wanted, gradient, create_graph=twice))
    return tuple(next(gradients) if needed else None for needed in ctx.needs_input_grad)


_operator.register_autograd(_backward, setup_context=_keep)


def _result_shape(options: _Options, tensors: _Tensors) -> tuple[int, int, int, int]:
    """[N, K, H', W']; raises UsageError for shapes that do not fit each other."""
    x, depthwise_weight, depthwise_bias, pointwise_weight, bias, residual = tensors
    stride, padding = options.stride, options.padding
    for kind in (options.between, options.activation):
        if kind not in ACTIVATIONS:
            raise unknown_name("activation", kind, ACTIVATIONS)
    if stride < 1 or len(padding) != 4 or min(padding) < 0:
        raise UsageError(
            f"stride={stride}, padding={list(padding)} is none: take a stride from 1 on and four sides from 0 on"
        )
    if x.ndim != 4 or depthwise_weight.ndim != 4 or pointwise_weight.ndim != 4:
        raise UsageError(
            f"x, depthwise and pointwise weight have {x.ndim}, {depthwise_weight.ndim} and {pointwise_weight.ndim} "
            "dimensions: give [N, C, H, W], [C, 1, k, k] and [K, C, 1, 1]"
        )
    (batch, channels, height, width), outputs = x.shape, pointwise_weight.shape[0]
    kernel = depthwise_weight.shape[2]
    top, left, bottom, right = padding
    out_height = (height + top + bottom - kernel) // stride + 1
    out_width = (width + left + right - kernel) // stride + 1
    if height + top + bottom < kernel or width + left + right < kernel:
        raise UsageError(
            f"a map of {height}x{width}, padded by {list(padding)}, is smaller than the kernel of {kernel}x{kernel}: "
            "pad it"
        )
    shape = (batch, outputs, out_height, out_width)
    for name, tensor, expected in (
        ("the depthwise weight", depthwise_weight, (channels, 1, kernel, kernel)),
        ("the depthwise bias", depthwise_bias, (channels,)),
        ("the pointwise weight", pointwise_weight, (outputs, channels, 1, 1)),
        ("the bias", bias, (outputs,)),
        ("the residual", residual, shape),
    ):
        if tensor is not None and tuple(tensor.shape) != expected:
            raise UsageError(
                f"{name} is {list(tensor.shape)}: for x {list(x.shape)} it must be {list(expected)}"
            )
    if residual is not None and residual.dtype != x.dtype:
        raise UsageError(f"the residual is {residual.dtype} and x {x.dtype}: give both in one type")
    return shape


@dataclass(frozen=True)
class _Entry:
    """Packed weights, the tensors that they were packed from, and the state of these and of the kernels then."""

    tensors: tuple[Callable[[], Tensor | None], ...]
    state: tuple[Any, ...]
    packed: Packed


_entries = WeakIdKeyDictionary()
"""By pointwise weight; an entry is removed with that tensor."""
_lock = threading.Lock()
# The thread that forks holds the lock: a child would inherit it locked if another thread held it, and no thread of the
# child would release it.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def _packed(tensors: _Tensors) -> Packed:
    weights = tensors.weights
    if any(tensor is not None and tensor.is_inference() for tensor in weights):
        return _pack(tensors)  # the changes of such a tensor are not counted
    counts = [None if tensor is None else (tensor._version, tensor.data_ptr()) for tensor in weights]
    state = (library.path, tensors.x.dtype, *counts)
    with _lock:
        entry: _Entry | None = _entries.get(tensors.pointwise_weight)
        if (
            entry is None
            or entry.state != state
            or any(one() is not other for one, other in zip(entry.tensors, weights, strict=True))
        ):
            references = tuple(
                (lambda: None) if tensor is None else weakref.ref(tensor) for tensor in weights
            )
            entry = _Entry(references, state, _pack(tensors))
            _entries[tensors.pointwise_weight] = entry
    return entry.packed


def _pack(tensors: _Tensors) -> Packed:
    """The weights, packed as for a plan."""
    depthwise_weight, depthwise_bias, pointwise_weight, bias = tensors.weights

    def convolution(weight: Tensor, bias: Tensor | None) -> Convolution:
        bias = torch.zeros(len(weight)) if bias is None else bias.detach().float()
        return Convolution(0, weight.detach().float(), bias, (1, 1), (0, 0, 0, 0), 1)

    step = Step(
        "convolution",
        0,
        0,
        depthwise=convolution(depthwise_weight, depthwise_bias),
        product=convolution(pointwise_weight, bias),
    )
    inputs, outputs = (_padded_channels(len(weight)) for weight in (depthwise_weight, pointwise_weight))
    return pack(step, inputs, outputs, bf16=tensors.x.dtype == torch.bfloat16)


def _run(
    options: _Options, tensors: _Tensors, packed: Packed, shape: tuple[int, int, int, int]
) -> Tensor | None:
    """The result by the kernels, as a plan of one step; None if a value is not finite.

    Its maps are tensors, whose offsets count from the one that lies first in memory.
    """
    x, residual, kernel = tensors.x, tensors.residual, tensors.depthwise_weight.shape[2]
    batch, outputs, height, width = shape
    source = _padded_map(x, options.padding)
    added = None if residual is None else _padded_map(residual, (0, 0, 0, 0))
    y = x.new_empty(batch, height, width, _padded_channels(outputs))
    maps = {"input": source, "out": y, "residual": added, "gate": None}
    step = structs.Step(
        **{name: _map(tensor) for name, tensor in maps.items()},
        **packed.fields(),
        kernel_height=kernel,
        kernel_width=kernel,
        stride_y=options.stride,
        stride_x=options.stride,
        between=function_of(_function(options.between)),
        activation=function_of(_function(options.activation)),
        kind=structs.KINDS.index("convolution"),
        relu_first=options.relu_first,
        watched=True,
    )
    run = structs.Run(
        steps=ctypes.addressof(step),
        count=1,
        batch=batch,
        threads=torch.get_num_threads(),
        bf16=x.dtype == torch.bfloat16,
    )
    run.scratch_bytes = scratch_bytes(run)
    scratch = torch.empty(run.threads * run.scratch_bytes + ALIGNMENT, dtype=torch.uint8)
    memory = [tensor for tensor in (source, added, y, scratch) if tensor is not None]
    run.arena = first = min(tensor.data_ptr() for tensor in memory)
    run.arena_bytes = max(tensor.data_ptr() + tensor.nbytes for tensor in memory) - first
    run.scratch = scratch.data_ptr() + -scratch.data_ptr() % ALIGNMENT - first
    for name, tensor in maps.items():
        if tensor is not None:
            getattr(step, name).offset = tensor.data_ptr() - first
    if not all(run_plans([run])):
        return None
    result = y[..., :outputs].permute(0, 3, 1, 2)
    return result if outputs == y.shape[3] else result.clone(memory_format=torch.channels_last)


def _map(tensor: Tensor | None) -> structs.Map:
    """`tensor` [N, H, W, C] as an argument of the kernels, without its offset; an offset of -1 stands for no tensor."""
    if tensor is None:
        return structs.Map(offset=-1)
    _, height, width, channels = tensor.shape
    return structs.Map(bytes=tensor.nbytes, height=height, width=width, channels=channels, pixel=channels)


def _function(kind: str) -> Function:
    return Function(kind, NUMBERS[kind])


def _padded_channels(channels: int) -> int:
    return -(-channels // LANES) * LANES


def _padded_map(x: Tensor, padding: Sequence[int]) -> Tensor:
    """x [N, C, H, W] as [N, H, W, C] with padded sides and channels; x's own memory if that is its layout already."""
    top, left, bottom, right = padding
    rows, more = x.permute(0, 2, 3, 1), _padded_channels(x.shape[1]) - x.shape[1]
    if more or any(padding):
        rows = F.pad(rows, (0, more, left, right, top, bottom))
    return rows.contiguous()
