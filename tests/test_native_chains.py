"""Chains of modules in one pass against the same modules called one after another, whatever people do to them."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.conftest import using
from tests.models.networks import narrow
from torch import Tensor, nn

from depthwise import native
from depthwise.layers import ConvNorm, MaxPool2d, Residual, SeparableConv2d, conv2d

NETWORKS = ("xception", "mobilenet_v2", "se_resnet50", "inception_v1", "inception_v2")

pytestmark = pytest.mark.usefixtures("one_thread")


def images(channels: int = 3, size: int = 33) -> Tensor:
    x = torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


def network(name: str) -> nn.Module:
    deeper = {"depths": (1, 3, 1, 1)} if "resnet" in name else {}
    return narrow(name, stem="small", dropout=0.0, **deeper)


def learned(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The result in training, the gradients of its sum of squares, and the buffers after it, in float64."""
    output = module(x)
    outputs = [output] if isinstance(output, Tensor) else [*output]
    loss = sum((part.square().sum() for part in outputs), torch.zeros(()))
    gradients = torch.autograd.grad(loss, [x, *module.parameters()], allow_unused=True)
    found = [*outputs, *(gradient for gradient in gradients if gradient is not None), *module.buffers()]
    return [tensor.detach().double() for tensor in found]


def assert_as_pytorch(module: nn.Module, x: Tensor, *, kernels: bool = True) -> None:
    """`module` learns the same by PyTorch's own operators; `kernels`: and not by these, but by the native ones."""
    x, before = x.clone().requires_grad_(), copy.deepcopy(module.state_dict())
    with using("off"):
        wanted = learned(module, x)
    module.load_state_dict(before)
    found = learned(module, x)
    assert len(found) == len(wanted)
    largest = max(float(want.norm()) for want in wanted)
    for got, want in zip(found, wanted, strict=True):
        # Rounding grows in deep networks that nobody has trained, and some gradients are nothing else.
        assert float((got - want).norm()) <= 0.1 * float(want.norm()) + 1e-4 * largest
    assert not kernels or any(not torch.equal(got, want) for got, want in zip(found, wanted, strict=True))


def alike(module: nn.Module) -> Iterator[tuple[nn.Sequential, int, int]]:
    """Sequences of modules, and the places of two in each that one of them could take."""
    for part in module.modules():
        if isinstance(part, nn.Sequential):
            made = [str(child) for child in part]
            for last, text in enumerate(made):
                first = made.index(text)
                if first < last and next(part[first].parameters(), None) is not None:
                    yield part, first, last


@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.startswith("inception")])
def test_a_module_that_stands_in_two_places_runs_in_both(name: str) -> None:
    """Their weights are shared; `children` would name it once."""
    pairs = len([*alike(network(name))])
    assert pairs
    for number in range(pairs):
        module = network(name)
        part, first, last = [*alike(module)][number]
        part[last] = part[first]
        assert_as_pytorch(module, images())


def test_a_stage_that_stands_in_two_places_runs_in_both() -> None:
    module, seen = network("xception"), Counter[str]()
    named = dict(module.stages.named_children())
    module.stages = nn.Sequential()
    for name, stage in named.items():
        for place in (name, "again") if name == "middle" else (name,):
            module.stages.add_module(place, stage)
    assert_as_pytorch(module, images())
    named["middle"].register_forward_hook(lambda *_: seen.update(["runs"]))
    for run in (module, module.features, module.last_map):
        seen.clear()
        run(images())
        assert seen["runs"] == 2


def test_one_module_in_one_chain_twice() -> None:
    torch.manual_seed(0)
    twice = ConvNorm(SeparableConv2d(8, 8, 3), 8, nn.ReLU)
    assert_as_pytorch(Residual(nn.Sequential(twice, twice)), images(8))
    assert_as_pytorch(Residual(nn.Sequential(twice, nn.Sequential(twice, nn.ReLU(), twice.conv))), images(8))


def test_parts_that_were_put_back_run_in_the_order_of_forward() -> None:
    torch.manual_seed(0)
    module = ConvNorm(conv2d(8, 8, 3, 1, "same"), 8, nn.ReLU)
    norm = module.norm
    del module.norm
    module.norm = norm  # the last child now
    module.probe = nn.Conv2d(8, 8, 1)  # which forward does not call
    assert_as_pytorch(Residual(module), images(8))


@contextmanager
def hooked(part: nn.Module, how: str, seen: Callable[[], None]) -> Iterator[None]:
    forward: Any = type(part).forward

    def replaced(*arguments: Any, **named: Any) -> Any:
        seen()
        return forward(part, *arguments, **named)

    if how == "forward of its own":
        part.forward = replaced  # type: ignore[method-assign]
        yield
        del part.forward
        return
    handle = {
        "forward": lambda: part.register_forward_hook(lambda *_: seen()),
        "before forward": lambda: part.register_forward_pre_hook(lambda *_: seen()),
        "backward": lambda: part.register_full_backward_hook(lambda *_: seen()),
        "before backward": lambda: part.register_full_backward_pre_hook(lambda *_: seen()),
    }[how]()
    yield
    handle.remove()


@pytest.mark.parametrize("name", NETWORKS)
def test_who_watches_a_module_sees_it_as_often_as_without_kernels(name: str) -> None:
    """Any module, alone. What holds others alone, as ModuleList, and unused activations are called by nobody."""
    module, x = network(name), images()

    def calls(part: nn.Module) -> int:
        counted = Counter[str]()
        with hooked(part, "forward", lambda: counted.update(["calls"])):
            module(x)
        return counted["calls"]

    parts = dict(module.named_modules())
    with using("off"):
        wanted = {path: calls(part) for path, part in parts.items()}
    assert {path: calls(part) for path, part in parts.items()} == wanted
    assert sum(wanted.values()) > len(wanted) / 2


@pytest.mark.parametrize("how", ["forward of its own", "before forward", "backward", "before backward"])
def test_every_way_to_watch_a_module_sees_it(how: str) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(
        ConvNorm(SeparableConv2d(8, 8, 3), 8, nn.ReLU),
        nn.Identity(),
        MaxPool2d(3, 1),
        ConvNorm(conv2d(8, 8, 3, 1, "same"), 8, nn.ReLU6),
        nn.AvgPool2d(3, 1, 1),
    )
    module = nn.Sequential(Residual(body), nn.BatchNorm2d(8), nn.ReLU())
    for path, part in module.named_modules():
        seen: list[int] = []
        with hooked(part, how, lambda seen=seen: seen.append(1)):
            assert_as_pytorch(module, images(8), kernels=bool(path))
        assert seen == [1, 1], path  # once with kernels, once without


def test_hooks_for_all_modules_see_all() -> None:
    module, x = network("xception"), images()

    def seen() -> list[str]:
        kinds: list[str] = []
        handle = nn.modules.module.register_module_forward_hook(
            lambda part, *_: kinds.append(type(part).__name__)
        )
        try:
            module(x)
        finally:
            handle.remove()
        return kinds

    found = seen()
    with using("off"):
        assert seen() == found
    assert native.applies(x)
