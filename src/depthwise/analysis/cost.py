"""What a network costs: parameters, multiply-adds, memory and memory traffic of any module, layer by layer."""

import copy
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from depthwise.layers import PointwiseConv2d
from depthwise.modes import in_mode

KINDS = ("regular", "grouped", "depthwise", "pointwise", "linear")
"""The kinds of layer that multiply and add; grouped is anything between regular and depthwise."""


@dataclass(frozen=True)
class LayerCost:
    """One module that does work of its own, for one image.

    `parameters` are those the module holds itself; `macs` the multiply-adds and `bytes_moved` the memory traffic
    of its own operators, summed over its calls; the shapes are without the batch. `kind` is one of `KINDS`, or
    the class's name; `source` is the layer whose output it takes, None if something stands between or it runs again.
    """

    name: str
    kind: str
    parameters: int
    macs: int
    output_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    bytes_moved: int
    source: str | None

    @property
    def intensity(self) -> float:
        """Multiply-adds a byte moved."""
        return _ratio(self.macs, self.bytes_moved)


@dataclass(frozen=True)
class Cost:
    """The bill for one image. Bytes are those of the module's own number format, float32 as it is built.

    parameters: all of the module's, also those that evaluation does not use (an auxiliary tower); trainable: the ones
    with gradients. macs: multiply-adds of convolutions and matrix products in evaluation; batch norm, activations and
    pooling are not in it, as in the papers. activation_bytes: the sum of all layers' outputs in evaluation, those
    aside that are their input again (in place, identity).

    inference_bytes: the most that is alive at one moment of an evaluation, the image included; operators' scratch
    memory and the parameters are not. training_bytes: what PyTorch's own operators keep for the backward pass in
    training mode; the native kernels keep less. bytes_moved: what the operators of an evaluation read, weights
    included, and write, each tensor once an operator, however much of it the caches save.
    """

    parameters: int
    trainable: int
    macs: int
    activation_bytes: int
    inference_bytes: int
    training_bytes: int
    bytes_moved: int
    layers: tuple[LayerCost, ...]

    @property
    def intensity(self) -> float:
        """Multiply-adds a byte moved: what lies below the machine's own ratio is bound by memory."""
        return _ratio(self.macs, self.bytes_moved)

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """The fractions of `parameters` and `macs` in each kind of layer; what is in none of `KINDS` is other."""
        shares = {
            kind: {
                of: _ratio(sum(getattr(layer, of) for layer in self.layers if layer.kind == kind), total)
                for of, total in (("parameters", self.parameters), ("macs", self.macs))
            }
            for kind in KINDS
        }
        rest = {of: max(0.0, 1 - sum(s[of] for s in shares.values())) for of in ("parameters", "macs")}
        return {kind: share for kind, share in {**shares, "other": rest}.items() if any(share.values())}


def cost(module: nn.Module, input_shape: Sequence[int]) -> Cost:
    """Count `module` on blank images of `input_shape`, (C, H, W), and leave it as it was.

    It runs on its own device, once in evaluation mode on one image and once in training mode on two, because batch
    norm wants more than one value; `training_bytes` is half of theirs. What the module raises for a shape that does
    not fit is passed on. Built under `torch.device("meta")`, a network of any size is counted in a moment.
    """
    parameters = list(module.parameters())
    image, images = _blank(module, 1, input_shape), _blank(module, 2, input_shape)
    ledger = _Ledger(image, [*parameters, *module.buffers()])
    with torch.random.fork_rng([image.device] if image.is_cuda else []):
        with torch.no_grad(), in_mode(module, training=False), ledger.watch(module):
            module(image)
        with torch.enable_grad(), in_mode(module, training=True):
            training_bytes = _kept(module, images) // len(images)
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        macs=ledger.meter.macs,
        activation_bytes=ledger.activation_bytes,
        inference_bytes=ledger.meter.peak,
        training_bytes=training_bytes,
        bytes_moved=ledger.meter.moved,
        layers=tuple(ledger.layers.values()),
    )


def multiply_adds(module: nn.Module, input_shape: Sequence[int]) -> int:
    """The `macs` of `cost` alone, in a fraction of its time."""
    with torch.no_grad(), in_mode(module, training=False), _Meter() as meter, _Unnormed():
        module(_blank(module, 1, input_shape))
    return meter.macs


def training_multiply_adds(module: nn.Module, input_shape: Sequence[int]) -> int:
    """Those of a training step for one image: of the forward pass, auxiliary towers included, and of both gradients.

    That is three times the forward pass, less the gradient of the image, which no step takes. Two images are counted,
    because batch norm wants more than one value. A module on the meta device is counted in a moment.
    """
    images, parameters = _blank(module, 2, input_shape), [p for p in module.parameters() if p.requires_grad]
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.enable_grad(), in_mode(module, training=True), _Meter() as meter:
        outputs = _tensors(torch.func.functional_call(module, buffers, (images,)))
        torch.autograd.grad([output.sum() for output in outputs], parameters, allow_unused=True)
    return meter.macs // len(images)


def without_memory(module: nn.Module) -> nn.Module:
    """A copy of `module` on the meta device, to be counted in a moment whatever the size of its images."""
    places = {id(p): nn.Parameter(p.to("meta"), requires_grad=p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, {**places, **{id(b): b.to("meta") for b in module.buffers()}})


def machine_memory() -> int:
    """The bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def is_leaf(module: nn.Module) -> bool:
    """Whether the module is made of no others."""
    return next(module.children(), None) is None


class _Meter(TorchDispatchMode):
    """What the operators below it do: multiply-adds by PyTorch's own formulas, bytes moved, and memory alive."""

    def __init__(self, uncounted: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.macs = self.moved = self.peak = 0
        self._live = 0
        self._storages: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in uncounted}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.overloadpacket is torch.ops.aten.convolution_backward:
            self.macs += _of_gradients(*args)
        elif formula := flop_registry.get(func.overloadpacket):
            self.macs += formula(*args, **kwargs, out_val=out) // 2
        read, written = _tensors((args, kwargs)), _tensors(out)
        if func._schema.is_mutable or not _storages(written) <= _storages(read):  # a view moves nothing
            self.moved += sum(tensor.nbytes for tensor in (*read, *written))
        for tensor in written:
            self.hold(tensor)
        return out

    def hold(self, tensor: Tensor) -> None:
        """Count the memory of `tensor`, once for all that share it, for as long as it is alive."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._storages:
            self._storages[key] = weakref.ref(storage, lambda _: self._release(key, size))
            self._live += size
            self.peak = max(self.peak, self._live)

    def _release(self, key: int, size: int) -> None:
        del self._storages[key]
        self._live -= size


class _Unnormed(TorchFunctionMode):
    """Batch norms are passed over: none of their work is counted, and without memory they take most of the time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is nn.functional.batch_norm else func(*args, **(kwargs or {}))


class _Ledger:
    """The meter read before and after every module: what lies between, less the children's, is its own."""

    def __init__(self, image: Tensor, uncounted: Iterable[Tensor]) -> None:
        self.layers: dict[str, LayerCost] = {}
        self.activation_bytes = 0
        self.meter = _Meter(uncounted)
        self.meter.hold(image)
        self._sources = WeakIdKeyDictionary()
        self._started: list[tuple[int, int]] = []
        self._children = [(0, 0)]

    @contextmanager
    def watch(self, module: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for name, part in module.named_modules():
                stack.callback(part.register_forward_pre_hook(self._start).remove)
                stack.callback(part.register_forward_hook(partial(self._stop, name)).remove)
            stack.enter_context(self.meter)
            yield

    def _start(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._started.append((self.meter.macs, self.meter.moved))
        self._children.append((0, 0))

    def _stop(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        macs, moved = self._started.pop()
        macs, moved = self.meter.macs - macs, self.meter.moved - moved
        inner_macs, inner_moved = self._children.pop()
        outer_macs, outer_moved = self._children[-1]
        self._children[-1] = outer_macs + macs, outer_moved + moved
        given = _tensors(inputs)
        fresh = [out for out in _tensors(output) if not any(out is tensor for tensor in given)]
        leaf = is_leaf(module)
        parameters = sum(p.numel() for p in module.parameters(recurse=False))
        if leaf:
            self.activation_bytes += sum(out.nbytes for out in fresh)
        if macs > inner_macs or parameters or (leaf and fresh):
            earlier = self.layers.get(name)
            self.layers[name] = LayerCost(
                name,
                _kind(module),
                parameters,
                macs - inner_macs + (earlier.macs if earlier else 0),
                tuple(fresh[0].shape[1:]) if fresh else (),
                tuple(given[0].shape[1:]) if given else (),
                moved - inner_moved + (earlier.bytes_moved if earlier else 0),
                self._sources.get(given[0]) if given and not earlier else None,
            )
            self._sources.update((out, name) for out in fresh)


def _kept(module: nn.Module, images: Tensor) -> int:
    """The bytes that autograd keeps of one forward pass, each storage once, parameters and buffers aside."""
    # Batch norm moves its running statistics: those of copies.
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    own = _storages([*module.parameters(), *buffers.values()])
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    # Under a meter, as in evaluation, it is PyTorch's own operators that run.
    with _Meter(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.func.functional_call(module, buffers, (images,))
    return sum(storage.nbytes() for storage in kept.values())


def _of_gradients(gradient: Tensor, x: Tensor, weight: Tensor, *others: Any) -> int:
    """The multiply-adds of a convolution's gradients, of which PyTorch's formula knows no groups: each takes those of
    the convolution. The last of `others` says which of them (of x, weight and bias) are asked for."""
    return gradient.numel() * weight[0].numel() * sum(others[-1][:2])


def _blank(module: nn.Module, batch: int, input_shape: Sequence[int]) -> Tensor:
    reference = next(chain(module.parameters(), module.buffers()), torch.empty(0))
    return torch.zeros(batch, *input_shape, dtype=reference.dtype, device=reference.device)


def _kind(module: nn.Module) -> str:
    match module:
        case PointwiseConv2d():
            return "pointwise"
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            if module.groups == module.in_channels > 1:
                return "depthwise"
            if set(module.kernel_size) == {1}:
                return "pointwise"
            return "regular" if module.groups == 1 else "grouped"
        case nn.Linear():
            return "linear"
        case _:
            return type(module).__name__


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
