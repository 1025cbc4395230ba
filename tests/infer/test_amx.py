"""Plans on tiles (AMX) against plans on AVX-512, on a build whose tile instructions are C++ functions.

Those follow Intel's manual and end the process where the processor would raise an exception. Steps are the same but for
the order in which products are summed.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from depthwise import native
from depthwise.errors import DepthwiseError
from depthwise.infer.graph import Graph
from depthwise.infer.lower import lower
from depthwise.infer.plan import Plan
from depthwise.infer.quantize import Rounding, calibrate
from depthwise.layers import ConvNorm, PointwiseConv2d, Residual, SeparableConv2d, conv2d
from depthwise.models import create_model
from depthwise.native.library import _load, library

SOURCES = Path(__file__).parents[2] / "native"
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-trapping-math", "-Wno-psabi", "-fPIC", "-shared")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the emulated kernels; what they share with the other paths stays in the library installed."""
    assert library.loaded is not None, library.reason
    try:
        native.use("avx512bf16")
    except DepthwiseError as error:
        pytest.skip(f"Tiles are for processors that have AVX-512 with bfloat16 as well: {error}")
    finally:
        native.use("best")
    folder = tmp_path_factory.mktemp("emulated")
    sources = (SOURCES / "isa_amx.cpp", SOURCES / "api.cpp", library.loaded._name)
    command = ("g++", *FLAGS, "-DNATIVE_AMX_EMULATED", *sources, "-o", folder / "_kernels.so")
    subprocess.run(command, check=True, capture_output=True)
    return folder


Runner = Callable[..., list[Tensor]]


@pytest.fixture(scope="module")
def run(folder: Path) -> Runner:
    """run(path, graph, roundings, batches): what the plan says; "amx" is the emulated one."""
    installed = library.loaded
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPTHWISE_KERNELS", str(folder))
        emulated, reason = _load()
    assert emulated is not None, reason

    def run(
        path: str, graph: Graph, roundings: Mapping[int, Rounding], batches: Iterable[Tensor]
    ) -> list[Tensor]:
        library.loaded = emulated if path == "amx" else installed
        try:
            native.use(path)
            plan = Plan(graph, bf16=True, roundings=roundings)
            return [plan(x) for x in batches]
        finally:
            library.loaded = installed
            native.use("best")

    return run


def assert_same(
    run: Runner, tolerance: float, network: nn.Module | Graph, *batches: Tensor, int8: bool = False
) -> None:
    """On tiles and on vectors, relative to the largest value."""
    with torch.no_grad():
        graph = network if isinstance(network, Graph) else lower(network.eval(), batches[0][:1])
        roundings = calibrate(graph, batches) if int8 else {}
    assert bool(roundings) == int8
    tiles, vectors = (run(path, graph, roundings, batches) for path in ("amx", "avx512bf16"))
    for actual, expected in zip(tiles, vectors, strict=True):
        assert float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max())


ONE_STEP = 3e-6
"""Of a step whose result stays float32: what the order of a sum changes."""

NETWORK = 3e-2
"""What it comes to where every map is rounded to bfloat16, as far as that is from float32 itself."""


both = pytest.mark.parametrize("int8", [False, True], ids=["bf16", "int8"])


def between(layer: nn.Module, inputs: int, outputs: int, int8: bool) -> nn.Module:
    """`layer` between a product of the image, too shallow for AMX, and a last product, which is never in int8."""
    # Of one channel a kernel of 1 would be a mere factor of the map.
    last = conv2d(outputs, outputs, 3 if outputs == 1 else 1, 1, "same") if int8 else nn.Identity()
    return nn.Sequential(conv2d(3, inputs, 3, 1, "same"), nn.ReLU(), layer, last)


@both
@pytest.mark.parametrize("channels", [(1, 17), (3, 33), (17, 48), (33, 1), (48, 728), (728, 96), (64, 80)])
@pytest.mark.parametrize("kind", ["separable", "1x1", "3x3"])
@pytest.mark.parametrize(("stride", "size"), [(1, (13, 19)), (2, (20, 33))])
def test_a_step_of_any_shape(
    run: Runner, int8: bool, channels: tuple[int, int], kind: str, stride: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    layer = (
        SeparableConv2d(*channels, 3, stride)
        if kind == "separable"
        else conv2d(*channels, int(kind[0]), stride, "same")
    )
    batches = torch.randn(1, 3, *size), torch.randn(5, 3, *size)
    assert_same(run, ONE_STEP, between(layer, *channels, int8), *batches, int8=int8)


@both
@pytest.mark.parametrize("channels", [(64, 80), (96, 192), (512, 288)])
def test_groups(run: Runner, int8: bool, channels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = conv2d(*channels, 3, 1, "same", groups=4)
    batches = torch.randn(1, 3, 9, 21), torch.randn(5, 3, 9, 21)
    assert_same(run, ONE_STEP, between(layer, *channels, int8), *batches, int8=int8)


@both
def test_a_residual_and_an_activation(run: Runner, int8: bool) -> None:
    torch.manual_seed(0)
    layer = Residual(ConvNorm(PointwiseConv2d(40, 40), 40, nn.Identity), nn.Identity(), nn.ELU)
    batches = torch.randn(1, 3, 9, 11), torch.randn(5, 3, 9, 11)
    assert_same(run, ONE_STEP, between(layer, 40, 40, int8), *batches, int8=int8)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("xception", {}),
        ("mobilenet_v2", {}),
        ("resnet50", {}),
        ("resnext50_32x4d", {}),
        ("nin_maxout", {}),
        ("vgg16_bn", {}),
        ("inception_v3", {"width": 1.0}),
    ],
)
def test_whole_networks(run: Runner, name: str, arguments: dict[str, object]) -> None:
    torch.manual_seed(0)
    arguments = {"num_classes": 10, "in_channels": 1, "stem": "small", "width": 0.25} | arguments
    network = create_model(name, **arguments)
    batches = torch.randn(1, 1, 33, 40), torch.randn(5, 1, 33, 40)
    with torch.no_grad():
        graph = lower(network.eval(), batches[0])
    for int8 in (False, True):
        assert_same(run, NETWORK, graph, *batches, int8=int8)


@both
def test_what_is_not_finite(run: Runner, int8: bool) -> None:
    torch.manual_seed(0)
    layers = conv2d(3, 64, 1), nn.ReLU(), PointwiseConv2d(64, 64), nn.MaxPool2d(2), PointwiseConv2d(64, 48)
    network, finite = nn.Sequential(*layers).eval(), torch.randn(5, 3, 8, 12)
    with torch.no_grad():
        graph = lower(network, finite[:1])
    roundings = calibrate(graph, [finite]) if int8 else {}
    for value in (torch.nan, torch.inf, -torch.inf):
        x = finite.clone()
        x[2, 1, 3, 3] = x[4] = value
        with torch.no_grad():
            expected = network(x)
        y, others = run("amx", graph, roundings, [x, finite])
        assert torch.equal(y.isnan(), expected.isnan())
        assert torch.equal(y.isinf(), expected.isinf())
        assert torch.equal(y[[0, 1, 3]], others[[0, 1, 3]])


def test_bits_do_not_depend_on_the_threads(run: Runner) -> None:
    torch.manual_seed(0)
    network = create_model("xception", num_classes=10, stem="small", width=0.25).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        graph = lower(network, x)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results += run("amx", graph, {}, [x])
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


CHOICES = """
import os, torch
for wrong in ("", "bf16", "int8"):
    pid = os.fork()
    if not pid:
        os.environ["NATIVE_AMX_WRONG"] = wrong
        from depthwise import native
        print(native.status(), flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_tiles_are_the_first_choice_unless_they_compute_wrongly(folder: Path) -> None:
    """In processes that load the kernels anew, of one that has torch."""
    environment = {**os.environ, "DEPTHWISE_KERNELS": str(folder), "DEPTHWISE_NATIVE": "best"}
    command = [sys.executable, "-c", CHOICES]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    best, *others = found.splitlines()
    assert "(amx)" in best
    assert ["(avx512bf16)" in other for other in others] == [True, True]
