"""Keras' networks, layer by layer as keras.applications calls them, and which of our modules each layer is.

Keras names layers after the class and counts in the order of creation, from wherever the session's counter stood, so
names say nothing that lasts. What does is the order in which a model lists its layers: by distance from its output,
then by traversal. Each function below calls the layers of one network as Keras' own code does; `Graph` lists them as
Keras would, and a file's layers of each kind, in their order, are those.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

CONV, DEPTHWISE, SEPARABLE, NORM, DENSE, OTHER = "conv", "depthwise", "separable", "norm", "dense", "other"

POOL = object()
"""A step of a branch that has no weights."""


class Graph:
    """Calls of layers, recorded: a node is a number, in the order of the calls."""

    def __init__(self) -> None:
        self.parents: list[tuple[int, ...]] = []
        self.kinds: list[str] = []
        self.ours: list[str] = []

    def layer(self, *inputs: int, kind: str = "", ours: str = "") -> int:
        """A layer of a `kind` that has weights, under our module's path, or of none."""
        self.parents.append(inputs)
        self.kinds.append(kind)
        self.ours.append(ours)
        return len(self.parents) - 1

    def conv_norm(self, x: int, ours: str, *, kind: str = CONV, activation: bool = True) -> int:
        """Convolution, batch norm and an activation, which is a ConvNorm of ours."""
        x = self.layer(self.layer(x, kind=kind, ours=f"{ours}.conv"), kind=NORM, ours=f"{ours}.norm")
        return self.layer(x) if activation else x

    def in_keras_order(self, output: int) -> list[int]:
        """The nodes as `model.layers` lists them (keras/src/ops/function.py, map_graph)."""
        visits: dict[int, int] = {}
        waiting = [output]
        while waiting:
            node = waiting.pop()
            if node not in visits:
                visits[node] = len(visits)
                waiting += reversed(self.parents[node])
        distance = dict.fromkeys(visits, 0)
        for node in sorted(visits, reverse=True):  # a layer is called after its inputs
            for parent in self.parents[node]:
                distance[parent] = max(distance[parent], distance[node] + 1)
        return sorted(visits, key=lambda node: (-distance[node], visits[node]))


@dataclass(frozen=True)
class Family:
    """A network of keras.applications: `calls` records it up to the last feature map and returns that node.

    size: the side it was published for. caffe: images are BGR less a mean, rather than from -1 to 1. arguments: of
    our builder. width: a module of ours whose channels tell the width, and how many it has at width 1. hidden: the
    argument for dense layers before the classifier, and the path of each by its number; flatten: they see all of a
    7x7 map rather than its mean. convolutional_head: the classifier is a 1x1 convolution.
    """

    calls: Callable[[Graph, int], int]
    size: int
    caffe: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    width: tuple[str, int] | None = None
    hidden: tuple[str, Callable[[int], str]] | None = None
    flatten: bool = False
    convolutional_head: bool = False


def xception(g: Graph, x: int) -> int:
    def separable(x: int, ours: str, *, before: bool, after: bool = False) -> int:
        return g.conv_norm(g.layer(x) if before else x, ours, kind=SEPARABLE, activation=after)

    for i in (0, 1):
        x = g.conv_norm(x, f"stages.stem.{i}")
    for block in ("entry1", "entry2", "entry3", *(f"middle.{i}" for i in range(8)), "exit.0"):
        middle = block.startswith("middle")
        skip = x if middle else g.conv_norm(x, f"stages.{block}.skip", activation=False)
        for i in range(1, 4 if middle else 3):
            x = separable(x, f"stages.{block}.body.{i}", before=block != "entry1" or i > 1)
        x = g.layer(x if middle else g.layer(x), skip)
    for i in (1, 2):
        x = separable(x, f"stages.exit.{i}", before=False, after=True)
    return x


def chain(g: Graph, x: int, ours: str, steps: Sequence[Any]) -> int:
    """Convolutions with batch norm by their place under `ours`, pools, and lists of branches, one after another."""
    for step in steps:
        if step is POOL:
            x = g.layer(x)
        elif isinstance(step, list):
            x = branches(g, x, ours, step)
        else:
            x = g.conv_norm(x, f"{ours}.{step}")
    return x


def branches(g: Graph, x: int, ours: str, chains: Sequence[Sequence[Any]]) -> int:
    """Chains side by side, and their concatenation."""
    return g.layer(*[chain(g, x, ours, steps) for steps in chains])


def inception_v3(g: Graph, x: int) -> int:
    mixed5 = [("0",), ("1.0", "1.1"), ("2.0", "2.1", "2.2"), (POOL, "3.1")]
    mixed6 = [("0",), [f"1.{i}" for i in range(3)], [f"2.{i}" for i in range(5)], (POOL, "3.1")]
    fork1, fork2 = ([(f"{b}.branches.0",), (f"{b}.branches.1",)] for b in ("1.1", "2.2"))
    mixed7 = [("0",), ("1.0", fork1), ("2.0", "2.1", fork2), (POOL, "3.1")]
    x = chain(g, x, "stages", ["stem1.0", "stem1.1", "stem1.2", POOL, "stem2.1", "stem2.2", POOL])
    for i in (1, 2, 3):
        x = branches(g, x, f"stages.mixed5.{i}.branches", mixed5)
    x = branches(g, x, "stages.mixed6.0.branches", [("0",), ("1.0", "1.1", "1.2"), (POOL,)])
    for i in (1, 2, 3, 4):
        x = branches(g, x, f"stages.mixed6.{i}.branches", mixed6)
    x = branches(g, x, "stages.mixed7.0.branches", [("0.0", "0.1"), [f"1.{i}" for i in range(4)], (POOL,)])
    for i in (1, 2):
        x = branches(g, x, f"stages.mixed7.{i}.branches", mixed7)
    return x


def inception_resnet_v2(g: Graph, x: int) -> int:
    mixed5 = [("0",), ("1.0", "1.1"), ("2.0", "2.1", "2.2"), (POOL, "3.1")]
    block35 = [("0",), ("1.0", "1.1"), ("2.0", "2.1", "2.2")]
    block17 = [("0",), ("1.0", "1.1", "1.2")]
    mixed6 = [("0",), ("1.0", "1.1", "1.2"), (POOL,)]
    mixed7 = [("0.0", "0.1"), ("1.0", "1.1"), ("2.0", "2.1", "2.2"), (POOL,)]

    def residual(x: int, ours: str, chains: Sequence[Sequence[Any]], *, activation: bool = True) -> int:
        y = branches(g, x, f"{ours}.body.0.branches", chains)
        x = g.layer(x, g.layer(y, kind=CONV, ours=f"{ours}.body.1"))
        return g.layer(x) if activation else x

    x = chain(g, x, "stages", ["stem1.0", "stem1.1", "stem1.2", POOL, "stem2.1", "stem2.2", POOL])
    x = branches(g, x, "stages.mixed5.1.branches", mixed5)
    for i in range(10):
        x = residual(x, f"stages.mixed5.{2 + i}", block35)
    x = branches(g, x, "stages.mixed6.0.branches", mixed6)
    for i in range(20):
        x = residual(x, f"stages.mixed6.{1 + i}", block17)
    x = branches(g, x, "stages.mixed7.0.branches", mixed7)
    for i in range(10):
        x = residual(x, f"stages.mixed7.{1 + i}", block17, activation=i < 9)
    return g.conv_norm(x, "stages.mixed7.11")


def mobilenet_v1(g: Graph, x: int) -> int:
    x = g.conv_norm(x, "stages.stem")
    for group, count in enumerate((1, 2, 2, 6, 2), start=1):
        for i in range(count):
            x = g.conv_norm(x, f"stages.separable{group}.{i}.0", kind=DEPTHWISE)
            x = g.conv_norm(x, f"stages.separable{group}.{i}.1")
    return x


def mobilenet_v2(g: Graph, x: int) -> int:
    x = g.conv_norm(x, "stages.stem")
    for group, count in enumerate((1, 2, 3, 4, 3, 3, 1), start=1):
        for i in range(count):
            # The first of a group changes the shape and has no connection around it.
            ours = f"stages.bottleneck{group}.{i}" + (".body" if i else "")
            expands = int(group > 1)
            y = g.conv_norm(x, f"{ours}.0") if expands else x
            y = g.conv_norm(y, f"{ours}.{expands}", kind=DEPTHWISE)
            y = g.conv_norm(y, f"{ours}.{expands + 1}", activation=False)
            x = g.layer(x, y) if i else y
    return g.conv_norm(x, "stages.head")


def vgg16(g: Graph, x: int) -> int:
    for block, count in enumerate((2, 2, 3, 3, 3), start=1):
        for i in range(count):
            x = g.layer(x, kind=CONV, ours=f"stages.block{block}.{i}.conv")
        x = g.layer(x)
    return x


def resnet(depths: Sequence[int], g: Graph, x: int) -> int:
    x = g.layer(g.layer(g.conv_norm(g.layer(x), "stages.stem.0")))
    for stage, depth in enumerate(depths, start=1):
        for i in range(depth):
            ours = f"stages.stage{stage}.{i}"
            skip = x if i else g.conv_norm(x, f"{ours}.skip", activation=False)
            for j in range(3):
                x = g.conv_norm(x, f"{ours}.body.{j}", activation=j < 2)
            x = g.layer(g.layer(skip, x))
    return x


# Keras' average pooling leaves its padding out of the mean.
_RESNET = {"norm_eps": 1.001e-5, "stride_in": "1x1"}

FAMILIES: dict[str, Family] = {
    "inception_resnet_v2": Family(inception_resnet_v2, 299),
    "inception_v3": Family(inception_v3, 299, arguments={"count_padding": False}),
    "mobilenet_v1": Family(
        mobilenet_v1, 224, width=("stages.separable5.1.1.conv", 1024), convolutional_head=True
    ),
    "mobilenet_v2": Family(mobilenet_v2, 224, width=("stages.bottleneck6.0.2.conv", 160)),
    "resnet50": Family(partial(resnet, (3, 4, 6, 3)), 224, caffe=True, arguments=_RESNET),
    "resnet101": Family(partial(resnet, (3, 4, 23, 3)), 224, caffe=True, arguments=_RESNET),
    "resnet152": Family(partial(resnet, (3, 8, 36, 3)), 224, caffe=True, arguments=_RESNET),
    "vgg16": Family(vgg16, 224, caffe=True, hidden=("hidden", lambda i: f"neck.{2 + 3 * i}"), flatten=True),
    "xception": Family(xception, 299, hidden=("fully_connected", lambda i: f"neck.{1 + 2 * i}")),
}
