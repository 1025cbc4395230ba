"""General engines under `compile`, each as it is installed: what the native kernels refuse, they run."""

import importlib
import re
import threading
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer import compile
from depthwise.infer.general import GENERAL, General, fastest, usable


class Shuffled(nn.Module):
    """What has no plan: channels shuffled between groups, as ShuffleNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12)
        self.second, self.head = nn.Conv2d(12, 12, 3, groups=3), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.gelu(self.norm(self.first(x)))
        y = y.unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2)
        return self.head(self.second(y).mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Shuffled().eval()


IMAGES = torch.randn(5, 3, 20, 22, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "precision"), [(name, p) for name in GENERAL for p in GENERAL[name]])
def test_each_engine_answers_as_the_network_for_any_batch(
    network: nn.Module, name: str, precision: str
) -> None:
    compiled = compile(network, IMAGES[:1], precision=precision, engine=name)
    assert compiled.engine == name
    assert f"precision={precision}, engine={name}" in repr(compiled)
    with torch.no_grad():
        expected = network(IMAGES)
    for x in (IMAGES, IMAGES[:1], IMAGES[:2].contiguous(memory_format=torch.channels_last), IMAGES[3:4]):
        y, wanted = (
            compiled(x),
            expected[3:4] if x.data_ptr() == IMAGES[3:4].data_ptr() else expected[: len(x)],
        )
        assert y.shape == wanted.shape
        assert y.dtype == torch.float32
        assert not y.requires_grad
        tolerance = {"fp32": 1e-5, "bf16": 3e-2}[precision]
        assert float((y - wanted).abs().max()) <= tolerance * float(wanted.abs().max())
    assert compiled(IMAGES[:0]).shape == (0, 5)
    with pytest.raises(
        DepthwiseError, match=re.escape("[N, 3, 20, 22] on the CPU, not float32 [1, 3, 20, 23]")
    ):
        compiled(torch.zeros(1, 3, 20, 23))


@pytest.mark.parametrize("name", GENERAL)
def test_threads_share_an_engine_and_the_weights_are_its_own(network: nn.Module, name: str) -> None:
    torch.manual_seed(1)
    network = Shuffled().train()
    compiled = compile(network, IMAGES[:1], engine=name)
    assert network.training
    expected = [compiled(image[None]) for image in IMAGES]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    wrong = []

    def work(index: int) -> None:
        for _ in range(10):
            if not torch.equal(compiled(IMAGES[index : index + 1]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(IMAGES))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_auto_takes_an_engine_where_there_is_no_plan(network: nn.Module) -> None:
    with pytest.raises(DepthwiseError, match="permute in the network has no compiled form"):
        compile(network, IMAGES[:1], engine="native")
    compiled = compile(network, IMAGES[:1], precision="bf16")
    assert compiled.engine in [name for name in GENERAL if "bf16" in GENERAL[name]]
    assert compile(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), IMAGES[:1]).engine == "native"


def test_what_no_export_reads_is_left_to_pytorch() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) if float(x.sum()) > 0 else x.amax((2, 3))

    compiled = compile(Branching(), IMAGES[:1])
    assert compiled.engine == "torch"
    torch.testing.assert_close(compiled(IMAGES), Branching()(IMAGES))
    with pytest.raises(DepthwiseError, match=r"torch\.export does not read Branching: "):
        compile(Branching(), IMAGES[:1], engine="native")
    with pytest.raises(DepthwiseError, match="openvino does not run this network: "):
        compile(Branching(), IMAGES[:1], engine="openvino")


def test_the_fastest_is_the_one_that_waits_least(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = GENERAL["torch"]["fp32"]

    def slow(network: nn.Module, x: Tensor, threads: int):
        run, paused = prepare(network, x, threads), threading.Event()
        return lambda x: paused.wait(0.05) or run(x)

    for names, quickest in ((("torch", "json"), "torch"), (("json", "torch"), "torch")):
        for name in list(GENERAL):
            monkeypatch.delitem(GENERAL, name)
        for name in names:
            monkeypatch.setitem(GENERAL, name, {"fp32": prepare if name == quickest else slow})
        engines = [General(name, network, IMAGES[:1], "fp32") for name in usable("fp32")]
        assert fastest(engines, IMAGES[:1]).name == quickest


def test_the_fastest_of_all_has_been_timed_with_the_native_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    timed: list[str] = []

    def chosen(candidates, example):
        timed.extend(candidate.engine for candidate in candidates)
        return fastest(candidates, example)

    monkeypatch.setattr(importlib.import_module("depthwise.infer.choice"), "fastest", chosen)
    compiled = compile(network, IMAGES[:1], engine="fastest")
    assert sorted(timed) == sorted(["native", *(name for name in GENERAL if find_spec(name))])
    assert compiled.engine in timed
    torch.testing.assert_close(compiled(IMAGES), network(IMAGES), rtol=1e-4, atol=1e-5)


def test_what_is_not_there_is_said(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DepthwiseError, match="onnxruntime is not used in bf16: choose another"):
        compile(network, IMAGES[:1], precision="bf16", engine="onnxruntime")
    with pytest.raises(
        DepthwiseError, match="engine='tvm' is none of auto, fastest, native, openvino, onnxruntime, torch"
    ):
        compile(network, IMAGES[:1], engine="tvm")
    monkeypatch.setitem(GENERAL, "no_such_engine", GENERAL["torch"])
    assert find_spec("no_such_engine") is None
    with pytest.raises(
        DepthwiseError, match=re.escape("no_such_engine is not installed: pip install 'depthwise[export]'")
    ):
        General("no_such_engine", network, IMAGES[:1], "fp32")


@pytest.mark.parametrize("name", sorted(GENERAL))
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_images_that_are_not_finite_are_answered_as_pytorch_does(name: str, value: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.MaxPool2d(2), nn.Conv2d(3, 8, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    images = torch.randn(3, 3, 10, 10)
    compiled = compile(network.eval(), images[:1], engine=name)  # type: ignore[arg-type]
    images[1, 2, 5, 5] = value
    found, wanted = compiled(images), network(images).detach()
    assert torch.equal(found[1].isfinite(), wanted[1].isfinite())
    torch.testing.assert_close(found, wanted, equal_nan=True, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(compiled(images[1:2]), wanted[1:2], equal_nan=True, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weight", [0.5, torch.nan])
def test_pytorch_runs_a_network_that_views_maps_in_order(weight: float) -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3)
            self.first.weight.data[1, 0, 0, 0] = weight

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return y.view(len(y), -1)

    network = Viewing().eval()
    with torch.no_grad():
        expected = network(IMAGES)
    compiled = compile(network, IMAGES[:1], engine="torch")
    torch.testing.assert_close(compiled(IMAGES), expected, equal_nan=True)
