"""What a compiled network answers is what PyTorch answers, in value and in shape, or it is refused with a sentence."""

import copy
import io
import multiprocessing
import pickle
import re
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.infer.test_compiled import Maxout, randomise
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer import CompiledModule, compile
from depthwise.infer.general import GENERAL
from depthwise.infer.trace import from_json, to_json, trace
from depthwise.layers import SeparableConv2d

IMAGES = torch.randn(5, 3, 10, 10, generator=torch.Generator().manual_seed(0))
ENGINES = ("native", *GENERAL, "auto")


class Network(nn.Module):
    """Convolutions and heads under a forward of the test's own."""

    def __init__(self, call: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.call = call
        self.first, self.norm, self.second = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3)
        self.head, self.one, self.wide = nn.Linear(16, 5), nn.Linear(16, 1), nn.Linear(16 * 64, 5)
        randomise(self)

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)

    def means(self, x: Tensor) -> Tensor:
        """[N, 16, 1, 1]"""
        return F.adaptive_avg_pool2d(F.silu(self.first(x)), 1)


def assert_as_pytorch(network: nn.Module, compiled: nn.Module, tolerance: float = 1e-5) -> None:
    for x in (IMAGES[:1], IMAGES[:2], IMAGES[:3], IMAGES):
        with torch.no_grad():
            expected, found = network(x.clone()), compiled(x)
        assert found.shape == expected.shape
        assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def flattened_before(network: Any, x: Tensor) -> Tensor:
    p = network.norm(network.first(x))
    v = p.flatten(1)
    p.relu_()
    return network.wide(v)


def changed_through_a_view(network: Any, x: Tensor) -> Tensor:
    p = network.norm(network.first(x))
    p.flatten(1).relu_()
    return network.second(p)


def detached(network: Any, x: Tensor) -> Tensor:
    y = network.first(x)
    y.detach().relu_()
    return network.second(y)


def read_before(network: Any, x: Tensor) -> Tensor:
    y = network.first(x)
    z = F.silu(y)
    y.relu_()
    z += y
    return network.second(z)


def changed_images(network: Any, x: Tensor) -> Tensor:
    return network.first(x.relu_())


def sliced(network: Any, x: Tensor) -> Tensor:
    y = network.first(x)
    y[:, :8].relu_()
    return network.second(y)


IN_PLACE = [flattened_before, changed_through_a_view, detached, read_before, changed_images, sliced]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("call", IN_PLACE)
def test_a_change_in_place_shows_in_all_views(call: Callable[[Any, Tensor], Tensor], engine: Any) -> None:
    network = Network(call)
    before = IMAGES.clone()
    if call is sliced and engine == "native":
        with pytest.raises(DepthwiseError, match="has no compiled form"):
            compile(network, IMAGES[:1], engine=engine)
        return
    assert_as_pytorch(network, compile(network, IMAGES[:1], engine=engine))
    assert torch.equal(IMAGES, before)


def test_a_graph_made_functional_is_kept_as_any_other() -> None:
    traced = trace(Network(flattened_before), IMAGES[:1])
    assert [node.target for node in traced.nodes if not node.tensor][1:] == [
        "conv2d", "batch_norm", "relu", "view", "linear",
    ]  # fmt: skip
    assert to_json(from_json(to_json(traced))) == to_json(traced)


def test_a_buffer_that_counts_and_dropout_in_evaluation_have_no_plan() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.conv(x)

    with pytest.raises(DepthwiseError, match="the network changes its buffer calls as it runs"):
        compile(Counting(), IMAGES[:1], engine="native")
    random = Network(lambda n, x: F.dropout(n.first(x), training=True))
    with pytest.raises(DepthwiseError, match="dropout in evaluation in the network has no compiled form"):
        compile(random, IMAGES[:1], engine="native")
    with (
        pytest.warns(UserWarning, match="torch is not used for this network"),
        pytest.raises(DepthwiseError, match="no engine runs this network as PyTorch"),
    ):
        compile(random, IMAGES[:1])


Pair = namedtuple("Pair", ["aux", "out"])


@dataclass
class Output:
    logits: Tensor


SEVERAL = {
    "a dict of 'aux', 'out'": lambda n, x: {"aux": n.first(x), "out": n.means(x)},
    "a dict of 'out'": lambda n, x: {"out": n.first(x)},
    "a tuple of 1": lambda n, x: (n.first(x),),
    "a tuple of 2": lambda n, x: (n.first(x), None),
    "a list of 2": lambda n, x: [n.first(x), n.means(x)],
    "a Pair of 2": lambda n, x: Pair(n.first(x), n.means(x)),
    "a Output": lambda n, x: Output(n.first(x)),
    "None": lambda n, x: None,
    "int64 [1, 8, 8]": lambda n, x: n.first(x).argmax(1),
    "float64 [1, 16, 8, 8]": lambda n, x: n.first(x).double(),
}


@pytest.mark.parametrize("engine", [*ENGINES, "fastest"])
@pytest.mark.parametrize("what", SEVERAL)
def test_any_result_but_one_tensor_is_refused_by_every_engine(what: str, engine: Any) -> None:
    with pytest.raises(
        DepthwiseError, match=re.escape(f"the network's result is {what} and a compiled one's is one float32")
    ):
        compile(Network(SEVERAL[what]), IMAGES[:1], engine=engine)


SHAPES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "squeezed means": lambda n, x: n.means(x).squeeze(),
    "squeezed means before a head": lambda n, x: n.head(n.means(x).flatten(1)).squeeze(),
    "one, squeezed": lambda n, x: n.one(n.means(x).flatten(1)).squeeze(),
    "one, squeezed at 1": lambda n, x: n.one(n.means(x).flatten(1)).squeeze(1),
    "one, squeezed at -1": lambda n, x: n.one(n.means(x).flatten(1)).squeeze(-1),
    "one, flattened": lambda n, x: n.one(n.means(x).flatten(1)).flatten(),
    "one, viewed": lambda n, x: n.one(n.means(x).flatten(1)).view(-1),
    "a map in rows": lambda n, x: n.first(x).flatten(2),
    "a map flattened": lambda n, x: n.first(x).flatten(1),
    "viewed as rows of 16": lambda n, x: n.head(n.means(x).view(-1, 16)),
    "unsqueezed": lambda n, x: n.head(n.means(x).flatten(1)).unsqueeze(2),
    "a sum of views": lambda n, x: n.head(n.means(x).flatten(1)) + n.head(n.means(x).view(x.shape[0], -1)),
    "an activation of rows": lambda n, x: n.second(F.relu(n.first(x).flatten(2)).unflatten(2, (8, 8))),
    "computed weights": lambda n, x: F.conv2d(x, n.first.weight * 2),
    "maxout": lambda n, x: Maxout()(F.pad(n.first(x), (0, 0, 0, 0))[:, :15]),
}
NO_PLAN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a mean of everything": lambda n, x: n.first(x) - n.first(x).mean(),
    "a map as rows of 16": lambda n, x: n.head(n.first(x).view(-1, 16)).view(len(x), -1),
    "a head on a map's last side": lambda n, x: n.head(F.adaptive_avg_pool2d(n.first(x), (16, 16))),
    "a row times a map": lambda n, x: F.adaptive_avg_pool2d(n.first(x), (2, 16)) * n.means(x).flatten(1)[:1],
    "padded channels": lambda n, x: F.pad(n.first(x), (0, 0, 0, 0, 0, 1)),
    "pooled rows": lambda n, x: F.max_pool2d(n.first(x).flatten(2), 2),
}


@pytest.mark.parametrize("what", [*SHAPES, *NO_PLAN])
def test_results_have_pytorchs_shapes_for_any_number_of_images(what: str) -> None:
    network = Network({**SHAPES, **NO_PLAN}[what])
    for example in (IMAGES[:1], IMAGES[:2], IMAGES[:4]):
        if what in SHAPES and what != "maxout":
            native = compile(network, example, engine="native")
            assert_as_pytorch(network, native)
            assert native(IMAGES[:0]).shape == (0, *network(IMAGES[:2]).shape[1:])
        elif what in NO_PLAN:
            with pytest.raises(DepthwiseError, match="has no compiled form"):
                compile(network, example, engine="native")
    compiled = compile(network, IMAGES[:1])
    assert_as_pytorch(network, compiled)
    assert ("native" in compiled.dropped) == (compiled.engine != "native")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "call",
    [
        lambda n, x: n.head(n.means(x).flatten(1)).view(-1),
        lambda n, x: n.first(x).view(-1, 16),
        lambda n, x: n.first(x).mean(),
        lambda n, x: n.first(x).transpose(0, 1),
    ],
)
def test_a_result_without_a_row_for_each_image_is_refused(
    call: Callable[[Any, Tensor], Tensor], engine: Any
) -> None:
    with pytest.raises(DepthwiseError, match=r"of one image and .* of two, and a compiled one's has a row"):
        compile(Network(call), IMAGES[:1], engine=engine)


def test_what_does_not_run_is_said() -> None:
    with pytest.raises(DepthwiseError, match=r"does not run on images \[1, 3, 10, 10\]: mat1 and mat2"):
        compile(Network(lambda n, x: n.head(n.means(x))), IMAGES[:1])
    with pytest.raises(DepthwiseError, match=r"the example is \[0, 3, 10, 10\] and must hold an image"):
        compile(Network(lambda n, x: n.first(x)), IMAGES[:0])


@pytest.mark.parametrize(
    ("engine", "pool"),
    [
        ("openvino", lambda x: F.hardshrink(F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), 0)),
        ("onnxruntime", lambda x: F.hardshrink(F.avg_pool2d(x, 3, divisor_override=3), 0)),
    ],
)
def test_an_engine_with_wrong_answers_is_dropped_or_an_error(
    engine: Any, pool: Callable[[Tensor], Tensor]
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3), Called(pool)).eval()
    for images in (torch.zeros(1, 3, 64, 64), torch.randn(2, 3, 64, 64)):
        with pytest.raises(DepthwiseError, match=f"{engine} answers otherwise than PyTorch, by 0"):
            compile(network, images, engine=engine)
        for choice in ("auto", "fastest"):
            with pytest.warns(
                UserWarning, match=f"{engine} is not used for this network: .* answers otherwise"
            ):
                compiled = compile(network, images, engine=choice)  # type: ignore[arg-type]
            assert compiled.engine != engine
            assert "answers otherwise than PyTorch" in compiled.dropped[engine]
            x = torch.randn(3, 3, 64, 64)
            torch.testing.assert_close(compiled(x), network(x).detach(), rtol=1e-4, atol=1e-5)


class Called(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_wrong_numbers_shapes_and_nans_are_found(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(lambda n, x: n.first(x))
    expected = __import__("depthwise.infer.answers", fromlist=["answers"]).answers(network, IMAGES)
    with torch.no_grad():
        expected.check("ours", network, precision)
        for wrong in (
            lambda y: y[:, :-1],
            lambda y: y.double(),
            lambda y: y.where(y > -1, torch.nan),
            lambda y: y.where(y < 1, torch.inf),
            lambda y: y.where(y > y.amin((2, 3), keepdim=True), 4.0),
            lambda y: y.flip(1),
        ):
            with pytest.raises(DepthwiseError, match=r"^ours "):
                expected.check("ours", lambda x, wrong=wrong: wrong(network(x)), precision)


@pytest.mark.parametrize("engine", ["auto", "fastest"])
def test_int8_without_a_plan_is_what_the_general_engines_have(engine: Any) -> None:
    network = Network(NO_PLAN["a mean of everything"])
    with pytest.warns(UserWarning, match=r"int8 is for native plans alone and .* has no compiled form"):
        compiled = compile(network, IMAGES[:1], precision="int8", engine=engine, calibration=IMAGES)
    assert compiled.engine in GENERAL
    assert compiled.precision in GENERAL[compiled.engine]
    assert not compiled.roundings
    assert "has no compiled form" in compiled.dropped["native"]
    assert_as_pytorch(network, compiled, 3e-2)
    with pytest.raises(DepthwiseError, match="has no compiled form"):
        compile(network, IMAGES[:1], precision="int8", engine="native", calibration=IMAGES)


def test_bad_calibration_images_are_an_error_and_no_reason_for_another_precision() -> None:
    network = Network(lambda n, x: n.head(n.second(n.first(x)).mean((2, 3))))
    network.first.weight.data *= 1e3
    with pytest.raises(DepthwiseError, match=r"^the network's maps are not finite on the calibration images"):
        compile(network, torch.zeros(1, 3, 10, 10), precision="int8", calibration=IMAGES * 5e37)


def native(precision: str, maxout: bool = False) -> tuple[CompiledModule, Tensor]:
    torch.manual_seed(0)
    parts: list[nn.Module] = [nn.Conv2d(3, 20, 3), nn.ReLU(), SeparableConv2d(20, 72), nn.ReLU()]
    parts += [nn.Conv2d(72, 64, 3, groups=4), nn.ReLU6(), nn.Conv2d(64, 66, 1), nn.BatchNorm2d(66)]
    if maxout:
        parts.append(Maxout())
    parts += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(88 if maxout else 264, 7)]
    network, x = randomise(nn.Sequential(*parts)), torch.randn(2, 3, 12, 12)
    calibration = x if precision == "int8" else None
    return compile(network, x, precision=precision, engine="native", calibration=calibration), x  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_native_module_is_copied_pickled_and_saved_before_and_after_calls(
    path: str, precision: str
) -> None:
    for maxout in (False, True):
        compiled, x = native(precision, maxout)
        for _ in range(2):
            file = io.BytesIO()
            torch.save(compiled, file)
            file.seek(0)
            copies = [
                copy.deepcopy(compiled),
                pickle.loads(pickle.dumps(compiled)),
                torch.load(file, weights_only=False),
            ]
            expected = compiled(x)
            for made in copies:
                assert torch.equal(made(x), expected)
                assert repr(made) == repr(compiled)
            twice = pickle.loads(pickle.dumps(copies[1]))
            assert torch.equal(twice(x), expected)


def test_a_native_module_is_sent_to_a_worker() -> None:
    compiled, x = native("bf16")
    expected = compiled(x)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert torch.equal(pool.submit(CompiledModule.forward, compiled, x).result(), expected)


@pytest.mark.parametrize("engine", GENERAL)
def test_what_a_general_engine_runs_says_that_it_cannot_be_copied(engine: Any) -> None:
    compiled = compile(Network(flattened_before_plain), IMAGES[:1], engine=engine)
    for copied in (copy.deepcopy, pickle.dumps, lambda module: torch.save(module, io.BytesIO())):
        with pytest.raises(
            DepthwiseError, match=f"^a network that {engine} runs cannot be copied, pickled or saved"
        ):
            copied(compiled)


def flattened_before_plain(network: Any, x: Tensor) -> Tensor:
    return network.head(network.means(x).flatten(1))


@pytest.mark.parametrize("engine", ENGINES)
def test_images_that_require_a_gradient_are_refused_where_one_would_be_missed(engine: Any) -> None:
    compiled = compile(Network(flattened_before_plain), IMAGES[:1], engine=engine)
    x = IMAGES.clone().requires_grad_()
    with pytest.raises(DepthwiseError, match=r"require a gradient and a compiled network has none: .*detach"):
        compiled(x)
    with torch.no_grad():
        assert torch.equal(compiled(x), compiled(IMAGES))


def test_int8_is_not_refused_for_an_example_of_zeros() -> None:
    torch.manual_seed(0)
    parts = (nn.Conv2d(3, 16, 1, bias=False), nn.ReLU(), nn.Conv2d(16, 16, 1, bias=False), nn.ReLU())
    network = nn.Sequential(*parts, nn.Conv2d(16, 16, 1, bias=False)).eval()
    roundings = compile(network, IMAGES, precision="int8", engine="native", calibration=IMAGES).roundings
    compiled = compile(
        network, torch.zeros(1, 3, 10, 10), precision="int8", engine="native", roundings=roundings
    )
    assert compiled.engine == "native"
