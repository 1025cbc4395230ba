"""The engines that can be timed: from a network and an example to what runs it, in its own usual fast setting."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[Tensor], Tensor]
"""float32 [N, C, H, W] -> logits [N, K]."""


@dataclass(frozen=True)
class Engine:
    """prepare: (network in evaluation mode, example, threads) -> Run. `package` must be installed for it."""

    precision: str
    package: str
    prepare: Callable[[nn.Module, Tensor, int], Run]


def _depthwise(precision: Any) -> Callable[[nn.Module, Tensor, int], Run]:
    def prepare(network: nn.Module, x: Tensor, threads: int) -> Run:
        from depthwise.infer import compile

        return compile(network, x[:1], precision=precision)

    return prepare


def _eager(network: nn.Module, x: Tensor, threads: int) -> Run:
    network = network.to(memory_format=torch.channels_last)
    return lambda x: network(x.contiguous(memory_format=torch.channels_last))


def _torch_compile(dtype: torch.dtype) -> Callable[[nn.Module, Tensor, int], Run]:
    def prepare(network: nn.Module, x: Tensor, threads: int) -> Run:
        from torch._inductor import config

        config.freezing = True
        network = network.to(memory_format=torch.channels_last)
        compiled = torch.compile(network)

        def run(x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
                return compiled(x.contiguous(memory_format=torch.channels_last)).float()

        return run

    return prepare


def _onnxruntime(network: nn.Module, x: Tensor, threads: int) -> Run:
    import tempfile

    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        torch.onnx.export(network, (x,), file.name, dynamo=True, external_data=False, verbose=False)
        session = onnxruntime.InferenceSession(file.name, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def _openvino(precision: str, hint: str = "LATENCY") -> Callable[[nn.Module, Tensor, int], Run]:
    def prepare(network: nn.Module, x: Tensor, threads: int) -> Run:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": hint,
        }
        model = openvino.convert_model(torch.export.export(network, (x,)))
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        request = compiled.create_infer_request()
        return lambda x: torch.from_numpy(request.infer({0: x.numpy()})[0].copy())

    return prepare


ENGINES: dict[str, Engine] = {
    "depthwise fp32": Engine("fp32", "depthwise", _depthwise("fp32")),
    "depthwise bf16": Engine("bf16", "depthwise", _depthwise("bf16")),
    "pytorch": Engine("fp32", "torch", _eager),
    "torch.compile": Engine("fp32", "torch", _torch_compile(torch.float32)),
    "torch.compile bf16": Engine("bf16", "torch", _torch_compile(torch.bfloat16)),
    "onnxruntime": Engine("fp32", "onnxruntime", _onnxruntime),
    "openvino": Engine("fp32", "openvino", _openvino("f32")),
    "openvino bf16": Engine("bf16", "openvino", _openvino("bf16")),
}
