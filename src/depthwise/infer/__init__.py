"""Using a trained network: as it is, or compiled for the CPU at hand."""

from depthwise.infer.compiled import PRECISIONS, CompiledModule, Precision, compile
from depthwise.infer.predictor import Prediction, Predictor

__all__ = ["PRECISIONS", "CompiledModule", "Precision", "Prediction", "Predictor", "compile"]
