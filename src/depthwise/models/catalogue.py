"""Every network by name: one explicit table with where it comes from and what was published about it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from depthwise.errors import UsageError, shown, unknown_name
from depthwise.models.inception_resnet_v2 import inception_resnet_v2
from depthwise.models.inception_v1 import inception_v1
from depthwise.models.inception_v2 import inception_v2
from depthwise.models.inception_v3 import inception_v3, inception_v3_table3
from depthwise.models.inception_v4 import inception_v4
from depthwise.models.mobilenet_v1 import mobilenet_v1
from depthwise.models.mobilenet_v2 import mobilenet_v2
from depthwise.models.nin import nin, nin_maxout
from depthwise.models.resnet import (
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    se_resnet50,
    se_resnext50_32x4d,
    senet154,
)
from depthwise.models.separable_vgg import separable_vgg
from depthwise.models.vgg import vgg16, vgg16_bn
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
            name="inception_resnet_v2",
            builder=inception_resnet_v2,
            input_size=299,
            parameters=55_843_464,
            macs=13_180_000_000,
            top1=0.801,
            top5=0.951,
            paper="Szegedy 2017, arXiv 1602.07261",
            accuracy_source="Szegedy 2017, Table 2",
            weights_source="timm.models.inception_resnet_v2",
        ),
        Entry(
            name="inception_v1",
            builder=inception_v1,
            input_size=224,
            parameters=6_624_904,
            macs=1_498_000_000,
            top1=0.698,
            top5=0.895,
            paper="Szegedy 2015, arXiv 1409.4842",
            accuracy_source="torchvision, IMAGENET1K_V1",
            weights_source="torchvision.models.googlenet",
        ),
        Entry(
            name="inception_v2",
            builder=inception_v2,
            input_size=224,
            parameters=11_285_224,
            macs=2_030_000_000,
            top1=0.748,
            top5=0.922,
            paper="Ioffe 2015, arXiv 1502.03167",
            accuracy_source="Ioffe 2015, Figure 4",
            weights_source="none that is read here",
        ),
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
            name="inception_v3_table3",
            builder=inception_v3_table3,
            input_size=299,
            parameters=23_626_728,
            macs=5_624_000_000,
            top1=0.782,
            top5=0.941,
            paper="Chollet 2017, arXiv 1610.02357",
            accuracy_source="Chollet 2017, Table 1",
            weights_source="none that is read here",
        ),
        Entry(
            name="inception_v4",
            builder=inception_v4,
            input_size=299,
            parameters=42_679_816,
            macs=12_280_000_000,
            top1=0.800,
            top5=0.950,
            paper="Szegedy 2017, arXiv 1602.07261",
            accuracy_source="Szegedy 2017, Table 2",
            weights_source="timm.models.inception_v4",
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
            name="nin",
            builder=nin,
            input_size=224,
            parameters=7_595_176,
            macs=1_064_000_000,
            top1=None,
            top5=None,
            paper="Lin 2014, arXiv 1312.4400",
            accuracy_source="none published with top-5",
            weights_source="none that is read here",
        ),
        Entry(
            name="nin_maxout",
            builder=nin_maxout,
            input_size=224,
            parameters=11_174_376,
            macs=1_654_000_000,
            top1=None,
            top5=None,
            paper="Lin 2014, arXiv 1312.4400, section 2",
            accuracy_source="none published",
            weights_source="none",
        ),
        Entry(
            name="resnet101",
            builder=resnet101,
            input_size=224,
            parameters=44_549_160,
            macs=7_801_000_000,
            top1=0.77374,
            top5=0.93546,
            paper="He 2016, arXiv 1512.03385",
            accuracy_source="torchvision, IMAGENET1K_V1",
            weights_source="torchvision.models.resnet101",
        ),
        Entry(
            name="resnet152",
            builder=resnet152,
            input_size=224,
            parameters=60_192_808,
            macs=11_514_000_000,
            top1=0.78312,
            top5=0.94046,
            paper="He 2016, arXiv 1512.03385",
            accuracy_source="torchvision, IMAGENET1K_V1",
            weights_source="torchvision.models.resnet152",
        ),
        Entry(
            name="resnet50",
            builder=resnet50,
            input_size=224,
            parameters=25_557_032,
            macs=4_089_000_000,
            top1=0.7613,
            top5=0.92862,
            paper="He 2016, arXiv 1512.03385",
            accuracy_source="torchvision, IMAGENET1K_V1",
            weights_source="torchvision.models.resnet50",
        ),
        Entry(
            name="resnext101_32x8d",
            builder=resnext101_32x8d,
            input_size=224,
            parameters=88_791_336,
            macs=16_414_000_000,
            top1=0.79312,
            top5=0.94526,
            paper="Xie 2017, arXiv 1611.05431",
            accuracy_source="torchvision, IMAGENET1K_V1",
            weights_source="torchvision.models.resnext101_32x8d",
        ),
        Entry(
            name="resnext50_32x4d",
            builder=resnext50_32x4d,
            input_size=224,
            parameters=25_028_904,
            macs=4_230_000_000,
            top1=0.77618,
            top5=0.93698,
            paper="Xie 2017, arXiv 1611.05431",
            accuracy_source="torchvision, IMAGENET1K_V1",
            weights_source="torchvision.models.resnext50_32x4d",
        ),
        Entry(
            name="se_resnet50",
            builder=se_resnet50,
            input_size=224,
            parameters=28_088_024,
            macs=3_870_000_000,
            top1=0.7763,
            top5=0.9364,
            paper="Hu 2018, arXiv 1709.01507",
            accuracy_source="the authors' release for Caffe, single crop",
            weights_source="timm: legacy_seresnet50",
        ),
        Entry(
            name="se_resnext50_32x4d",
            builder=se_resnext50_32x4d,
            input_size=224,
            parameters=27_559_896,
            macs=4_250_000_000,
            top1=0.7903,
            top5=0.9446,
            paper="Hu 2018, arXiv 1709.01507",
            accuracy_source="the authors' release for Caffe, single crop",
            weights_source="timm: legacy_seresnext50_32x4d",
        ),
        Entry(
            name="senet154",
            builder=senet154,
            input_size=224,
            parameters=115_088_984,
            macs=20_770_000_000,
            top1=0.8132,
            top5=0.9553,
            paper="Hu 2018, arXiv 1709.01507",
            accuracy_source="the authors' release for Caffe, single crop",
            weights_source="timm: legacy_senet154",
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
            name="vgg16",
            builder=vgg16,
            input_size=224,
            parameters=138_357_544,
            macs=15_470_000_000,
            top1=0.71592,
            top5=0.90382,
            paper="Simonyan 2015, arXiv 1409.1556",
            accuracy_source="torchvision, IMAGENET1K_V1",
            weights_source="torchvision.models.vgg16",
        ),
        Entry(
            name="vgg16_bn",
            builder=vgg16_bn,
            input_size=224,
            parameters=138_365_992,
            macs=15_470_000_000,
            top1=0.7336,
            top5=0.91516,
            paper="Simonyan 2015, arXiv 1409.1556",
            accuracy_source="torchvision, IMAGENET1K_V1",
            weights_source="torchvision.models.vgg16_bn",
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


FROM_DATA = ("num_classes", "in_channels")

MAX_PARAMETERS = 2_000_000_000  # 8 GB in float32; the largest network of the catalogue has 138 million


class TooLargeError(UsageError):
    """A network that has more parameters than any that is built here."""


def list_models(pattern: str = "*") -> list[str]:
    """The catalogue's names that match the shell `pattern`, sorted."""
    return sorted(name for name in CATALOGUE if fnmatch(name, pattern))


def model_arguments(name: str) -> list[str]:
    """What may be set of the network `name`; the number of classes and of channels follow from the data."""
    return [
        argument
        for argument in inspect.signature(CATALOGUE[name].builder).parameters
        if argument not in FROM_DATA
    ]


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """Build the network `name` of the catalogue with its builder's arguments, randomly initialised.

    Raises UsageError for a name or an argument that does not exist, for a value out of range, for arguments that do
    not fit each other, and for a network that is too large, before any memory is taken for it.
    """
    if name not in CATALOGUE:
        raise unknown_name("model", name, CATALOGUE)
    builder = CATALOGUE[name].builder
    known = inspect.signature(builder).parameters
    for argument in kwargs:
        if argument not in known:
            raise unknown_name(f"argument of {name}", argument, known)
    # Without memory a network costs hardly any time and no random numbers, however large it is.
    with torch.device("meta"), _Unfilled():
        planned = builder(**kwargs)
    size = sum(parameter.numel() for parameter in planned.parameters())
    if size > MAX_PARAMETERS:
        given = " ".join(f"{key}={shown(value)}" for key, value in kwargs.items())
        raise TooLargeError(
            f"{name} with {given} has {size:,} parameters, and at most {MAX_PARAMETERS:,} can be: make it narrower or "
            f"shallower"
        )
    return planned if torch.empty(0).is_meta else builder(**kwargs)


FILLS = frozenset({torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.fill_, torch.Tensor.zero_})


class _Unfilled(TorchFunctionMode):
    """Tensors are not filled: without memory that changes nothing, and is half of the time that a network takes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in FILLS else func(*args, **(kwargs or {}))
