"""The native kernels against PyTorch's own operators, on every instruction set that this machine has."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from depthwise import native
from depthwise.errors import DepthwiseError


def runs(path: str) -> bool:
    try:
        native.use(path)
    except DepthwiseError:
        return False
    finally:
        native.use("best")
    return True


NATIVE = [path for path in native.PATHS if runs(path)]


@pytest.fixture(params=NATIVE)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    native.use(request.param)
    yield request.param
    native.use("best")


def image(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator).to(dtype)
    return values.contiguous(memory_format=torch.channels_last)


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -1, 1)
    return norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (5, 3, 7, 5), (1, 17, 9, 4), (5, 64, 6, 6), (2, 728, 5, 3)])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("add", [False, True])
def test_batch_norm(path: str, dtype: torch.dtype, shape: tuple[int, ...], relu: bool, add: bool) -> None:
    x, dy = image(*shape, dtype=dtype), image(*shape, dtype=dtype, seed=1)
    residual = image(*shape, dtype=dtype, seed=2) if add else None
    results = []
    for double in (True, False):
        torch.manual_seed(3)
        norm = norm_of(shape[1])
        inputs = [t.detach().clone() for t in (x, residual) if t is not None]
        if double:
            norm, inputs = norm.double(), [t.double() for t in inputs]
        inputs = [t.requires_grad_() for t in inputs]
        activation = nn.ReLU() if relu else nn.Identity()
        y = native.batch_norm_act(inputs[0], norm, activation, inputs[1] if add else None)
        gradients = torch.autograd.grad(y, [*inputs, norm.weight, norm.bias], dy.to(y.dtype))
        assert y.grad_fn is not None
        assert double or type(y.grad_fn).__name__ == "NormBackward"
        results.append([y, *gradients, norm.running_mean, norm.running_var, norm.num_batches_tracked])
    tolerance = 1e-4 if dtype is torch.float32 else 2e-2
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)
