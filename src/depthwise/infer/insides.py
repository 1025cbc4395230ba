"""What a network makes on the way to its answer, in the same pass, whatever runs it: its last map and its features."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from depthwise.heat import Linear, Mapped, head_of
from depthwise.infer.choice import CompiledModule
from depthwise.infer.eventual import Eventual
from depthwise.infer.fuse import Step
from depthwise.infer.layout import Layout
from depthwise.infer.plan import Plan


@dataclass(frozen=True, eq=False)
class Insides:
    """Of N images: the network's output, the features that its classifier reads [N, D], and the last map [N, C, h, w].

    head: what makes the output of the last map. Of a plan whose head is more than a mean and a linear layer, `last` and
    `head` are None.
    """

    output: Tensor
    features: Tensor
    last: Tensor | None
    head: Linear | Callable[[Tensor], Tensor] | None


def insides(module: nn.Module, x: Tensor) -> Insides | None:
    """What `module`, in evaluation, makes of float32 images [N, C, H, W]; None if what runs it does not show it."""
    if isinstance(module, Eventual):
        return module.using(x, lambda run: insides(run, x))
    if isinstance(module, CompiledModule):
        return _of_plan(module, module.plan, x) if isinstance(module.plan, Plan) else None
    if not isinstance(module, Mapped):
        return None
    last = module.last_map(x)
    features = module.neck(last)
    return Insides(module.classifier(features), features, last, head_of(module))


def _of_plan(compiled: CompiledModule, plan: Plan, x: Tensor) -> Insides | None:
    places = _ending(plan.layout, len(plan.graph.operations))
    if places is None:
        return None
    output, features, *last = plan.made(x, places)
    output, features = compiled.form.of(output, len(x)), features.flatten(1)
    if not last:
        return Insides(output, features, None, None)
    weight, bias = plan.classifier
    return Insides(output, features, last[0], Linear(weight.flatten(1), bias))


def _ending(layout: Layout, operations: int) -> list[int] | None:
    """The map that a plan's classifier reads, and the one that this is the mean of, if it is; None without classifier.

    operations: of the graph; maps from there on are uint8 copies.
    """
    makers = {step.result: step for step in layout.steps}
    classifier = layout.steps[-1]
    features = classifier.source if classifier.source < operations else makers[classifier.source].source
    product = classifier.product
    if product is None or product.weight.shape[2:] != (1, 1) or layout.maps[features].shape[1:] != (1, 1):
        return None
    before = makers[features]
    alone = product.groups == 1 and classifier == Step(
        "convolution", classifier.source, classifier.result, product=product
    )
    return [features, before.source] if alone and before.kind == "mean" else [features]
