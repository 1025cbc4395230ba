"""This project's networks and loops and those of others on this machine, interleaved."""

from depthwise.bench.compare import Comparison, Measured, bench, bench_training, swept
from depthwise.bench.engines import ENGINES
from depthwise.bench.peers import peer
from depthwise.bench.training import LOOPS

__all__ = ["ENGINES", "LOOPS", "Comparison", "Measured", "bench", "bench_training", "peer", "swept"]
