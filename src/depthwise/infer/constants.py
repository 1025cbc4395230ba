"""What a graph computes from parameters and constants alone: it is computed once, and then a weight like any other."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_aggregate


def computed(program: torch.export.ExportedProgram, given: Mapping[str, Tensor]) -> dict[str, Any]:
    """The values that do not depend on the images, by the names of their nodes: tensors, numbers, or tuples of them.

    given: parameters, buffers and constants by the names of their nodes; they are not among the results. Operators that
    draw random numbers are left out, and so are those that fail to run.
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
    """Whether `target` is an operator that gives the same result each time."""
    if isinstance(target, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded not in target.tags
    return target is operator.getitem or getattr(target, "__module__", "") in ("_operator", "math")


def _copied(value: Any) -> Any:
    """A copy, because an operator may change its arguments in place."""
    return value.clone() if isinstance(value, Tensor) else value
