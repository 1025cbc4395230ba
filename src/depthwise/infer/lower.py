"""From a module to the short list of operations that the inference kernels know.

The module is exported to PyTorch's graph of operators, so that it may be anybody's. Batch norms go into the convolution
before them, where there is one; padding into the convolution or pooling behind; dropout, which evaluation does not
have, away. What becomes of each operator stands in `rules/`.
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

    Raises DepthwiseError that names the operator, and where it stands, if one has no counterpart here.
    """
    return lowered(trace(module, example), module)


def lowered(traced: Trace, module: nn.Module) -> Graph:
    """The graph that `traced`, which is of `module`, comes to with the module's weights; raises as `lower` does."""
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
    except (
        Exception
    ) as error:  # arguments that the rule does not foresee, of an operator that anybody may call
        raise lowering.refusal(node, f"{node.target} with such arguments") from error
