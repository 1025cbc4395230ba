"""The networks: one file a family, and the catalogue that names them."""

from depthwise.models.catalogue import CATALOGUE, Entry, create_model, list_models

__all__ = ["CATALOGUE", "Entry", "create_model", "list_models"]
