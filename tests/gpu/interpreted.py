"""The Triton kernels in Triton's interpreter, on the CPU: how far they are from PyTorch's convolution in float64.

TRITON_INTERPRET must be set before Triton is imported, so this is a process of its own; it prints one JSON document.
"""

import json

import torch
from torch import Tensor
from torch.nn import functional as F

from depthwise.gpu.depthwise import Padding, depthwise_conv2d

# batch, channels, height, width; kernel, stride, padding (left, right, top, bottom). The asymmetric ones are SAME's.
CASES: dict[str, tuple[tuple[int, ...], int, int, Padding]] = {
    "3x3": ((2, 8, 6, 7), 3, 1, (1, 1, 1, 1)),
    "3x3, channels of no block, stride 2": ((1, 70, 5, 6), 3, 2, (1, 1, 1, 1)),
    "3x3, stride 2, SAME on an even side": ((2, 5, 8, 7), 3, 2, (1, 1, 0, 1)),
    "3x3, no padding": ((2, 3, 5, 4), 3, 2, (0, 0, 0, 0)),
    "3x3, one pixel": ((1, 8, 1, 1), 3, 1, (1, 1, 1, 1)),
    "3x3, one channel": ((3, 1, 4, 4), 3, 1, (1, 1, 1, 1)),
    "5x5": ((1, 16, 7, 6), 5, 1, (2, 2, 2, 2)),
    "5x5, stride 2, SAME on an even side": ((2, 9, 6, 8), 5, 2, (1, 2, 1, 2)),
    "5x5, two blocks of channels": ((1, 65, 3, 5), 5, 2, (2, 2, 2, 2)),
    "5x5, one pixel": ((2, 4, 1, 1), 5, 2, (2, 2, 2, 2)),
    "3x3, several parts of the weights' gradient": ((2, 64, 9, 9), 3, 1, (1, 1, 1, 1)),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in parts of the largest value."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


def compared(case: str, dtype: torch.dtype) -> dict[str, float | bool]:
    """The errors of the result and of both gradients; in float32, whether a second time gives the same bits."""
    shape, kernel, stride, padding = CASES[case]
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    weight = torch.randn(shape[1], 1, kernel, kernel)
    exact = [x.double().requires_grad_(), weight.double().requires_grad_()]
    expected = F.conv2d(F.pad(exact[0], padding), exact[1], stride=stride, groups=shape[1])
    dy = torch.randn(expected.shape, dtype=dtype)
    expected.backward(dy.double())

    def run() -> list[Tensor]:
        inputs = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        y = depthwise_conv2d(*inputs, stride, padding)
        y.backward(dy)
        assert y.dtype == x.dtype
        assert y.is_contiguous(memory_format=torch.channels_last)
        return [y.detach(), *(each.grad for each in inputs)]

    found = run()
    pairs = zip(("y", "dx", "dweight"), found, (expected.detach(), *(e.grad for e in exact)), strict=True)
    same = {"same": all(map(torch.equal, found, run()))} if dtype is torch.float32 else {}
    return {name: error(*pair) for name, *pair in pairs} | same


def main() -> None:
    torch.set_num_threads(1)
    print(json.dumps({f"{case}, {name}": compared(case, DTYPES[name]) for case in CASES for name in DTYPES}))


if __name__ == "__main__":
    main()
