"""What a network costs: parameters, multiply-adds and activation bytes of any module, layer by layer."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from depthwise.layers import PointwiseConv2d


@dataclass(frozen=True)
class LayerCost:
    """One module that does work of its own, for one image.

    `parameters` are those the module holds itself, `macs` the multiply-adds it runs itself, summed over its
    calls; `output_shape` is without the batch. `kind` is convolution, depthwise, pointwise, linear, or the
    class's name.
    """

    name: str
    kind: str
    parameters: int
    macs: int
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """The bill for one image in evaluation mode.

    `parameters` counts all of the module's, also those that evaluation does not use (an auxiliary tower), and
    `trainable` the ones with gradients. `macs` counts the multiply-adds of convolutions and matrix products;
    batch norm, activations and pooling are not in it, as in the papers. `activation_bytes` is the sum of all
    layers' outputs at float32, those aside that are their input again (in place, identity).
    """

    parameters: int
    trainable: int
    macs: int
    activation_bytes: int
    layers: tuple[LayerCost, ...]


def cost(module: nn.Module, input_shape: tuple[int, int, int]) -> Cost:
    """Count `module` on one blank image of `input_shape`, (C, H, W), and leave it as it was.

    The module runs once, on its own device; what it raises for a shape that does not fit is passed on.
    """
    ledger = _Ledger()
    parameters = list(module.parameters())
    reference = parameters[0] if parameters else torch.empty(0)
    image = torch.zeros(1, *input_shape, dtype=reference.dtype, device=reference.device)
    devices = [image.device] if image.is_cuda else []
    with torch.random.fork_rng(devices), torch.no_grad(), _evaluation(module), ledger.watch(module):
        module(image)
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        macs=ledger.counter.macs,
        activation_bytes=ledger.activation_bytes,
        layers=tuple(ledger.layers.values()),
    )


class _Counter(TorchDispatchMode):
    """Multiply-adds of the operators below it, by the formulas of PyTorch's own counter."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.macs += formula(*args, **(kwargs or {}), out_val=out) // 2
        return out


class _Ledger:
    """The counter read before and after every module: what lies between, less the children's, is its own."""

    def __init__(self) -> None:
        self.layers: dict[str, LayerCost] = {}
        self.activation_bytes = 0
        self.counter = _Counter()
        self._started: list[int] = []
        self._children = [0]

    @contextmanager
    def watch(self, module: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for name, part in module.named_modules():
                stack.callback(part.register_forward_pre_hook(self._start).remove)
                stack.callback(part.register_forward_hook(partial(self._stop, name)).remove)
            stack.enter_context(self.counter)
            yield

    def _start(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._started.append(self.counter.macs)
        self._children.append(0)

    def _stop(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        total = self.counter.macs - self._started.pop()
        own = total - self._children.pop()
        self._children[-1] += total
        fresh = [out for out in _tensors(output) if not any(out is tensor for tensor in inputs)]
        leaf = next(module.children(), None) is None
        parameters = sum(p.numel() for p in module.parameters(recurse=False))
        if leaf:
            self.activation_bytes += sum(4 * out.numel() for out in fresh)
        if own or parameters or (leaf and fresh):
            shape = tuple(fresh[0].shape[1:]) if fresh else ()
            earlier = self.layers[name].macs if name in self.layers else 0
            self.layers[name] = LayerCost(name, _kind(module), parameters, earlier + own, shape)


def _kind(module: nn.Module) -> str:
    match module:
        case PointwiseConv2d():
            return "pointwise"
        case nn.Conv2d(groups=groups, in_channels=channels) if groups == channels > 1:
            return "depthwise"
        case nn.Conv2d(kernel_size=(1, 1)):
            return "pointwise"
        case nn.Conv2d():
            return "convolution"
        case nn.Linear():
            return "linear"
        case _:
            return type(module).__name__


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


@contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
