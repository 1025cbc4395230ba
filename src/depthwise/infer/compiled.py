"""The fast form of a network for the CPU at hand."""

from typing import Literal

import torch
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer.lower import lower
from depthwise.infer.plan import Plan

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


class CompiledModule(nn.Module):
    """Called like the network it was made from: float32 [N, C, H, W] of one image size to float32 logits [N, K]."""

    def __init__(self, plan: Plan, precision: Precision) -> None:
        super().__init__()
        self.plan, self.precision = plan, precision
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.plan(x)

    def extra_repr(self) -> str:
        return f"precision={self.precision}, kernels={self.plan.kernels}, steps={len(self.plan.steps)}"


def compile(module: nn.Module, example: Tensor, *, precision: Precision = "fp32") -> CompiledModule:
    """Plan `module`, as it is in evaluation, for images [N, C, H, W] like `example`, any number of them at a time.

    The weights are copied: later changes of `module` do not reach the compiled one. precision="bf16" keeps weights and
    maps in bfloat16 and adds in float32. Raises DepthwiseError naming what has no compiled form.
    """
    if precision not in PRECISIONS:
        raise DepthwiseError(f"precision={precision!r} is none of {', '.join(PRECISIONS)}")
    training = module.training
    try:
        with torch.no_grad():
            graph = lower(module.eval(), example)
    finally:
        module.train(training)
    return CompiledModule(Plan(graph, bf16=precision == "bf16"), precision)
