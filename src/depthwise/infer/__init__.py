"""Using a trained network."""

from depthwise.infer.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]
