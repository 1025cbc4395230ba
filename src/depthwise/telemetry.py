"""Nothing that is run from here reports to anybody: libraries that would are told not to, before they are loaded."""

import os
import sys


def switch_off() -> None:
    """Call it before OpenVINO, NNCF, ONNX Runtime or the hub's client is imported, in each process. Writes no file.

    ONNX Runtime from 1.32 on and the hub's client heed the environment. openvino_telemetry, which looks up an analytics
    host at every conversion, heeds only a file in the user's home; but it is optional: where it cannot be imported,
    OpenVINO and NNCF use a stub. What the program that uses this package has imported already is silenced in place.
    """
    for name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "1")
    loaded = sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    if loaded is not None:
        from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult, OptInChecker
        from openvino_telemetry.utils.sender import TelemetrySender

        OptInChecker.check = lambda *_, **__: ConsentCheckResult.DECLINED
        TelemetrySender.send = lambda *_, **__: None
    silence = getattr(sys.modules.get("onnxruntime"), "disable_telemetry_events", None)
    if silence is not None:
        silence()
