"""What a benchmark ran on: the figures mean nothing without it."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from depthwise.bench.engines import ENGINES
from depthwise.native.library import library

INSTRUCTIONS = ("avx", "fma", "amx", "sve", "asimd", "i8mm", "bf16")
"""How the names of the instruction sets begin that matrix products are made of."""


def machine() -> dict[str, Any]:
    """Processor, its instruction sets, the kernels' path, cores, memory in bytes, system and versions."""
    facts = _processor()
    packages = ("torch", "torchvision", "timm", *(engine.package for engine in ENGINES.values()))
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "instruction_sets": [
            flag
            for flag in facts.get("flags", facts.get("Features", "")).split()
            if flag.startswith(INSTRUCTIONS)
        ],
        "kernels": library.path,
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            **{name: found for name in dict.fromkeys(packages) if (found := _version(name))},
        },
    }


def _processor() -> dict[str, str]:
    """What Linux says of the first core."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _version(package: str) -> str | None:
    if package == "depthwise":
        import depthwise

        return depthwise.__version__
    try:
        return version(package)
    except PackageNotFoundError:
        return None
