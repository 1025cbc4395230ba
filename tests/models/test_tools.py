"""What traces a network or computes parts of it again, on every network of the catalogue."""

import copy
from typing import Any

import pytest
import torch
from tests.conftest import using
from tests.models.networks import VARIANTS, narrow, outputs
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from depthwise.errors import DepthwiseError
from depthwise.models import list_models


def images(module: Any, batch: int = 2) -> Tensor:
    """Not square, and of odd sides."""
    side = max(module.min_size, 75)
    x = torch.randn(batch, 3, side, side + 6, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("name", "arguments"), VARIANTS, ids=str)
def test_a_symbolic_trace_computes_the_same(name: str, arguments: dict[str, Any]) -> None:
    module = narrow(name, **arguments).eval()
    graph = torch.fx.symbolic_trace(module)
    with torch.no_grad():
        for x in (images(module), images(module, 1)[..., :-5].contiguous()):
            assert torch.equal(graph(x), module(x))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("inception_v3", {}), ("inception_v3", {"aux": True}), ("inception_v2", {"aux": True})],
    ids=str,
)
def test_a_symbolic_trace_of_training_computes_the_same(name: str, arguments: dict[str, Any]) -> None:
    module = narrow(name, dropout=0.0, **arguments).train()
    graph = torch.fx.symbolic_trace(copy.deepcopy(module))
    x = images(module, 4)
    # The graph runs norm and ReLU one after another, the network in one pass where the kernels are.
    with using("off"):
        for found, expected in zip(outputs(graph(x)), outputs(module(x)), strict=True):
            assert torch.equal(found, expected)
    for name, buffer in graph.named_buffers():
        assert torch.equal(buffer, module.get_buffer(name)), name


@pytest.mark.parametrize(
    ("name", "arguments"), [*((name, {}) for name in list_models()), ("inception_v2", {"aux": True})], ids=str
)
def test_torchvision_extracts_the_maps_of_every_stride(name: str, arguments: dict[str, Any]) -> None:
    module: Any = narrow(name, **arguments).eval()
    stages = {f"stages.{stage.name}": stride for stride, stage in module._last_of.items()}
    extractor = create_feature_extractor(module, stages)
    with torch.no_grad():
        expected, found = module.features(images(module)), extractor(images(module))
    assert list(found) == list(expected)
    assert all(torch.equal(found[stride], expected[stride]) for stride in expected)


def step(module: Any, x: Tensor) -> tuple[int, Tensor]:
    """One forward and backward pass: the bytes kept between them, weights aside, and the next random number."""
    torch.manual_seed(3)
    own = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        results = outputs(module(x))
    torch.stack([result.square().mean() for result in results]).sum().backward()
    return sum(storage.nbytes() for storage in kept.values()), torch.rand(1)


CHECKPOINTED: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in list_models()),
    ("inception_v2", {"aux": True}),
    ("inception_v3", {"aux": True}),
    ("xception", {"stem": "small", "dropout": 0.5}),
]


@pytest.mark.parametrize(("name", "arguments"), CHECKPOINTED, ids=str)
def test_checkpointing_keeps_less_and_changes_no_bit(name: str, arguments: dict[str, Any]) -> None:
    plain: Any = narrow(name, **arguments).train().to(memory_format=torch.channels_last)
    saving: Any = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    (most, drawn), (less, drawn_too) = (step(module, images(plain)) for module in (plain, saving))
    assert less < 0.85 * most
    assert torch.equal(drawn, drawn_too)
    for (key, one), (_, other) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), key
    # Batch norm has seen the images once.
    for (key, one), (_, other) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        assert torch.equal(one, other), key
    saving.set_grad_checkpointing(enable=False)
    saving.zero_grad(set_to_none=True)
    assert step(saving, images(plain))[0] == most


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointing_in_any_layout_and_precision(layout: torch.memory_format, dtype: torch.dtype) -> None:
    plain: Any = narrow("nin", dropout=0.5).train()
    for module in (plain, narrow("xception").train()):
        module.to(memory_format=layout)
        saving: Any = copy.deepcopy(module)
        saving.set_grad_checkpointing()
        x = images(module).contiguous(memory_format=layout)
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            most, less = step(module, x)[0], step(saving, x)[0]
        assert less < most
        for one, other in zip(module.parameters(), saving.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)


def test_checkpointing_leaves_evaluation_features_and_traces_alone() -> None:
    module: Any = narrow("xception").eval()
    x = images(module)
    expected, maps = module(x), module.features(x)
    module.set_grad_checkpointing()
    with torch.no_grad():
        assert torch.equal(module(x), expected)
        assert torch.equal(torch.fx.symbolic_trace(module)(x), expected)
        assert torch.equal(torch.export.export(module, (x,)).module()(x), expected)
    assert all(torch.equal(module.features(x)[stride], maps[stride]) for stride in maps)
    assert list(module.state_dict()) == list(narrow("xception").state_dict())


def test_scripting_says_what_to_use_instead() -> None:
    module = narrow("xception").eval()
    x = images(module)
    for whole in (module, nn.Sequential(module, nn.Softmax(1))):
        with pytest.raises(DepthwiseError, match=r"use torch\.jit\.trace, torch\.export or depthwise export"):
            torch.jit.script(whole)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(module, x)(x), module(x))
