"""How a network is laid out elsewhere: which of their modules is which of ours, and under which arguments."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from depthwise.data.transform import Preprocess

Change = Callable[[Tensor], Tensor]
Pair = tuple[str, str] | tuple[str, str, Change]
"""Our module's path and theirs, and what makes our weight of theirs if it is not the same."""

Pairs = Callable[[], Iterable[Pair]]

COUNTER = "num_batches_tracked"
CLASSIFIER = "classifier"


@dataclass(frozen=True)
class Translation:
    """Weights under our names, the builder's arguments, and `names`: our modules' paths to theirs.

    `foreign_head` says in a clause what of the head our network cannot express and was left out; empty if nothing.
    """

    weights: dict[str, Tensor]
    arguments: dict[str, Any]
    names: dict[str, str]
    foreign_head: str = ""


@dataclass(frozen=True)
class Layout:
    """The network `model` of our catalogue as another project names it.

    pairs: every module with weights, the first convolution first; ours and theirs hold tensors of the same names
    (weight, bias, running_mean, running_var). The last linear layer is ours as "classifier".
    arguments: of our builder, where their geometry is not its default.
    aux: the pairs of auxiliary towers, taken where the file has them; the network is then built with aux=True.
    preprocess: theirs, for files that do not say.
    """

    model: str
    pairs: Pairs
    preprocess: Preprocess
    arguments: Mapping[str, Any] = field(default_factory=dict)
    aux: Pairs | None = None

    def translate(self, weights: Mapping[str, Tensor]) -> Translation:
        """`weights` under our names; what no pair mentions keeps its own name."""
        arguments = dict(self.arguments)
        modules = _by_module(weights)
        pairs = list(self.pairs())
        if self.aux is not None and any(pair[1] in modules for pair in self.aux()):
            pairs += self.aux()
            arguments["aux"] = True
        translated: dict[str, Tensor] = {}
        for ours, theirs, *change in pairs:
            for leaf, tensor in modules.pop(theirs, {}).items():
                changed = change[0](tensor) if change and leaf == "weight" else tensor
                translated[f"{ours}.{leaf}"] = changed
        first = translated.get(f"{pairs[0][0]}.weight")
        if first is not None and first.ndim == 4:
            arguments["in_channels"] = first.shape[1]
        classifier = translated.get(f"{CLASSIFIER}.weight")
        arguments["num_classes"] = 0 if classifier is None else len(classifier)
        foreign_head = ""
        if classifier is None:
            # What is left of the head, and towers, which have classifiers too.
            head = [module for module in modules if module.startswith(self._head_prefix())]
            foreign_head = f"its head has the layers {', '.join(head)}" if head else ""
            for module in head:
                del modules[module]
            translated = {name: t for name, t in translated.items() if not name.startswith("aux.")}
            arguments.pop("aux", None)
        rest = {f"{module}.{leaf}": t for module, leaves in modules.items() for leaf, t in leaves.items()}
        add_counters(translated)
        names = {ours: theirs for ours, theirs, *_ in pairs}
        return Translation(translated | rest, arguments, names, foreign_head)

    def num_known(self, weights: Mapping[str, Tensor]) -> int:
        """How many of their modules `weights` has tensors for."""
        modules = _by_module(weights)
        return sum(pair[1] in modules for pair in self.pairs())

    def _head_prefix(self) -> str:
        return next(theirs for ours, theirs, *_ in self.pairs() if ours == CLASSIFIER) + "."


def best_layout(layouts: Sequence[Layout], weights: Mapping[str, Tensor]) -> Layout:
    """The layout of which `weights` has the most modules, the first of several."""
    return max(layouts, key=lambda layout: layout.num_known(weights))


def _by_module(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, {})[leaf] = tensor
    return modules


def add_counters(weights: dict[str, Tensor]) -> None:
    """Batch norm counts its updates; files from before PyTorch 0.4.1, and other frameworks', do not have the count."""
    for name in [name for name in weights if name.endswith(".running_mean")]:
        weights.setdefault(name.replace("running_mean", COUNTER), torch.tensor(0))
