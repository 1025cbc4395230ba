"""What every network of the catalogue is: named stages from map to map, a neck, and a classifier."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from depthwise.errors import DepthwiseError
from depthwise.gpu.calls import again
from depthwise.layers import GlobalAverage, Tapped, blocks, check_input, initialise
from depthwise.native import run

torch.fx.wrap("check_input")  # a symbolic trace keeps the call: it looks at what no trace knows

Classifier = Callable[[int, int], nn.Module]
"""(num_features, num_classes) -> the module that makes logits of pooled features."""


@dataclass(frozen=True)
class Stage:
    """A part of a network that ends in `channels` maps, `stride` times smaller than the image."""

    name: str
    module: nn.Module
    channels: int
    stride: int


class Network(nn.Module):
    """[N, in_channels, H, W] -> logits [N, num_classes], for images of at least `min_size` pixels a side.

    The stages run in order; `neck` makes pooled features [N, num_features] of the last map, and `classifier` the
    logits. A tower of `aux` looks at the output of the stage whose name it has, or of the part that a `Tapped` stage
    calls so; in training mode its logits follow the others, (logits, aux_logits, ...), for a loss that weighs them by
    `aux_weight`. `input_size` is the side the network was published for.

    torch.fx, torch.export, torch.compile and torch.jit.trace read it, torch.jit.script does not.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        num_classes: int,
        in_channels: int,
        input_size: int,
        min_size: int,
        dropout: float = 0.0,
        neck: nn.Module | None = None,
        num_features: int | None = None,
        classifier: Classifier = nn.Linear,
        aux: Mapping[str, nn.Module] | None = None,
        aux_weight: float = 0.0,
        init: Callable[[nn.Module], None] = initialise,
    ) -> None:
        super().__init__()
        self.in_channels, self.input_size, self.min_size = in_channels, input_size, min_size
        self.num_features = num_features or stages[-1].channels
        self.aux_weight = aux_weight
        self.grad_checkpointing = False
        self._last_of = {f"stride{stage.stride}": stage for stage in stages}
        self._init, self._classifier = init, classifier
        self.stages = nn.Sequential(OrderedDict((stage.name, stage.module) for stage in stages))
        self.aux = nn.ModuleDict(aux)
        self.neck = GlobalAverage() if neck is None else neck
        self.dropout = nn.Dropout(dropout)
        self.num_classes = num_classes
        self.classifier = classifier(self.num_features, num_classes) if num_classes else nn.Identity()
        init(self)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        check_input(x, self.in_channels, self.min_size)
        maps: dict[str, Tensor] = {}
        auxiliary = []
        for name, stage in self._named_stages():
            x = maps[name] = self._run(stage, x, maps)
            auxiliary += [self.aux[seen](maps[seen]) for seen in maps if self.training and seen in self.aux]
            maps.clear()
        logits = self.classifier(self.dropout(self.neck(x)))
        return (logits, *auxiliary) if auxiliary else logits

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """The last map of each stride, {"stride2": [N, C, H/2, W/2], ...}, as detectors and segmenters take them."""
        check_input(x, self.in_channels, self.min_size)
        last = {stage.name: key for key, stage in self._last_of.items()}
        maps = {}
        for name, stage in self._named_stages():
            x = self._run(stage, x)
            if name in last:
                maps[last[name]] = x
        return maps

    @property
    def feature_channels(self) -> dict[str, int]:
        """How many channels each map of `features` has."""
        return {key: stage.channels for key, stage in self._last_of.items()}

    def last_map(self, x: Tensor) -> Tensor:
        """What the neck reads: [N, C, h, w]."""
        check_input(x, self.in_channels, self.min_size)
        for stage in self.stages:
            x = self._run(stage, x)
        return x

    def pooled(self, x: Tensor) -> Tensor:
        """The features that the classifier looks at: [N, num_features]."""
        return self.neck(self.last_map(x))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep for the backward pass only what the stages' blocks are given, and compute what is in them again there.

        Weights, gradients, dropout and batch norms' statistics stay the same bits; training takes less memory and more
        time (Chen 2016, arXiv 1604.06174). Forward hooks on parts of stages are called again with them. torch.compile
        and graphs that are traced keep what they choose.
        """
        self.grad_checkpointing = enable

    def _named_stages(self) -> list[tuple[str, nn.Module]]:
        """The stages in order; of one that is there twice, `named_children` would give the first alone."""
        return [*zip(self.stages._modules, self.stages, strict=True)]

    def _run(self, stage: nn.Module, x: Tensor, maps: dict[str, Tensor] | None = None) -> Tensor:
        if isinstance(stage, Tapped):
            return stage(x, maps=maps, each=self._run)
        traced = not isinstance(x, Tensor) or torch.compiler.is_compiling() or torch.jit.is_tracing()
        if not self.grad_checkpointing or traced or not torch.is_grad_enabled():
            return run(stage, x)
        for block in blocks(stage):
            x = checkpoint(run, block, x, use_reentrant=False, context_fn=partial(_recomputation, block))
        return x

    def __prepare_scriptable__(self) -> NoReturn:
        # What torch.jit.script calls first.
        raise DepthwiseError(
            f"torch.jit.script does not read {type(self).__name__}, whose layers decide in Python what runs: use "
            f"torch.jit.trace, torch.export or depthwise export"
        )

    def replace_classifier(self, num_classes: int) -> None:
        """Put fresh classifiers for `num_classes` in place; 0 removes them, and `forward` returns pooled features."""
        self.num_classes = num_classes
        if not num_classes:
            self.classifier, self.aux = nn.Identity(), nn.ModuleDict()
            return
        self.classifier = self._classifier(self.num_features, num_classes)
        self._init(self.classifier)
        for tower in self.aux.values():
            tower.classifier = nn.Linear(cast(nn.Linear, tower.classifier).in_features, num_classes)
            self._init(tower.classifier)


def _recomputation(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Where `block` runs first, and where it runs again: there its buffers, the statistics, are copies."""
    return nullcontext(), _with_copied_buffers(block, again())


@contextmanager
def _with_copied_buffers(block: nn.Module, convolutions: AbstractContextManager[Any]) -> Iterator[None]:
    # Put in place of the buffers, not written back into them: autograd would take that for a change of what it keeps.
    own = [(part, dict(part.named_buffers(recurse=False))) for part in block.modules()]
    try:
        for part, buffers in own:
            part._buffers.update({name: buffer.clone() for name, buffer in buffers.items()})
        with convolutions:
            yield
    finally:
        for part, buffers in own:
            part._buffers.update(buffers)


def fully_connected_neck(in_features: int, widths: Sequence[int]) -> nn.Module:
    """The mean of each map, then linear layers of these widths with ReLU: [N, C, H, W] -> [N, widths[-1]]."""
    neck = nn.Sequential(GlobalAverage())
    for m, n in pairwise((in_features, *widths)):
        neck.extend((nn.Linear(m, n), nn.ReLU()))
    return neck


def start_neck(network: Network) -> None:
    """He normal for the neck's linear layers: the classifier's deviation of 0.01 would shrink the features in each."""
    for layer in network.neck.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
