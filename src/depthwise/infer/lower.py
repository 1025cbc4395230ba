"""From a module to a graph of the operations that the inference kernels know.

The module is exported to PyTorch's graph of operators, so any module will do. A batch norm is folded into the
convolution before it, if there is one, and padding into the convolution or pooling after it. Dropout does nothing in
evaluation and is removed. `rules/` says what each operator becomes.
"""

from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer.check import check
from depthwise.infer.graph import Concatenation, Graph, Image
from depthwise.infer.lowering import Lowering
from depthwise.infer.rules import RULES
from depthwise.infer.spellings import simplified
from depthwise.infer.trace import Node, Trace, tensors_of, trace


def lower(module: nn.Module, example: Tensor) -> Graph:
    """The graph of `module` in evaluation on [N, C, H, W] like `example`.

    Raises DepthwiseError that names an operator, and its module, if the kernels have no such operation.
    """
    return lowered(trace(module, example), module)


def lowered(traced: Trace, module: nn.Module) -> Graph:
    """The graph of `traced`, a trace of `module`, with the module's weights; raises as `lower` does."""
    tensors = {**tensors_of(module), **traced.constants}
    traced, lowering = simplified(traced, tensors), Lowering(tensors)
    for node in traced.nodes:
        if node.image:
            lowering.image(node)
        elif not node.tensor:
            _call(lowering, node)
    if len(traced.results) != 1:
        raise DepthwiseError("the network has more than one result: compile a plain classifier")
    if not lowering.known(traced.results[0]):
        raise DepthwiseError("the network's result does not depend on its images: compile a plain classifier")
    lowering.plain(lowering.node, traced.results[0])
    last = lowering.value(traced.results[0])
    if last.index != len(lowering.operations) - 1 or (
        isinstance(lowering.operations[-1], Concatenation | Image)
    ):
        raise DepthwiseError(
            "the network's result is not the last thing it computes: compile a plain classifier"
        )
    graph = Graph(
        tuple(lowering.operations), tuple(lowering.shapes), flat=last.shape == (lowering.shapes[-1][0],)
    )
    check(graph)
    return graph


def _call(lowering: Lowering, node: Node) -> None:
    lowering.node = node
    if node.target not in RULES or node.dtype:
        raise lowering.refusal(node, f"{node.target} in {node.dtype}" if node.dtype else node.target)
    try:
        RULES[node.target](lowering, node)
    except DepthwiseError:
        raise
    except Exception as error:  # the rule does not foresee these arguments
        raise lowering.refusal(node, f"{node.target} with such arguments") from error
