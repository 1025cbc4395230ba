"""What a network computes, by PyTorch's export, as plain values that can be lowered or kept in a file.

A trace has the names of the weights and not the weights themselves, so one trace serves all bundles of a network.
"""

import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import OutputKind

from depthwise.errors import DepthwiseError
from depthwise.infer.constants import computed


@dataclass(eq=False)
class Node:
    """One call of an operator: `target` is its name, `args` are Nodes, plain values and lists of these.

    shape: that of the result. place: the path of the module that the call is part of. users: the number of its readers.
    tensor: for a weight, its name in the module. image: whether the node stands for the network's images. dtype: that
    of the result, unless it is float32.
    """

    name: str
    target: str = ""
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    place: str = ""
    users: int = 0
    tensor: str = ""
    image: bool = False
    dtype: str = ""


NORM = torch.ops.aten._native_batch_norm_legit_no_training.default
"""A batch norm by running statistics, as a graph without changes in place has it."""


FRESH = (
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.batch_norm.default,
    torch.ops.aten.linear.default,
    torch.ops.aten.add.Tensor,
)
"""Operators whose result is not a view."""


@dataclass(frozen=True)
class Trace:
    """Nodes in an order in which they can run. results: nodes or values. constants: tensors other than weights."""

    nodes: tuple[Node, ...]
    results: tuple[Any, ...]
    constants: Mapping[str, Tensor] = field(default_factory=dict)


def exported(
    module: nn.Module, example: Tensor, dynamic_shapes: Any | None = None
) -> torch.export.ExportedProgram:
    """PyTorch's graph of `module` on images like `example`, in which changes in place make no difference.

    A tensor that is changed in place may also be read through a view. So operators in place are replaced by those that
    make a new tensor, unless nothing else reads the tensor.
    """
    with warnings.catch_warnings():
        # Old weight norms cause this warning, and are harmless: they set the attribute anew in each call.
        warnings.filterwarnings("ignore", "The tensor attribute", UserWarning)
        program = torch.export.export(module, (example,), dynamic_shapes=dynamic_shapes)
    if not all(map(_harmless, program.graph.nodes)):
        program = program.run_decompositions({})
    return program


def _harmless(node: torch.fx.Node) -> bool:
    """Whether a change in place by `node` can be seen only by the readers of `node`, or it makes none.

    That holds for the ReLUs of most networks. It saves time: replacing operators in place takes longer than the export.
    """
    if not _in_place(node):
        return True
    changed = node.args[0]
    return (
        isinstance(changed, torch.fx.Node)
        and len(changed.users) == 1
        and (changed.target in FRESH or (_in_place(changed) and _harmless(changed)))
    )


def _in_place(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def trace(module: nn.Module, example: Tensor) -> Trace:
    """The trace of `module` in evaluation on [N, C, H, W] like `example`; DepthwiseError if export cannot read it.

    It is made with two images: with one, the number of images could not be told from a side of 1.
    """
    try:
        program = exported(module, torch.cat([example[:1]] * 2))
    except DepthwiseError:
        raise
    except Exception as error:  # whatever the module's own code and PyTorch's tracing of it raise
        reason = str(error).strip().partition("\n")[0]
        raise DepthwiseError(f"torch.export does not read {type(module).__name__}: {reason}") from error
    for spec in program.graph_signature.output_specs:
        if spec.kind == OutputKind.BUFFER_MUTATION:
            raise DepthwiseError(
                f"the network changes its buffer {spec.target} as it runs and has no compiled form"
            )
    return _read(program, tensors_of(module))


def _read(program: torch.export.ExportedProgram, own: Mapping[str, Tensor]) -> Trace:
    """The trace of `program`, whose weights are the module's `own` and what is computed from them."""
    signature = program.graph_signature
    origin = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    state = {**program.state_dict, **program.constants}
    known = computed(program, {name: state[key] for name, key in origin.items() if key in state})
    nodes: dict[str, Any] = {}
    constants = {key: state[key] for key in origin.values() if key not in own}

    def plain(value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            return nodes[value.name]
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        return value if isinstance(value, bool | int | float | str | None) else str(value)

    results: list[Any] = []
    for node in program.graph.nodes:
        if node.op == "output":
            results = plain(node.args[0])
        elif node.name not in known:
            nodes[node.name] = _entered(node, plain, origin)
        elif isinstance(known[node.name], Tensor):
            key = f"computed {node.name}"
            nodes[node.name] = Node(node.name, tensor=key, shape=tuple(known[node.name].shape))
            if any(user.name not in known for user in node.users):
                constants[key] = known[node.name]
        else:
            nodes[node.name] = plain(known[node.name])
    kinds = [spec.kind for spec in signature.output_specs]
    results = [made for made, kind in zip(results, kinds, strict=True) if kind == OutputKind.USER_OUTPUT]
    return Trace(
        tuple(dict.fromkeys(node for node in nodes.values() if isinstance(node, Node))),
        tuple(results),
        constants,
    )


def _entered(node: torch.fx.Node, plain: Callable[[Any], Any], origin: Mapping[str, str]) -> Any:
    """The Node for `node`: a new one, or that of the operator whose first result it takes."""
    made: Any = node.meta.get("val")
    target, args = node.target, plain(node.args)
    if target is operator.getitem and _first_alone(node.all_input_nodes[0]):
        return args[0]
    first_alone = _first_alone(node)
    if target is NORM:
        target, args = torch.ops.aten.batch_norm.default, [*args[:5], False, *args[5:], False]
    if first_alone:
        made = made[0]
    paths = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    dtype = str(made.dtype).removeprefix("torch.") if isinstance(made, Tensor) else ""
    return Node(
        node.name,
        str(target).removeprefix("aten.").partition(".")[0].removesuffix("_"),
        args,
        {key: plain(value) for key, value in node.kwargs.items()},
        tuple(made.shape) if isinstance(made, Tensor) else (),
        paths[-1] if paths else node.name,
        sum(len(user.users) if first_alone else 1 for user in node.users),
        origin.get(node.name, "") if node.op == "placeholder" else "",
        node.op == "placeholder" and node.name not in origin,
        "" if dtype == "float32" else dtype,
    )


def _first_alone(node: torch.fx.Node) -> bool:
    """Whether `node` makes several tensors, of which only the first has readers."""
    several = isinstance(node.meta.get("val"), list | tuple)
    return several and all(
        user.target is operator.getitem and (user.args[1] == 0 or not user.users) for user in node.users
    )


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of `module`, by all of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def to_json(traced: Trace) -> list[Any] | None:
    """The trace as plain values; None if it has constants, or results that are not nodes."""
    numbers = {node: number for number, node in enumerate(traced.nodes)}
    if traced.constants or not all(isinstance(result, Node) for result in traced.results):
        return None

    def plain(value: Any) -> Any:
        if isinstance(value, Node):
            return {"node": numbers[value]}
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        return [plain(part) for part in value] if isinstance(value, list) else value

    nodes = [{**vars(node), "args": plain(node.args), "kwargs": plain(node.kwargs)} for node in traced.nodes]
    return [nodes, [numbers[node] for node in traced.results]]


def from_json(values: Any) -> Trace:
    """The trace of `to_json`'s values. Raises an exception for anything else, also if a node reads a later one."""
    kept, results = values
    nodes: list[Node] = []

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            return nodes[_natural(value["node"])]
        return [read(part) for part in value] if isinstance(value, list) else value

    for node in kept:
        kwargs = {key: read(value) for key, value in node["kwargs"].items()}
        shape = tuple(map(_natural, node["shape"]))
        nodes.append(Node(**{**node, "args": [*map(read, node["args"])], "kwargs": kwargs, "shape": shape}))
    return Trace(tuple(nodes), tuple(nodes[_natural(number)] for number in results))


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} is no size")
    return value
