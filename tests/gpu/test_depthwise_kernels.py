"""The Triton kernels: numbers in the interpreter on the CPU, machine code by the compiler. No GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from tests.gpu.interpreted import RUNS
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from depthwise.errors import UsageError
from depthwise.gpu import kernels
from depthwise.gpu.choice import Choices
from depthwise.gpu.depthwise import depthwise_conv2d

# float32 sums of at most 162 products. To bfloat16, which has 8 bits, the interpreter cuts where a GPU rounds.
TOLERANCE = {"fp32": 2e-6, "bf16": 2**-7}

# Triton compiles anew for each of these that is 1, as of maps of one pixel.
SIZES = {"num_pixels", "channels", "height", "width", "out_height", "out_width", "top", "left", "tiles"}


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("interpreted.py")],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("case", "dtype"), RUNS)
def test_result_and_gradients_are_those_of_pytorch(
    interpreted: dict[str, Any], case: str, dtype: str
) -> None:
    found = interpreted[f"{case}, {dtype}"]
    assert max(found["y"], found["dx"]) <= TOLERANCE[dtype]
    # The gradient of the weights stays float32, as the weights are.
    assert found["dweight"] <= TOLERANCE["fp32"]
    assert found.get("same", True)


@pytest.mark.parametrize(
    ("capability", "kernel", "stride", "dtype", "ones"),
    [(80, 3, 1, "bf16", SIZES), (90, 5, 2, "fp32", set())],
)
def test_the_kernels_compile_for_gpus(
    capability: int,
    kernel: int,
    stride: int,
    dtype: str,
    ones: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"kernel": kernel, "stride": stride, "pixels": 16, "block": 64}
    maps = dict.fromkeys(("x", "y", "dx", "dy"), f"*{dtype}") | dict.fromkeys(("taps", "parts"), "*fp32")
    for function in (kernels.forward, kernels.input_gradient, kernels.weight_gradient):
        types = {
            name: "constexpr" if name in constants | dict.fromkeys(ones) else maps.get(name, "i32")
            for name in function.arg_names
        }
        values = constants | {name: 1 for name in types if name in ones}
        aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(types) if name in maps}
        source = ASTSource(fn=function, signature=types, constexprs=values, attrs=aligned)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        assert compiled.asm["cubin"]
        assert "atom" not in compiled.asm["ptx"]  # sums have one order


def test_a_network_trains_with_them(interpreted: dict[str, Any]) -> None:
    """Its gradients are the framework's but for rounding, in the same bits where blocks are computed again."""
    found = interpreted["trained"]
    assert found["difference"] <= 1e-4
    assert found["untouched"] < 0.5  # or nothing was done by the kernels
    assert found["recomputed"] == 1


def test_what_is_measured_is_right_and_has_its_times(interpreted: dict[str, Any]) -> None:
    """In the interpreter, which is far slower than the framework."""
    choices = Choices.from_json(interpreted["measured"])
    assert choices.to_json() == interpreted["measured"]
    (choice,) = choices.choices
    assert not choice.triton
    assert "times as fast" in choice.reason
    assert choice.triton_ms > choice.framework_ms > 0


@pytest.mark.parametrize(
    ("shape", "weight", "stride", "dtype", "said"),
    [
        ((1, 4, 8, 8), (4, 1, 7, 7), 1, torch.float32, "a k of 3 or 5"),
        ((1, 4, 8, 8), (8, 1, 3, 3), 1, torch.float32, r"\[C, 1, k, k\]"),
        ((1, 4, 8, 8), (4, 1, 3, 3), 3, torch.float32, "stride 1 or 2"),
        ((1, 4, 8, 8), (4, 1, 3, 3), 1, torch.float16, "give float32 or bfloat16"),
        ((1, 4, 2, 8), (4, 1, 3, 3), 1, torch.float32, "smaller than the kernel"),
    ],
)
def test_what_has_no_kernel_is_refused(
    shape: tuple[int, ...], weight: tuple[int, ...], stride: int, dtype: torch.dtype, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        depthwise_conv2d(torch.zeros(shape, dtype=dtype), torch.zeros(weight), stride, (0, 0, 0, 0))
