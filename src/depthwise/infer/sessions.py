"""How ONNX Runtime and OpenVINO run a network on the CPU, here and wherever else they are used."""

from os import PathLike, fspath
from typing import Any

from depthwise import telemetry


def onnxruntime_session(file: str | PathLike[str], threads: int = 0) -> Any:
    """The onnxruntime.InferenceSession of an ONNX file; 0 threads are as many as there are cores."""
    telemetry.switch_off()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(fspath(file), options, providers=["CPUExecutionProvider"])


def openvino_network(model: Any, **settings: Any) -> Any:
    """The openvino.CompiledModel of an openvino.Model, with OpenVINO's `settings`."""
    telemetry.switch_off()
    import openvino

    return openvino.Core().compile_model(model, "CPU", settings)
