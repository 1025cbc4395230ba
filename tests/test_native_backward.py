"""What autograd offers around the native kernels, and tensors that lie otherwise: as in PyTorch, or a sentence."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tests.conftest import using
from torch import Tensor, nn

from depthwise import native
from depthwise.layers import ConvNorm, MaxPool2d, Residual, SeparableConv2d, SqueezeExcite

pytestmark = pytest.mark.usefixtures("one_thread")
REMEDY = r"call depthwise\.native\.use\('off'\) before the forward pass"


def network() -> nn.Module:
    """All kinds of kernels, with and without a norm before them."""
    torch.manual_seed(0)
    body = nn.Sequential(
        ConvNorm(SeparableConv2d(8, 8, 3), 8, nn.ReLU),
        MaxPool2d(3, 1),
        SeparableConv2d(8, 8, 3),
        nn.AvgPool2d(3, 1, 1),
    )
    return nn.Sequential(Residual(body, activation=nn.ReLU), SqueezeExcite(8, 2), nn.Conv2d(8, 4, 1))


def images() -> Tensor:
    x = torch.randn(3, 8, 9, 7, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def learned(module: nn.Module, hooks: Any = None) -> list[Tensor]:
    x = images()
    with hooks or nullcontext():
        y = module(x)
    gradients = torch.autograd.grad(y.square().sum(), [x, *module.parameters()])
    return [y.detach(), *gradients, *(buffer.clone() for buffer in module.buffers())]


def outcome(module: nn.Module) -> list[Tensor] | str:
    """What is learned, or what PyTorch says is wrong."""
    try:
        return learned(module)
    except (RuntimeError, ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def assert_same(found: list[Tensor] | str, wanted: list[Tensor] | str) -> None:
    if isinstance(found, str) or isinstance(wanted, str):
        assert found == wanted
        return
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def spread(tensor: Tensor) -> Tensor:
    return tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1])[..., ::2].copy_(tensor)


ODD: dict[str, Callable[[Tensor], Tensor]] = {
    "on another device": lambda t: t.to("meta"),
    "in float64": lambda t: t.double(),
    "in bfloat16": lambda t: t.bfloat16(),
    "with gaps": spread,
    "one value for all": lambda t: (
        t.flatten()[:1].expand(t.numel()).view_as(t) if t.ndim == 1 else t[:1].expand_as(t)
    ),
    "of half the size": lambda t: t[: len(t) // 2].clone(),
    "of too many sides": lambda t: t[None].clone(),
}
TENSORS = {
    "the filters": ("0.body.0.conv.depthwise", "weight"),
    "the products' weights": ("0.body.0.conv.pointwise", "weight"),
    "the norm's weight": ("0.body.0.norm", "weight"),
    "its bias": ("0.body.0.norm", "bias"),
    "its mean": ("0.body.0.norm", "running_mean"),
    "its variance": ("0.body.0.norm", "running_var"),
    "a gate's weights": ("1.excite", "weight"),
}


def put(module: nn.Module, owner: nn.Module, name: str, made: Tensor | None) -> nn.Module:
    if isinstance(getattr(owner, name), nn.Parameter):
        setattr(owner, name, None if made is None else nn.Parameter(made))
    else:
        setattr(owner, name, made)
    return module


@pytest.mark.parametrize("what", TENSORS)
@pytest.mark.parametrize("odd", ODD)
def test_tensors_that_lie_otherwise_are_pytorchs(what: str, odd: str) -> None:
    """What it computes with, it computes; what it refuses is refused in its words. None is read by its address."""
    path, name = TENSORS[what]

    def changed() -> nn.Module:
        module = network()
        owner = module.get_submodule(path)
        return put(module, owner, name, ODD[odd](getattr(owner, name).detach()))

    with using("off"):
        wanted = outcome(changed())
    assert_same(outcome(changed()), wanted)


@pytest.mark.parametrize("name", ["weight", "bias", "num_batches_tracked"])
def test_norms_that_lack_something_are_pytorchs(name: str) -> None:
    def changed() -> nn.Module:
        module = network()
        return put(module, module.get_submodule("0.body.0.norm"), name, None)

    with using("off"):
        wanted = outcome(changed())
    assert_same(outcome(changed()), wanted)


def test_statistics_that_are_not_to_be_tracked_stay() -> None:
    def changed() -> nn.Module:
        module = network()
        module.get_submodule("0.body.0.norm").track_running_stats = False
        return module

    with using("off"):
        wanted = outcome(changed())
    assert_same(outcome(changed()), wanted)


class Wrapped(torch.Tensor):
    """A tensor of a class of its own, as quantised weights are, which has its numbers elsewhere."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Wrapped":
        made: Wrapped = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined]
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = [arg.inner if isinstance(arg, Wrapped) else arg for arg in args]
        made = function(*plain, **(kwargs or {}))
        return Wrapped(made) if function is torch.ops.aten.detach.default else made


@pytest.mark.parametrize("what", TENSORS)
def test_weights_of_another_class_are_asked_and_not_read(what: str) -> None:
    path, name = TENSORS[what]
    module = network()
    owner = module.get_submodule(path)
    found = []
    for wrap in (Wrapped, torch.clone):
        changed = copy.deepcopy(module)
        inner = getattr(owner, name).detach().clone()
        vars(changed.get_submodule(path))["_parameters"].pop(name, None)
        vars(changed.get_submodule(path))["_buffers"].pop(name, None)
        setattr(changed.get_submodule(path), name, wrap(inner))
        found.append(changed(images()).detach())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


PACKED: dict[str, Callable[[Tensor], Tensor]] = {
    "in another layout": lambda t: t.clone(memory_format=torch.contiguous_format),
    "in the other layout": lambda t: t.clone(
        memory_format=torch.contiguous_format if t.ndim != 4 else torch.channels_last
    ),
    "with gaps": spread,
}


@pytest.mark.parametrize("how", PACKED)
def test_tensors_may_be_packed_until_the_backward_pass(how: str) -> None:
    """And come back in another layout."""
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: PACKED[how](t.detach()), lambda t: t)
    with using("off"):
        wanted = learned(network())
    assert_same(learned(network(), hooks), wanted)
    assert_same(learned(network(), torch.autograd.graph.save_on_cpu()), wanted)


def test_batches_of_gradients_and_second_derivatives_say_what_to_do() -> None:
    """Also where the gradient given is a constant, and PyTorch's own decorator would let the second derivative be 0."""
    module, x = network(), images()
    with pytest.raises(RuntimeError, match=f"take no batch of gradients at once: {REMEDY}"):
        torch.autograd.grad(module(x).mean((0, 2, 3)), x, torch.eye(4), is_grads_batched=True)
    for loss in (lambda y: y.square().sum(), lambda y: y.sum()):
        y = module(x)
        (dx,) = torch.autograd.grad(loss(y), x, create_graph=True)
        with pytest.raises(RuntimeError, match=f"cannot be differentiated again: {REMEDY}"):
            (dx.square().sum() + y.sum()).backward()
    with using("off"):
        (dx,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
        dx.square().sum().backward()


def test_a_weight_that_changes_before_the_backward_pass_is_noticed() -> None:
    for name, _ in network().named_parameters():
        module = network()
        y = module(images())
        with torch.no_grad():
            module.get_parameter(name).add_(1)
        if name.endswith("norm.weight") or name.endswith("bias"):
            continue  # whose gradients and whose inputs' follow from what is kept
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_native_kernels_did_run() -> None:
    assert native.applies(images())
    names = set()
    seen = [network()(images()).grad_fn]
    while seen:
        function = seen.pop()
        if function is not None:
            names.add(function.name())
            seen += [after for after, _ in function.next_functions]
    assert {
        "DepthwiseBackward",
        "PointwiseBackward",
        "NormBackward",
        "MaxPoolBackward",
        "_GatedBackward",
    } <= names
