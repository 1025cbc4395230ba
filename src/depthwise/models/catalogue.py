"""Every network by name: one explicit table with where it comes from and what was published about it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from torch import nn

from depthwise.errors import unknown_name
from depthwise.models.inception_v3 import inception_v3
from depthwise.models.mobilenet_v1 import mobilenet_v1
from depthwise.models.mobilenet_v2 import mobilenet_v2
from depthwise.models.separable_vgg import separable_vgg
from depthwise.models.xception import xception


@dataclass(frozen=True)
class Entry:
    """One network as published, with 1000 classes and three channels.

    `parameters` are the trainable ones; `macs` the multiply-adds for one image of `input_size` squared;
    `top1` and `top5` single-crop ImageNet accuracies as fractions, from `accuracy_source`, None where none was
    published; `weights_source` names the release whose weights the network takes.
    """

    name: str
    builder: Callable[..., nn.Module]
    input_size: int
    parameters: int
    macs: int
    top1: float | None
    top5: float | None
    paper: str
    accuracy_source: str
    weights_source: str


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="inception_v3",
            builder=inception_v3,
            input_size=299,
            parameters=23_834_568,
            macs=5_710_000_000,
            top1=0.782,
            top5=0.941,
            paper="Szegedy 2016, arXiv 1512.00567",
            accuracy_source="Chollet 2017, Table 1",
            weights_source="torchvision.models.inception_v3",
        ),
        Entry(
            name="mobilenet_v1",
            builder=mobilenet_v1,
            input_size=224,
            parameters=4_231_976,
            macs=569_000_000,
            top1=0.709,
            top5=0.899,
            paper="Howard 2017, arXiv 1704.04861",
            accuracy_source="TensorFlow models, research/slim",
            weights_source="keras.applications.MobileNet",
        ),
        Entry(
            name="mobilenet_v2",
            builder=mobilenet_v2,
            input_size=224,
            parameters=3_504_872,
            macs=300_000_000,
            top1=0.719,
            top5=0.910,
            paper="Sandler 2018, arXiv 1801.04381",
            accuracy_source="TensorFlow models, research/slim",
            weights_source="keras.applications.MobileNetV2",
        ),
        Entry(
            name="separable_vgg",
            builder=separable_vgg,
            input_size=299,
            parameters=23_594_024,
            macs=6_420_000_000,
            top1=None,
            top5=None,
            paper="after Chollet 2017, section 4.6",
            accuracy_source="none published",
            weights_source="none",
        ),
        Entry(
            name="xception",
            builder=xception,
            input_size=299,
            parameters=22_855_952,
            macs=8_360_000_000,
            top1=0.790,
            top5=0.945,
            paper="Chollet 2017, arXiv 1610.02357",
            accuracy_source="Chollet 2017, Table 1",
            weights_source="keras.applications.Xception",
        ),
    )
}


def list_models(pattern: str = "*") -> list[str]:
    """The catalogue's names that match the shell `pattern`, sorted."""
    return sorted(name for name in CATALOGUE if fnmatch(name, pattern))


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """Build the network `name` of the catalogue with its builder's arguments, randomly initialised.

    Raises UsageError for a name or an argument that does not exist, and DepthwiseError for a value out of
    range.
    """
    if name not in CATALOGUE:
        raise unknown_name("model", name, CATALOGUE)
    builder = CATALOGUE[name].builder
    known = inspect.signature(builder).parameters
    for argument in kwargs:
        if argument not in known:
            raise unknown_name(f"argument of {name}", argument, known)
    return builder(**kwargs)
