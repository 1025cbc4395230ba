"""The engines that can be timed, by name."""

import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer.general import (
    Prepare,
    Run,
    eager,
    onnx_run,
    onnxruntime,
    openvino,
    openvino_requests,
    program_of,
    write_onnx,
)
from depthwise.infer.sessions import openvino_network

CALIBRATION_IMAGES = 8


@dataclass(frozen=True)
class Contender:
    """`package` must be installed for it."""

    precision: str
    package: str
    prepare: Prepare


def calibration_batches(x: Tensor) -> tuple[Tensor, ...]:
    """The same random images for every engine and batch, in batches like `x`; the first ones again fill the last."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(CALIBRATION_IMAGES, *x.shape[1:], generator=generator)
    batches = -(-CALIBRATION_IMAGES // len(x))
    return images[torch.arange(batches * len(x)) % CALIBRATION_IMAGES].split(len(x))


def _depthwise(precision: Any) -> Prepare:
    def prepare(network: nn.Module, x: Tensor, threads: int) -> Run:
        from depthwise.infer import compile

        images = torch.cat(calibration_batches(x[:1])) if precision == "int8" else None
        return compile(network, x[:1], precision=precision, engine="native", calibration=images)

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


def _onnxruntime_int8(network: nn.Module, x: Tensor, threads: int) -> Run:
    """ONNX Runtime's static quantisation, weights by channel."""
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(calibration_batches(x))

        def get_next(self) -> Any:
            batch = next(self.left, None)
            return None if batch is None else {"images": batch.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, quantized = (f"{folder}/{name}.onnx" for name in ("plain", "prepared", "quantized"))
        write_onnx(program_of(network, x), plain)
        quantization.quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(prepared, quantized, Images(), per_channel=True)
        return onnx_run(quantized, threads)


def _openvino_int8(network: nn.Module, x: Tensor, threads: int) -> Run:
    return openvino_requests(_quantized(network, x), threads)


def _quantized(network: nn.Module, x: Tensor) -> Any:
    """An openvino.Model in int8 by NNCF's quantisation after training; what is not in int8 has no precision set."""
    import nncf
    import openvino

    images = nncf.Dataset([batch.numpy() for batch in calibration_batches(x)])
    return nncf.quantize(openvino.convert_model(program_of(network, x)), images)


def _openvino_throughput(precision: str) -> Prepare:
    """OpenVINO's requests side by side, one an image: how its makers measure throughput."""

    def prepare(network: nn.Module, x: Tensor, threads: int) -> Run:
        import openvino

        if len(x) < 2:
            raise DepthwiseError("throughput mode needs a batch: give --batch 2 or more")
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "THROUGHPUT"}
        if precision == "int8":
            model = _quantized(network, x[:1])
        else:
            model = openvino.convert_model(program_of(network, x[:1]))
            settings["INFERENCE_PRECISION_HINT"] = precision
        return _side_by_side(openvino_network(model, **settings))

    return prepare


def _side_by_side(compiled: Any) -> Run:
    import openvino

    queue = openvino.AsyncInferQueue(compiled)
    logits: dict[int, Tensor] = {}

    def keep(request: Any, image: int) -> None:
        logits[image] = torch.from_numpy(request.get_output_tensor(0).data.copy())

    queue.set_callback(keep)

    def run(x: Tensor) -> Tensor:
        for image, pixels in enumerate(x.split(1)):
            queue.start_async({0: pixels.numpy()}, image)
        queue.wait_all()
        return torch.cat([logits.pop(image) for image in range(len(x))])

    return run


ENGINES: dict[str, Contender] = {
    "depthwise fp32": Contender("fp32", "depthwise", _depthwise("fp32")),
    "depthwise bf16": Contender("bf16", "depthwise", _depthwise("bf16")),
    "depthwise int8": Contender("int8", "depthwise", _depthwise("int8")),
    "pytorch": Contender("fp32", "torch", eager(torch.float32)),
    "torch.compile": Contender("fp32", "torch", _torch_compile(torch.float32)),
    "torch.compile bf16": Contender("bf16", "torch", _torch_compile(torch.bfloat16)),
    "onnxruntime": Contender("fp32", "onnxruntime", onnxruntime()),
    "onnxruntime int8": Contender("int8", "onnxruntime", _onnxruntime_int8),
    "openvino": Contender("fp32", "openvino", openvino("f32")),
    "openvino bf16": Contender("bf16", "openvino", openvino("bf16")),
    "openvino int8": Contender("int8", "nncf", _openvino_int8),
    "openvino throughput": Contender("fp32", "openvino", _openvino_throughput("f32")),
    "openvino bf16 throughput": Contender("bf16", "openvino", _openvino_throughput("bf16")),
    "openvino int8 throughput": Contender("int8", "nncf", _openvino_throughput("int8")),
}
