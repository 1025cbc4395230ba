"""This project's compiled networks and the general engines on this machine, interleaved."""

from depthwise.bench.compare import Measured, bench
from depthwise.bench.engines import ENGINES

__all__ = ["ENGINES", "Measured", "bench"]
