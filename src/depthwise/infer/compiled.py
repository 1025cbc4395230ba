"""The fast form of a network for the CPU at hand."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer.arguments import check_calibration, check_example, check_network
from depthwise.infer.engines import GENERAL, General, fastest, installed
from depthwise.infer.graph import Graph
from depthwise.infer.lower import lower
from depthwise.infer.plan import Plan
from depthwise.infer.quantize import MOST_ERROR, Rounding, RoundingError, calibrate, check_roundings
from depthwise.modes import in_mode

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")

Engine = Literal["auto", "fastest", "native", "openvino", "onnxruntime", "torch"]
ENGINES: tuple[str, ...] = ("auto", "fastest", "native", *GENERAL)

BATCH = 16  # calibration images at a time


class CompiledModule(nn.Module):
    """Called like the network it was made from: float32 [N, C, H, W] of one image size to float32 logits [N, K].

    `engine` says what runs it: "native", or the name of a general engine. `roundings` has, by the name of its module,
    how each product that bytes are for was rounded; those with an error over quantize.MOST_ERROR stay bfloat16.
    """

    def __init__(
        self, plan: Plan | General, precision: Precision, roundings: Mapping[str, Rounding] | None = None
    ) -> None:
        super().__init__()
        self.plan, self.precision, self.roundings = plan, precision, roundings or {}
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
    module: nn.Module,
    example: Tensor,
    *,
    precision: Precision = "fp32",
    engine: Engine = "auto",
    calibration: Tensor | None = None,
    roundings: Mapping[str, Rounding] | None = None,
    lower: Callable[[nn.Module, Tensor], Graph] = lower,
) -> CompiledModule:
    """The fast form of `module`, in evaluation, for images [N, C, H, W] like `example`, any number of them at a time.

    engine="native" plans it for the native kernels; "openvino", "onnxruntime" and "torch" are general engines, which
    run what has no plan; "auto" is native if there is a plan, else the fastest with `example` of those installed;
    "fastest" times the native plan with them.

    precision="bf16" keeps weights and maps in bfloat16 and adds in float32; "int8" also multiplies in bytes, rounded as
    some hundred images `calibration` [N, C, H, W] ask for, or as the `roundings` that an earlier calibration found.

    lower: what finds out the graph, see lower.py and kept.py.

    `module` stays as it is, each part of it in its mode. The weights are copied: later changes of `module` do not reach
    the compiled one. Raises DepthwiseError naming what has no compiled form, the wrong argument, or the tensor of
    `roundings` that is not this network's.
    """
    check_network(module)
    if any(isinstance(part, CompiledModule) for part in module.modules()):
        raise DepthwiseError(
            "the network is compiled already: use it as it is, or give what it was made from"
        )
    check_example(example)
    for name, value, known in (("precision", precision, PRECISIONS), ("engine", engine, ENGINES)):
        if value not in known:
            raise DepthwiseError(f"{name}={value!r} is none of {', '.join(known)}")
    if precision == "int8" and calibration is None and roundings is None:
        raise DepthwiseError(
            "precision int8 is calibrated on images like those to come: give some hundred as "
            "calibration=[N, C, H, W]"
        )
    if precision == "int8" and roundings is None:
        check_calibration(calibration, tuple(example.shape[1:]))

    def native() -> CompiledModule:
        graph, found = lower(module, example), roundings
        if precision == "int8" and found is None:
            assert calibration is not None
            found = calibrate(graph, calibration.float().split(BATCH))
        elif precision == "int8" and found is not None:
            check_roundings(graph, found)
        used = {name: rounding for name, rounding in (found or {}).items() if rounding.error <= MOST_ERROR}
        return CompiledModule(Plan(graph, bf16=precision != "fp32", roundings=used), precision, found)

    with in_mode(module, training=False), torch.no_grad():
        return _choose(module, example, precision, engine, native)


def _choose(
    module: nn.Module,
    example: Tensor,
    precision: Precision,
    engine: Engine,
    native: Callable[[], CompiledModule],
) -> CompiledModule:
    if engine in GENERAL:
        return CompiledModule(General(engine, module, example, precision), precision)
    candidates: list[CompiledModule] = []
    try:
        candidates.append(native())
        if engine != "fastest":
            return candidates[0]
    except RoundingError:
        raise
    except DepthwiseError as error:
        if engine == "native":
            raise
        refusal = error
    candidates += [CompiledModule(general, precision) for general in installed(module, example, precision)]
    if not candidates:
        raise refusal
    return fastest(candidates, example)
