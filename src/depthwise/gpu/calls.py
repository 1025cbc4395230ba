"""A network's depthwise convolutions where the framework is called: seen there, and done there by something else."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from depthwise.bounds import Bounds, OneOf, check
from depthwise.gpu.depthwise import DTYPES, KERNELS, STRIDES
from depthwise.modes import in_mode

Size = Annotated[int, Bounds(1, 2**31 - 1)]


@dataclass(frozen=True)
class Shape:
    """A depthwise convolution without bias of maps [N, channels, height, width], with zeros on each side.

    kernel: of a side. dtype: the maps', by PyTorch's name.
    """

    channels: Size
    height: Size
    width: Size
    kernel: Annotated[int, OneOf(*KERNELS)]
    stride: Annotated[int, OneOf(*STRIDES)]
    padding: Annotated[int, Bounds(0, 4)]
    dtype: Annotated[str, OneOf("float32", "bfloat16")]

    def __post_init__(self) -> None:
        check(self, "a convolution")


Instead = Callable[[Tensor, Tensor, Shape], Tensor | None]
"""The result of a convolution from its map and weights; None leaves it to the framework."""


_asked: ContextVar["Instead | None"] = ContextVar("_asked", default=None)


@contextmanager
def watching(instead: Instead) -> Iterator[None]:
    """Inside it `instead` is asked first wherever the framework's conv2d is called for what has a kernel."""
    token = _asked.set(instead)
    try:
        with _Watch(instead):
            yield
    finally:
        _asked.reset(token)


def again() -> AbstractContextManager[Any]:
    """What is in force here, for a backward pass that calls a part of the network again.

    The framework runs that without the mode, and maybe in a thread of its own.
    """
    instead = _asked.get()
    return _Watch(instead) if instead else nullcontext()


class _Watch(TorchFunctionMode):
    def __init__(self, instead: Instead) -> None:
        super().__init__()
        self.instead = instead

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d and (shape := shape_of(*args, **kwargs)) is not None:
            result = self.instead(*_map_and_weight(*args, **kwargs), shape)
            if result is not None:
                return result
        return func(*args, **kwargs)


def shape_of(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Shape | None:
    """The shape of a call to torch.conv2d, whose arguments these are; None if there is no kernel for it."""
    if input.ndim != 4 or bias is not None or groups != input.shape[1] or weight.shape[:2] != (groups, 1):
        return None
    kernel, stride, dilation = _side(weight.shape[2:]), _side(stride), _side(dilation)
    if kernel not in KERNELS or stride not in STRIDES or dilation != 1:
        return None
    if isinstance(padding, str):
        padding = kernel // 2 if padding == "same" else 0  # "same" has no other stride than 1
    padding, dtype = _side(padding), _dtype(input)
    if padding is None or padding >= kernel or dtype not in DTYPES or not input.numel():
        return None
    if min(input.shape[2:]) + 2 * padding < kernel:
        return None
    channels, height, width = input.shape[1:]
    return Shape(channels, height, width, kernel, stride, padding, str(dtype).removeprefix("torch."))


def shapes(module: nn.Module, image: Sequence[int], dtype: str) -> list[Shape]:
    """Those of `module` in training on images [C, H, W], each once, in their order, for maps of `dtype`.

    Nothing is computed: the module is on the meta device.
    """
    found: dict[Shape, None] = {}

    def note(x: Tensor, weight: Tensor, shape: Shape) -> None:
        found.setdefault(replace(shape, dtype=dtype))

    with in_mode(module, training=True), watching(note):
        module(torch.empty(2, *image, device="meta"))
    return [*found]


def _map_and_weight(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return input, weight


def _side(value: Any) -> int | None:
    """The number for both sides; None if they differ."""
    if isinstance(value, int):
        return value
    return value[0] if len({*value}) == 1 else None


def _dtype(x: Tensor) -> torch.dtype:
    """What the framework would compute in."""
    kind = x.device.type
    autocast = kind != "meta" and x.is_floating_point() and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocast else x.dtype
