"""How a network is laid out elsewhere: which of their modules is which of ours, and under which arguments."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from depthwise.data.transform import Preprocess

Change = Callable[[Tensor], Tensor]
Pair = tuple[str, str] | tuple[str, str, Change]
"""Our module's path and theirs, and what makes our weight of theirs if it is not the same."""

Pairs = Callable[[], Iterable[Pair]]

Modules = dict[str, dict[str, Tensor]]
"""Tensors by their module's path, and there by their own name."""

COUNTER = "num_batches_tracked"
CLASSIFIER = "classifier"


@dataclass(frozen=True)
class Translation:
    """Weights under our names, the builder's arguments, and `names`: our modules' paths to theirs.

    `foreign_head` says in a clause what of the head our network cannot express and was left out; empty if nothing.
    `notes` are for the person whose weights they are.
    """

    weights: dict[str, Tensor]
    arguments: dict[str, Any]
    names: dict[str, str]
    foreign_head: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """The network `model` of our catalogue as another project names it.

    pairs: every module with weights, the first convolution first; ours and theirs hold tensors of the same names
    (weight, bias, running_mean, running_var). The last linear layer is ours as "classifier".
    arguments: of our builder, where their geometry is not its default.
    aux: the pairs of auxiliary towers, taken where the file has them; the network is then built with aux=True.
    preprocess: theirs, for files that do not say. hidden: the published widths of VGG's linear layers before the last.
    """

    model: str
    pairs: Pairs
    preprocess: Preprocess
    arguments: Mapping[str, Any] = field(default_factory=dict)
    aux: Pairs | None = None
    hidden: tuple[int, ...] = (4096, 4096)

    def translate(self, weights: Mapping[str, Tensor]) -> Translation:
        """`weights` under our names; what no pair mentions keeps its own name."""
        arguments = dict(self.arguments)
        modules = _by_module(weights)
        pairs = list(self.pairs())
        translated = _take(pairs, modules)
        first = translated.get(f"{pairs[0][0]}.weight")
        if first is not None and first.ndim == 4:
            arguments["in_channels"] = first.shape[1]
        notes: tuple[str, ...] = ()
        aux_pairs = list(self.aux()) if self.aux else []
        towers = _take(aux_pairs, modules)
        head, foreign_head = self._head(pairs, translated, modules)
        arguments |= head
        classifier = translated.get(f"{CLASSIFIER}.weight")
        num_classes = arguments["num_classes"] = 0 if classifier is None else len(classifier)
        if any(len(t) != num_classes for name, t in towers.items() if name.endswith(f".{CLASSIFIER}.weight")):
            notes = ("the auxiliary classifiers are for other classes than the main one and were left out",)
        elif towers:
            arguments["aux"] = True
            translated |= towers
        rest = {
            f"{module}.{leaf}".removeprefix("."): t
            for module, leaves in modules.items()
            for leaf, t in leaves.items()
        }
        add_counters(translated)
        names = {ours: theirs for ours, theirs, *_ in [*pairs, *aux_pairs]}
        return Translation(translated | rest, arguments, names, foreign_head, notes)

    def _head(
        self, pairs: Sequence[Pair], translated: dict[str, Tensor], modules: Modules
    ) -> tuple[dict[str, Any], str]:
        """Arguments of our builder for the head that was `translated`, or a clause on one that it has no form for.

        What belongs to a head is moved out of `modules`, and out of `translated` if it is not taken.
        """
        trunk = [(ours, theirs) for ours, theirs, *_ in pairs if ours.startswith("stages.")]
        ends = {ours: theirs for ours, theirs, *_ in pairs if not ours.startswith("stages.")}
        if not all(f"{ours}.weight" in translated for ours, _ in trunk):
            return {}, ""  # another network's: that it does not fit is found out later
        roots = {theirs.partition(".")[0] for _, theirs in trunk}
        others = {
            name: modules.pop(name)
            for name in list(modules)
            if name.partition(".")[0] not in roots and "weight" in modules[name]
        }
        own = [ours for ours in ends if f"{ours}.weight" in translated]
        if not own and len(ends) == 1 and len(others) == 1:
            # A linear layer where the published one is, or in a module that is there.
            [(name, leaves)] = others.items()
            if name.partition(".")[0] == ends[CLASSIFIER].partition(".")[0] and leaves["weight"].ndim == 2:
                translated |= {f"{CLASSIFIER}.{leaf}": t for leaf, t in leaves.items()}
                return {}, ""
        weights = [translated[f"{ours}.weight"] for ours in own]
        fits = all(m.shape[0] == n.shape[1] for m, n in pairwise(weights))
        if not others and fits and len(own) == len(ends):
            hidden = tuple(map(len, weights[:-1]))
            return ({"hidden": hidden} if hidden and hidden != self.hidden else {}), ""
        for name in [name for name in translated if name.rpartition(".")[0] in ends]:
            del translated[name]
        layers = [*(ends[ours] for ours in own), *others]
        return ({"hidden": ()} if len(ends) > 1 else {}), (
            f"its head has the layers {', '.join(layers)}" if layers else ""
        )

    def num_known(self, weights: Mapping[str, Tensor]) -> int:
        """How many of their modules `weights` has tensors for."""
        modules = _by_module(weights)
        return sum(pair[1] in modules for pair in self.pairs())


def best_layout(layouts: Sequence[Layout], weights: Mapping[str, Tensor]) -> Layout:
    """The layout of which `weights` has the most modules, the first of several."""
    return max(layouts, key=lambda layout: layout.num_known(weights))


def looks_like(layouts: Sequence[Layout], weights: Mapping[str, Tensor]) -> str | None:
    """The network of the largest layout of which `weights` has every module but the head; None if there is none."""
    modules = _by_module(weights)
    complete = {
        layout.model: len(pairs)
        for layout in layouts
        for pairs in [list(layout.pairs())]
        if all(theirs in modules for ours, theirs, *_ in pairs if ours != CLASSIFIER)
    }
    return max(complete, key=lambda model: complete[model], default=None)


def _by_module(weights: Mapping[str, Tensor]) -> Modules:
    modules: Modules = {}
    for name, tensor in weights.items():
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, {})[leaf] = tensor
    return modules


def _take(pairs: Iterable[Pair], modules: Modules) -> dict[str, Tensor]:
    """The pairs' tensors under our names, removed from `modules`."""
    taken: dict[str, Tensor] = {}
    for ours, theirs, *change in pairs:
        for leaf, tensor in modules.pop(theirs, {}).items():
            taken[f"{ours}.{leaf}"] = change[0](tensor) if change and leaf == "weight" else tensor
    return taken


def add_counters(weights: dict[str, Tensor]) -> None:
    """Batch norm counts its updates; files from before PyTorch 0.4.1, and other frameworks', do not have the count."""
    for name in [name for name in weights if name.endswith(".running_mean")]:
        weights.setdefault(name.replace("running_mean", COUNTER), torch.tensor(0))
