"""General engines: from a network and an example to what runs it, in its own usual fast setting."""

import tempfile
from collections.abc import Callable

import torch
from torch import Tensor, nn

Run = Callable[[Tensor], Tensor]
"""float32 [N, C, H, W] -> logits [N, K]."""

Prepare = Callable[[nn.Module, Tensor, int], Run]
"""(network in evaluation mode, example, threads) -> Run."""


def eager(network: nn.Module, x: Tensor, threads: int) -> Run:
    """PyTorch as it is, with maps channels-last, which it turns the network to."""
    network = network.to(memory_format=torch.channels_last)
    return lambda x: network(x.contiguous(memory_format=torch.channels_last))


def onnxruntime(network: nn.Module, x: Tensor, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        torch.onnx.export(network, (x,), file.name, dynamo=True, external_data=False, verbose=False)
        session = onnxruntime.InferenceSession(file.name, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def openvino(precision: str, hint: str = "LATENCY") -> Prepare:
    """OpenVINO's f32 or bf16."""

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
