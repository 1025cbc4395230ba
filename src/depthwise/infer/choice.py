"""The fast form of a network for the CPU at hand: which engine runs it, and in which precision."""

import warnings
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer.answers import Answers, Form, WrongAnswerError, answers
from depthwise.infer.arguments import check_calibration, check_example, check_network
from depthwise.infer.general import GENERAL, General, fastest, usable
from depthwise.infer.graph import Graph
from depthwise.infer.lower import lower
from depthwise.infer.plan import Plan
from depthwise.infer.quantize import (
    MOST_ERROR,
    CalibrationError,
    Rounding,
    RoundingError,
    calibrate,
    check_roundings,
)
from depthwise.infer.reference import interpret
from depthwise.modes import in_mode

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")

OTHERS: tuple[Precision, ...] = ("bf16", "fp32")
"""The precisions of general engines that are tried if int8 was asked for and there is no native plan."""

Engine = Literal["auto", "fastest", "native", "openvino", "onnxruntime", "torch"]
ENGINES: tuple[str, ...] = ("auto", "fastest", "native", *GENERAL)

BATCH = 16  # calibration images at a time


class CompiledModule(nn.Module):
    """Called like the network it was made from: float32 [N, C, H, W] of one image size to float32 logits [N, K].

    `engine` is what runs it: "native", or the name of a general engine; `dropped` has the names of the engines that
    were tried first, and why they do not run it. `roundings` has, by the name of its module, how each convolution that
    can be in int8 was rounded; those with an error over quantize.MOST_ERROR stay bfloat16. `form` is the shape of the
    result.

    One that runs on the native kernels can be copied, pickled and saved; where it is loaded, its weights are packed for
    the processor there.
    """

    def __init__(
        self,
        plan: Plan | General,
        precision: Precision,
        form: Form,
        roundings: Mapping[str, Rounding] | None = None,
    ) -> None:
        super().__init__()
        self.plan, self.precision, self.form, self.roundings = plan, precision, form, roundings or {}
        self.engine = plan.name if isinstance(plan, General) else "native"
        self.dropped: dict[str, str] = {}
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise DepthwiseError(
                "the images require a gradient and a compiled network has none: call it on images.detach() or under "
                "torch.no_grad(), and for gradients call the network that it was compiled from"
            )
        return self.form.of(self.plan(x), len(x))

    def extra_repr(self) -> str:
        shown = f"precision={self.precision}, engine={self.engine}"
        if isinstance(self.plan, General):
            return shown
        return f"{shown}, kernels={self.plan.kernels}, steps={len(self.plan.layout.steps)}"


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

    engine="native" makes a plan for the native kernels. "openvino", "onnxruntime" and "torch" are general engines,
    which also run networks without a plan. "auto" is native if there is a plan, else the installed general engine that
    is the fastest with `example`. "fastest" times the native plan too. An engine whose answer differs from PyTorch's,
    on `example` or on an image of noise, by more than the precision explains (see answers.py), is not used, and a
    warning says so.

    precision="bf16" keeps weights and maps in bfloat16 and adds in float32. "int8" also multiplies in int8, rounded as
    `calibration` asks for, some hundred images [N, C, H, W], or by the `roundings` of an earlier calibration. Only
    native plans have int8. Without a plan the fastest general engine runs the network in "bf16" or "fp32", unless
    engine="native"; a warning says so, and so does the result's `precision`.

    lower: makes the graph of a module; see lower.py and kept.py.

    `module` stays as it is, each part of it in its mode. The weights are copied: later changes of `module` do not reach
    the compiled one. Raises DepthwiseError that names what has no compiled form, the wrong argument, or the tensor of
    `roundings` that is not this network's; if the result is not one float32 tensor with a row for each image; and if
    the answer of the engine that was asked for differs from PyTorch's.
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

    def native(expected: Answers) -> CompiledModule:
        graph, found = lower(module, example), roundings
        if precision == "int8" and found is None:
            assert calibration is not None
            found = calibrate(graph, calibration.float().split(BATCH))
        elif precision == "int8" and found is not None:
            check_roundings(graph, found)
        if precision != "fp32":
            # In float32, where rounding cannot hide an error.
            expected.check("native", lambda x: expected.form.of(interpret(graph, x), len(x)), "fp32")
        used = {name: rounding for name, rounding in (found or {}).items() if rounding.error <= MOST_ERROR}
        plan = Plan(graph, bf16=precision != "fp32", roundings=used)
        return CompiledModule(plan, precision, expected.form, found)

    def made(name: str, precision: Precision, expected: Answers) -> CompiledModule:
        if name == "native":
            compiled = native(expected)
        else:
            compiled = CompiledModule(General(name, module, example, precision), precision, expected.form)
        expected.check(name, compiled, precision)
        if isinstance(compiled.plan, Plan):
            compiled.plan.release()
        return compiled

    with in_mode(module, training=False), torch.no_grad():
        expected = answers(module, example, _second(example, precision, calibration))
        return _choose(engine, precision, example, lambda name, own: made(name, own, expected))


def _second(example: Tensor, precision: Precision, calibration: Tensor | None) -> Tensor | None:
    """The second image that answers are compared on; None, which is noise, unless int8 was calibrated on images."""
    if precision != "int8":
        return None
    return example[0] if calibration is None or not len(calibration) else calibration[0].float()


def _choose(
    engine: Engine, precision: Precision, example: Tensor, made: Callable[[str, Precision], CompiledModule]
) -> CompiledModule:
    """What is `made` with the engine of that name, or with the fastest whose answers are right."""
    if engine not in ("auto", "fastest"):
        return made(engine, precision)
    dropped: dict[str, str] = {}
    candidates: list[CompiledModule] = []
    for name in ["native", *usable(precision)]:
        candidates += _tried(name, precision, made, dropped, name)
        if engine == "auto" and name == "native" and candidates:
            break
    if not candidates and precision == "int8":
        for own in OTHERS:
            for name in usable(own):
                candidates += _tried(name, own, made, dropped, f"{name} in {own}")
    if not candidates:
        reasons = "; ".join(dict.fromkeys(dropped.values()))
        raise DepthwiseError(f"no engine runs this network as PyTorch does: {reasons}")
    chosen = fastest(candidates, example)
    chosen.dropped = dropped
    if chosen.precision != precision:
        warnings.warn(
            f"{precision} is for native plans alone and this network has none, so {chosen.engine} runs it in "
            f"{chosen.precision}: {dropped['native']}",
            stacklevel=3,
        )
    return chosen


def _tried(
    name: str,
    precision: Precision,
    made: Callable[[str, Precision], CompiledModule],
    dropped: dict[str, str],
    called: str,
) -> list[CompiledModule]:
    """What is `made`, or nothing, and then `dropped` says why."""
    try:
        return [made(name, precision)]
    except (RoundingError, CalibrationError):
        raise
    except DepthwiseError as error:
        dropped[called] = str(error)
        if isinstance(error, WrongAnswerError):
            warnings.warn(f"{called} is not used for this network: {error}", stacklevel=4)
        return []
