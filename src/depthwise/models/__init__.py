"""The networks: one file a family, and the catalogue that names them."""

from depthwise.models.catalogue import CATALOGUE, FROM_DATA, Entry, create_model, list_models, model_arguments

__all__ = ["CATALOGUE", "FROM_DATA", "Entry", "create_model", "list_models", "model_arguments"]
