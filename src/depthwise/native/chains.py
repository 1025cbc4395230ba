"""Modules that run one after another, in training on a CPU with as few passes over memory as they allow.

A batch norm and a ReLU wait for the operator after them, which applies them as it reads its input. Norm, ReLU and
depthwise convolution in one pass take half the time that they take in three. Elsewhere the modules are called one after
another, which also defines what is computed.
"""

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from depthwise.native.averages import average_pool2d
from depthwise.native.fused import applies, batch_norm_act, depthwise_conv2d, max_pool, watched

M = TypeVar("M", bound=type[nn.Module])


class TakesNorm(Protocol):
    """A module that can compute module(norm(x)) in one pass."""

    def after_norm(self, x: Tensor, norm: nn.BatchNorm2d | None) -> Tensor: ...


_CHAINS: dict[type[nn.Module], Callable[[Any], Iterable[nn.Module]]] = {nn.Sequential: iter}
"""What gives the modules that one of a class calls, in order; one that it calls twice is there twice."""


def chain(*names: str) -> Callable[[M], M]:
    """A class decorator: modules of this class call their children of these `names` in turn, and do nothing else."""

    def entered(kind: M) -> M:
        _CHAINS[kind] = attrgetter(*names)
        return kind

    return entered


def run(
    module: nn.Module, x: Tensor, residual: Tensor | None = None, activation: nn.Module | None = None
) -> Tensor:
    """activation(module(x) + residual); residual and activation are optional.

    A module that TakesNorm applies the norm before it.
    """
    if not applies(x):
        return _finished(module(x), residual, activation)
    norm: nn.BatchNorm2d | None = None
    relu: nn.ReLU | nn.ReLU6 | None = None

    def settled(x: Tensor) -> Tensor:
        """`x` with the norm and the ReLU that wait."""
        if norm is not None:
            return batch_norm_act(x, norm, relu)
        return x if relu is None else relu(x)

    for step in _steps(module):
        match step:
            case nn.Identity() if not watched(step):
                pass
            case nn.ReLU() | nn.ReLU6() if relu is None:
                relu = step
            case nn.BatchNorm2d():
                x, norm, relu = settled(x), step, None
            case nn.Conv2d(groups=groups) if groups > 1:
                x = depthwise_conv2d(x, step, relu, norm)
                norm = relu = None
            case nn.MaxPool2d():
                x = max_pool(settled(x), step)
                norm = relu = None
            case nn.AvgPool2d():
                x = average_pool2d(settled(x), step)
                norm = relu = None
            case _ if relu is None and hasattr(type(step), "after_norm") and not watched(step):
                x, norm = cast(TakesNorm, step).after_norm(x, norm), None
            case _:
                x = step(settled(x))
                norm = relu = None
    if norm is not None and relu is None:
        return batch_norm_act(x, norm, activation, residual)
    return _finished(settled(x), residual, activation)


def add_residual(
    x: Tensor, body: nn.Module, skip: nn.Module, activation: nn.Module, scale: float = 1.0
) -> Tensor:
    """activation(scale * body(x) + skip(x)); the sum is part of the last norm's pass, if there is one."""
    if isinstance(skip, nn.Identity) and scale == 1 and not watched(skip):
        return run(body, x, residual=x, activation=activation)
    y = run(body, x)
    return run(skip, x, residual=y if scale == 1 else scale * y, activation=activation)


def concatenate(x: Tensor, branches: nn.ModuleList) -> Tensor:
    """The results of the branches on `x`, their channels one after the other."""
    return torch.cat([run(branch, x) for branch in branches], 1)


def _finished(x: Tensor, residual: Tensor | None, activation: nn.Module | None) -> Tensor:
    if residual is not None:
        x = x + residual
    return x if activation is None else activation(x)


def _steps(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that `module` runs one after another, if that is all it does, else `module` itself."""
    if (children := _CHAINS.get(type(module))) and not watched(module):
        for child in children(module):
            yield from _steps(child)
    else:
        yield module
