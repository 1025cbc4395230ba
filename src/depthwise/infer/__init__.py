"""Using a trained network: as it is, or compiled for the CPU at hand."""

from depthwise.infer.choice import ENGINES, PRECISIONS, CompiledModule, Engine, Precision, compile
from depthwise.infer.predictor import Prediction, Predictor

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "CompiledModule",
    "Engine",
    "Precision",
    "Prediction",
    "Predictor",
    "compile",
]
