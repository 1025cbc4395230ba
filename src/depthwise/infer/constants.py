"""What a graph computes of parameters and constants alone: run once, it is a weight as any other."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_aggregate


def computed(program: torch.export.ExportedProgram, given: Mapping[str, Tensor]) -> dict[str, Any]:
    """By the names of nodes, what does not depend on the images: tensors, numbers, or tuples of them.

    given: parameters, buffers and constants by the names of the nodes that stand for them; they are not among the
    results. What draws random numbers is none of these, and what fails to run is left for who lowers it.
    """
    values: dict[str, Any] = dict(given)

    def value(node: Any) -> Any:
        return values[node.name] if isinstance(node, torch.fx.Node) else node

    for node in program.graph.nodes:
        if node.op != "call_function" or not _repeatable(node.target):
            continue
        if not all(read.name in values for read in node.all_input_nodes):
            continue
        args, kwargs = map_aggregate(node.args, value), map_aggregate(node.kwargs, value)
        try:
            with torch.no_grad():
                values[node.name] = node.target(*map_aggregate(args, _copied), **kwargs)
        except Exception:  # whatever the operator raises
            continue
    return {name: made for name, made in values.items() if name not in given}


def _repeatable(target: Any) -> bool:
    """Whether `target` is an operator that gives the same each time."""
    if isinstance(target, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded not in target.tags
    return target is operator.getitem or getattr(target, "__module__", "") in ("_operator", "math")


def _copied(value: Any) -> Any:
    """An operator may change what it is given in place."""
    return value.clone() if isinstance(value, Tensor) else value
