"""The Triton kernels in Triton's interpreter, on the CPU: how far they are from PyTorch's convolution in float64.

TRITON_INTERPRET must be set before Triton is imported, so this is a process of its own; it prints one JSON document.
"""

import json
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from depthwise import native
from depthwise.analysis.cost import without_memory
from depthwise.data.dataset import ArraySplit, Dataset
from depthwise.data.transform import Augment, Preprocess
from depthwise.gpu import depthwise
from depthwise.gpu.calls import Shape, shapes
from depthwise.gpu.choice import Choice, Choices, measured
from depthwise.gpu.depthwise import Padding, depthwise_conv2d
from depthwise.models import create_model
from depthwise.train.loop import Trainer
from depthwise.train.optimizer import SGD
from depthwise.train.recipe import Recipe

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
    "5x5, one pixel": ((2, 4, 1, 1), 5, 2, (2, 2, 2, 2)),
    "3x3, several parts of the weights' gradient": ((1, 64, 8, 9), 3, 1, (1, 1, 1, 1)),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BOTH = {"3x3", "3x3, one pixel", "5x5, stride 2, SAME on an even side"}
"""Cases that are tried in both; what places are read does not depend on the dtype."""
RUNS = [(case, dtype) for case in CASES for dtype in DTYPES if dtype == "fp32" or case in BOTH]


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


def gradients(*, triton: bool, recompute: bool = False) -> dict[str, Tensor]:
    """Those of an update of a small network, whose depthwise convolutions are done by the kernels or by PyTorch."""
    torch.manual_seed(0)
    split = ArraySplit(torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8), torch.tensor([0, 1]), "random")
    dataset = Dataset("random", ("a", "b"), {"train": split}, 1, "", "")
    recipe = Recipe(
        name="test",
        preprocess=Preprocess((8, 8), crop_fraction=1.0),
        augment=Augment("none", flip=False),
        batch_size=2,
        optimizer=SGD(lr=0.1, momentum=0.0),
        precision="float32",
        recompute=recompute,
    )
    torch.manual_seed(1)
    arguments = {"stem": "small", "width": 0.02, "entry": (128,), "middle": (128,), "exit": (128, 128)}
    module = create_model("xception", num_classes=2, in_channels=1, dropout=0.0, **arguments)
    trainer = Trainer(recipe, module, dataset, device=torch.device("cpu"))
    kinds = shapes(without_memory(module), (1, 8, 8), "float32")
    trainer.convolutions = Choices(2, tuple(Choice(kind, triton, "said so") for kind in kinds))
    trainer.update()
    trainer.close()
    return {name: each.grad for name, each in module.named_parameters()}


def trained() -> dict[str, float]:
    """How far the gradients are from PyTorch's own, and which part of them has the same bits as those; and whether
    those with blocks computed again are the kernels', too."""
    theirs, ours, again = (
        gradients(triton=False),
        gradients(triton=True),
        gradients(triton=True, recompute=True),
    )
    return {
        "difference": max(error(ours[name], each.double()) for name, each in theirs.items()),
        "untouched": sum(torch.equal(ours[name], each) for name, each in theirs.items()) / len(theirs),
        "recomputed": sum(torch.equal(again[name], each) for name, each in ours.items()) / len(ours),
    }


def main() -> None:
    torch.set_num_threads(1)
    native.use("off")
    depthwise._PROGRAMS = 6  # so that one has several tiles of the weights' gradient, as on large maps
    found: dict[str, Any] = {f"{case}, {dtype}": compared(case, DTYPES[dtype]) for case, dtype in RUNS}
    shape = Shape(8, 6, 6, 3, 2, 1, "bfloat16")
    choice = measured(shape, 2, torch.device("cpu"), rounds=2)
    found["measured"] = Choices(2, (choice,)).to_json()
    found["trained"] = trained()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
