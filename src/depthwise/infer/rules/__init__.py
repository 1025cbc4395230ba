"""What each operator of PyTorch becomes: a module for each kind, which together fill the table."""

from depthwise.infer.lowering import RULES
from depthwise.infer.rules import joins, pointwise, products, views, windows

__all__ = ["RULES", "joins", "pointwise", "products", "views", "windows"]
