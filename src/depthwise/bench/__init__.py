"""This project's compiled networks and the general engines on this machine, interleaved."""

from depthwise.bench.compare import Comparison, Measured, bench, swept
from depthwise.bench.engines import ENGINES

__all__ = ["ENGINES", "Comparison", "Measured", "bench", "swept"]
