"""ResNet (He 2016, arXiv 1512.03385), ResNeXt (Xie 2017, arXiv 1611.05431) and SE networks (Hu 2018, arXiv 1709.01507).

Trainable parameters and GMAC at 224x224, 1000 classes, as in torchvision:

    resnet50           25,557,032    4.09        resnext50_32x4d    25,028,904    4.23
    resnet101          44,549,160    7.80        resnext101_32x8d   88,791,336   16.41
    resnet152          60,192,808   11.51

and as their authors released them for Caffe, which timm calls legacy:

    se_resnet50        28,088,024    3.86        se_resnext50_32x4d 27,559,896    4.23
    senet154          115,088,984   20.69

The SE paper states 3.87 and 4.25; timm's table has 3.88, 4.26 and 20.77, because it adds two for every value that a
batch norm puts out. The ResNet paper's 3.8, 7.6 and 11.3 go with stride_in="1x1".
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

from torch import nn

from depthwise.bounds import Bounds, Length, OneOf, checked
from depthwise.layers import (
    ConvNorm,
    MaxPool2d,
    Norm,
    PointwiseConv2d,
    Residual,
    SqueezeExcite,
    conv2d,
    relu,
    scale_width,
)
from depthwise.models.arguments import Classes, Dropout, ImageChannels, NormEps, SomeWidths, Stem, Width
from depthwise.models.network import Network, Stage

STRIDE_IN = ("3x3", "1x1")

# Caffe's pooling has no padding; its last window may hang over the edge, as TensorFlow's does on even maps only.
POOLS: dict[str, Callable[[], nn.Module]] = {
    "symmetric": partial(MaxPool2d, padding="symmetric"),
    "ceil": partial(nn.MaxPool2d, 3, 2, ceil_mode=True),
}


def bottleneck(
    channels: int,
    widths: tuple[int, int, int],
    stride: int,
    *,
    groups: int,
    reduction: int,
    stride_in: str,
    skip_size: int | None,
    norm: Norm,
) -> nn.Module:
    """relu(body(x) + skip(x)): 1x1, 3x3 in groups and 1x1 to the three `widths`, then a gate if there is a reduction.

    [N, channels, H, W] -> [N, widths[2], H / stride, W / stride]. The skip is a convolution of `skip_size`, or x
    itself for None.
    """
    reduce, inner, out = widths
    strides = (stride, 1) if stride_in == "1x1" else (1, stride)
    body = nn.Sequential(
        ConvNorm(PointwiseConv2d(channels, reduce, strides[0]), reduce, relu, norm),
        ConvNorm(conv2d(reduce, inner, 3, strides[1], "symmetric", groups), inner, relu, norm),
        ConvNorm(PointwiseConv2d(inner, out), out, norm=norm),
    )
    if reduction:
        body.append(SqueezeExcite(out, reduction))
    if skip_size is None:
        return Residual(body, activation=relu)
    skip: nn.Module = PointwiseConv2d(channels, out, stride)
    if skip_size > 1:
        skip = conv2d(channels, out, skip_size, stride, "symmetric")
    return Residual(body, ConvNorm(skip, out, norm=norm), relu)


@checked
def resnet(
    num_classes: Classes = 1000,
    in_channels: ImageChannels = 3,
    *,
    width: Width = 1.0,
    dropout: Dropout = 0.0,
    stem: Stem = "imagenet",
    depths: Annotated[Sequence[Annotated[int, Bounds(1, 256)]], Length(1, 8)] = (3, 4, 6, 3),
    groups: Annotated[int, Bounds(1, 1024)] = 1,
    group_width: Annotated[int, Bounds(1, 1024)] = 64,
    reduction: Annotated[int, Bounds(0, 65_536)] = 0,
    stride_in: Annotated[str, OneOf(*STRIDE_IN)] = "3x3",
    pool: Annotated[str, OneOf(*POOLS)] = "symmetric",
    stem_widths: SomeWidths = (64,),
    skip_size: Annotated[int, OneOf(1, 3, 5, 7)] = 1,
    halve_first: bool = False,
    norm_eps: NormEps = 1e-5,
) -> Network:
    """Build a network of bottlenecks: [N, in_channels, H, W], any shape from `min_size` up, to logits [N, num_classes].

    Stage i of `depths`, from 0, has that many bottlenecks, whose 3x3 has `groups` of group_width * 2^i channels
    (ResNeXt's cardinality and d) and which put out 256 * 2^i; all stages but the first halve the map. `reduction`
    above 0 adds the gate of SE networks. `width` scales all channels, to multiples of 8 and of the groups. `dropout`
    stands before the classifier.

    Where the sources differ: `stride_in` says which convolution of a bottleneck halves the map, the "1x1" as in the
    paper, Caffe and Keras, or the "3x3" as in torchvision; `pool` is "symmetric" padding behind the stem, or Caffe's
    none with the size rounded up ("ceil"); `norm_eps` is 1.001e-5 in Keras. SENet-154's own: a 3x3 for each of three
    `stem_widths` in place of the 7x7, a `skip_size` of 3 where the map is halved, and a first 1x1 to half the width.

    stem="imagenet" reduces 4 times before the first stage, and `min_size` is 32, which the last stage sees as one
    pixel. stem="small" is for pictures of 16 to 64 pixels: 3x3 at stride 1 and no pooling, 8 times in all.

    Convolutions start He normal by fan-in, as the papers ask; torchvision takes the fan-out. Raises DepthwiseError
    for a value out of range, UsageError for an unknown stem, stride_in or pool.
    """
    norm = partial(nn.BatchNorm2d, eps=norm_eps)
    imagenet = stem == "imagenet"
    convs, channels = nn.Sequential(), in_channels
    size = 7 if imagenet and len(stem_widths) == 1 else 3
    stride = 2 if imagenet else 1
    for i, out in enumerate(stem_widths):
        out = scale_width(out, width)
        conv = conv2d(channels, out, size, stride if i == 0 else 1, "symmetric")
        convs.append(ConvNorm(conv, out, relu, norm))
        channels = out
    stages = [Stage("stem", convs, channels, stride)]
    if imagenet:
        stride *= 2
        stages.append(Stage("pool", POOLS[pool](), channels, stride))
    block = partial(bottleneck, groups=groups, reduction=reduction, stride_in=stride_in, norm=norm)
    for i, depth in enumerate(depths):
        step = 1 if i == 0 else 2
        first = max(1, group_width // 2) if halve_first else group_width
        reduce, inner = (scale_width(groups * c * 2**i, width, multiple=groups) for c in (first, group_width))
        widths = (reduce, inner, scale_width(256 * 2**i, width))
        chain = nn.Sequential(block(channels, widths, step, skip_size=skip_size if step > 1 else 1))
        channels = widths[-1]
        chain.extend(block(channels, widths, 1, skip_size=None) for _ in range(depth - 1))
        stride *= step
        stages.append(Stage(f"stage{i + 1}", chain, channels, stride))
    return Network(
        stages,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
        input_size=224 if imagenet else 32,
        min_size=stride,
    )


resnet50 = resnet
resnet101 = partial(resnet, depths=(3, 4, 23, 3))
resnet152 = partial(resnet, depths=(3, 8, 36, 3))
resnext50_32x4d = partial(resnet50, groups=32, group_width=4)
resnext101_32x8d = partial(resnet101, groups=32, group_width=8)
se_resnet50 = partial(resnet50, reduction=16, stride_in="1x1", pool="ceil")
se_resnext50_32x4d = partial(resnext50_32x4d, reduction=16, pool="ceil")
senet154 = partial(
    resnet152,
    dropout=0.2,
    groups=64,
    group_width=4,
    reduction=16,
    pool="ceil",
    stem_widths=(64, 64, 128),
    skip_size=3,
    halve_first=True,
)
