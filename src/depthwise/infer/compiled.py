"""The fast form of a network for the CPU at hand."""

from typing import Literal

import torch
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer.engines import GENERAL, General, fastest
from depthwise.infer.lower import lower
from depthwise.infer.plan import Plan

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")

Engine = Literal["auto", "native", "openvino", "onnxruntime", "torch"]
ENGINES: tuple[str, ...] = ("auto", "native", *GENERAL)


class CompiledModule(nn.Module):
    """Called like the network it was made from: float32 [N, C, H, W] of one image size to float32 logits [N, K].

    `engine` says what runs it: "native", or the name of a general engine.
    """

    def __init__(self, plan: Plan | General, precision: Precision) -> None:
        super().__init__()
        self.plan, self.precision = plan, precision
        self.engine = plan.name if isinstance(plan, General) else "native"
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.plan(x)

    def extra_repr(self) -> str:
        shown = f"precision={self.precision}, engine={self.engine}"
        if isinstance(self.plan, General):
            return shown
        return f"{shown}, kernels={self.plan.kernels}, steps={len(self.plan.steps)}"


def compile(
    module: nn.Module, example: Tensor, *, precision: Precision = "fp32", engine: Engine = "auto"
) -> CompiledModule:
    """The fast form of `module`, in evaluation, for images [N, C, H, W] like `example`, any number of them at a time.

    engine="native" plans it for the native kernels; "openvino", "onnxruntime" and "torch" are general engines, which
    run what has no plan; "auto" is native if there is a plan, else the fastest with `example` of those installed.

    The weights are copied: later changes of `module` do not reach the compiled one. precision="bf16" keeps weights and
    maps in bfloat16 and adds in float32. Raises DepthwiseError naming what has no compiled form.
    """
    for name, value, known in (("precision", precision, PRECISIONS), ("engine", engine, ENGINES)):
        if value not in known:
            raise DepthwiseError(f"{name}={value!r} is none of {', '.join(known)}")
    training = module.training
    try:
        with torch.no_grad():
            return CompiledModule(_prepare(module.eval(), example, precision, engine), precision)
    finally:
        module.train(training)


def _prepare(module: nn.Module, example: Tensor, precision: Precision, engine: Engine) -> Plan | General:
    if engine in GENERAL:
        return General(engine, module, example, precision)
    try:
        return Plan(lower(module, example), bf16=precision == "bf16")
    except DepthwiseError:
        general = None if engine == "native" else fastest(module, example, precision)
        if general is None:
            raise
        return general
