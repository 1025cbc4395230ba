"""VGG-16 (Simonyan 2015, arXiv 1409.1556v6, configuration D): 138,357,544 parameters, 15.47 GMAC at 224x224.

13 convolutions of 3x3 in five blocks, then three fully connected layers, which hold 124 million of the parameters.
With batch norm, which came after the paper, 138,365,992: torchvision's, whose convolutions keep their biases.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import sqrt
from typing import Annotated

from torch import nn

from depthwise.bounds import Bounds, checked
from depthwise.layers import (
    ConvNorm,
    Norm,
    conv2d,
    initialise,
    relu,
    scale_width,
)
from depthwise.models.arguments import Classes, Dropout, Groups, ImageChannels, NormEps, Stem, Width, Widths
from depthwise.models.network import Network, Stage


@checked
def vgg16(
    num_classes: Classes = 1000,
    in_channels: ImageChannels = 3,
    *,
    width: Width = 1.0,
    dropout: Dropout = 0.5,
    stem: Stem = "imagenet",
    blocks: Groups = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    hidden: Widths = (4096, 4096),
    batch_norm: bool = False,
    norm_eps: NormEps = 1e-5,
    init_std: Annotated[float, Bounds(0, 1)] = 0.0,
) -> Network:
    """Build VGG-16: [N, in_channels, H, W], any shape from `min_size` up, to logits [N, num_classes].

    `blocks` are the widths of the convolutions, with 2x2 pooling behind each block, `hidden` those of the fully
    connected layers before the classifier; `width` scales them all. `dropout` stands behind every hidden layer.
    `batch_norm` puts one behind every convolution. `pooled` gives the last hidden layer, or with hidden=() the mean of
    each of the last maps, as the network is used where its fully connected layers are left out.

    The fully connected layers see the last map averaged down to 7x7, what 224x224 leaves of itself, so any size of
    image fits: torchvision's rule, where timm slides these layers over larger maps. stem="small" is for pictures of
    16 to 64 pixels: without the first pooling, and the last map averaged down to one pixel.

    He normal by fan-in for all but the classifier, N(0, 0.01): the paper has N(0, 0.01) for all, and trains the
    deeper networks from a shallower one because that alone does not train them (`init_std=0.01` does as the paper);
    torchvision takes the fan-out. Without
    batch norm, the learning rates of networks that have it are too high.

    Raises DepthwiseError for a value out of range, UsageError for an unknown stem.
    """
    norm: Norm = partial(nn.BatchNorm2d, eps=norm_eps) if batch_norm else nn.Identity
    imagenet = stem == "imagenet"
    stages: list[Stage] = []
    channels, stride = in_channels, 1
    for i, block in enumerate(blocks, start=1):
        convs = nn.Sequential()
        for out in block:
            out = scale_width(out, width)
            convs.append(ConvNorm(conv2d(channels, out, 3, 1, "symmetric", bias=True), out, relu, norm))
            channels = out
        stages.append(Stage(f"block{i}", convs, channels, stride))
        if imagenet or i > 1:
            stride *= 2
            stages.append(Stage(f"pool{i}", nn.MaxPool2d(2), channels, stride))
    features = [scale_width(out, width) for out in hidden]
    return Network(
        stages,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
        neck=_neck(channels, 7 if imagenet else 1, features, dropout) if hidden else None,
        num_features=(channels, *features)[-1],
        input_size=224 if imagenet else 32,
        min_size=stride,
        init=partial(normal, std=init_std) if init_std else _initialise,
    )


def _neck(channels: int, side: int, widths: Sequence[int], dropout: float) -> nn.Module:
    """Fully connected layers on the map averaged down to `side` pixels: [N, C, H, W] -> [N, widths[-1]]."""
    neck = nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten())
    for i, (m, n) in enumerate(pairwise((channels * side**2, *widths))):
        if i > 0:
            neck.append(nn.Dropout(dropout))
        neck.extend([nn.Linear(m, n), nn.ReLU()])
    return neck


def normal(module: nn.Module, std: float) -> None:
    """N(0, std) for the weights of every convolution and linear layer, biases 0; in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _initialise(module: nn.Module) -> None:
    initialise(module)
    if isinstance(module, Network):
        for layer in module.neck.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=sqrt(2 / layer.in_features))


vgg16_bn = partial(vgg16, batch_norm=True)
