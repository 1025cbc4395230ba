"""The engines that can be timed, by name."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthwise.infer.engines import Prepare, Run, eager, onnxruntime, openvino


@dataclass(frozen=True)
class Engine:
    """`package` must be installed for it."""

    precision: str
    package: str
    prepare: Prepare


def _depthwise(precision: Any) -> Prepare:
    def prepare(network: nn.Module, x: Tensor, threads: int) -> Run:
        from depthwise.infer import compile

        return compile(network, x[:1], precision=precision, engine="native")

    return prepare


def _torch_compile(dtype: torch.dtype) -> Prepare:
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


ENGINES: dict[str, Engine] = {
    "depthwise fp32": Engine("fp32", "depthwise", _depthwise("fp32")),
    "depthwise bf16": Engine("bf16", "depthwise", _depthwise("bf16")),
    "pytorch": Engine("fp32", "torch", eager(torch.float32)),
    "torch.compile": Engine("fp32", "torch", _torch_compile(torch.float32)),
    "torch.compile bf16": Engine("bf16", "torch", _torch_compile(torch.bfloat16)),
    "onnxruntime": Engine("fp32", "onnxruntime", onnxruntime()),
    "openvino": Engine("fp32", "openvino", openvino("f32")),
    "openvino bf16": Engine("bf16", "openvino", openvino("bf16")),
}
