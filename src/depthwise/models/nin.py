"""Network in Network (Lin 2014, arXiv 1312.4400): 7,595,176 parameters and 1.064 GMAC at 224x224, 1000 classes.

The ImageNet network is the authors' model for Caffe, "nin_imagenet". They state no counts: these are the sums over its
layers. They report 59.36% top-1 for it and no top-5. Two things differ: the maps of the classes are averaged as they
are, without the ReLU that stands behind them there, so that average and 1x1 convolution may change places, and the
classifier is a linear layer on pooled features like every network's here. That leaves the parameters as they are and
saves the multiply-adds of 35 of 36 pixels; Caffe's order takes 1.100 GMAC.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

from torch import Tensor, nn

from depthwise.bounds import Bounds, Length, checked
from depthwise.layers import WidthFactor, conv2d, initialise, relu, scale_width
from depthwise.models.arguments import Channels, Classes, Dropout, ImageChannels, Stem, Width
from depthwise.models.network import Network, Stage

Layer = Callable[[Callable[[int], nn.Module], int], nn.Module]
"""(the convolution for a number of maps, that number) -> what a block of the network computes."""


def mlpconv(conv: Callable[[int], nn.Module], channels: int, *, depth: int = 2) -> nn.Module:
    """A convolution and `depth` 1x1 behind it, each with a ReLU: a small perceptron slid over the map (section 3.1)."""
    # In place: a convolution's backward does not read its output either.
    layers = nn.Sequential(conv(channels), relu())
    for _ in range(depth):
        layers.extend([conv2d(channels, channels, 1, bias=True), relu()])
    return layers


class Maxout(nn.Module):
    """The largest of every `pieces` neighbouring maps: [N, pieces * C, H, W] -> [N, C, H, W] (Goodfellow 2013)."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.pieces)).amax(2)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


@checked
def nin(
    num_classes: Classes = 1000,
    in_channels: ImageChannels = 3,
    *,
    width: Width = 1.0,
    dropout: Dropout = 0.5,
    stem: Stem = "imagenet",
    widths: Annotated[Sequence[Channels], Length(2, 12)] = (96, 256, 384, 1024),
) -> Network:
    """Build NIN: [N, in_channels, H, W], any shape from `min_size` up, to logits [N, num_classes].

    Four mlpconv layers of `widths` maps with 3x3/2 pooling between them; `width` scales them all. The second 1x1 of
    the last one makes a map for each class, and their averages are the logits: the classifier. `dropout` stands
    before the last mlpconv layer.

    stem="imagenet" begins with an 11x11/4 without padding, and `min_size` is 39, which leaves one pixel at the end.
    stem="small" is for pictures of 16 to 64 pixels: a padded 5x5 at stride 1, as in the paper's CIFAR network, and no
    pooling behind it.

    He normal by fan-in, and N(0, 0.01) for the classifier. The authors' N(0, 0.01) and N(0, 0.05) go with pixels
    from 0 to 255. There is no batch norm: the learning rates of networks that have it are too high.

    Raises DepthwiseError for a value out of range, UsageError for an unknown stem.
    """
    layers: list[Layer] = [mlpconv] * (len(widths) - 1)
    layers.append(partial(mlpconv, depth=1))
    return _network(layers, num_classes, in_channels, width, dropout, stem, widths)


@checked
def nin_maxout(
    num_classes: Classes = 1000,
    in_channels: ImageChannels = 3,
    *,
    width: Width = 1.0,
    dropout: Dropout = 0.5,
    stem: Stem = "imagenet",
    widths: Annotated[Sequence[Channels], Length(2, 12)] = (96, 256, 384, 1024),
    pieces: Annotated[int, Bounds(1, 256)] = 2,
) -> Network:
    """Build what `nin` is compared with: maxout layers (Goodfellow 2013, arXiv 1302.4389) of the same widths.

    A maxout layer is a convolution to `pieces` linear maps for each of its outputs, and the maximum over them: a
    piecewise linear function, convex, of the patch, where mlpconv's perceptron can be any (Lin 2014, sections 2 and
    3.1). Everything else, the classifier included, is as in `nin`. The paper compares the two on CIFAR and states no
    network for ImageNet; with 2 pieces, as in Goodfellow's convolutions, this one has 11,174,376 parameters.

    Convolutions start from a normal distribution by fan-in without He's factor of 2: the larger of two keeps the mean
    square, where a ReLU halves it.
    """

    def maxout(conv: Callable[[int], nn.Module], channels: int) -> nn.Module:
        return nn.Sequential(conv(pieces * channels), Maxout(pieces))

    layers: list[Layer] = [maxout] * len(widths)
    return _network(layers, num_classes, in_channels, width, dropout, stem, widths, _initialise_maxout)


def _initialise_maxout(module: nn.Module) -> None:
    initialise(module)
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")


def _network(
    layers: Sequence[Layer],
    num_classes: int,
    in_channels: int,
    width: WidthFactor,
    dropout: float,
    stem: str,
    widths: Sequence[int],
    init: Callable[[nn.Module], None] = initialise,
) -> Network:
    imagenet = stem == "imagenet"
    stages: list[Stage] = []
    channels, stride = in_channels, 4 if imagenet else 1
    for i, (layer, out) in enumerate(zip(layers, widths, strict=True), start=1):
        if i > 2 or (i == 2 and imagenet):
            stride *= 2
            # Caffe's: no padding, but the last window may hang over the edge.
            stages.append(Stage(f"pool{i - 1}", nn.MaxPool2d(3, 2, ceil_mode=True), channels, stride))
        size = 5 if i <= 2 else 3
        conv = partial(conv2d, channels, kernel_size=size, padding="symmetric", bias=True)
        if i == 1 and imagenet:
            conv = partial(conv2d, channels, kernel_size=11, stride=4, bias=True)
        channels = scale_width(out, width)
        block = layer(conv, channels)
        if i == len(widths):
            block = nn.Sequential(nn.Dropout(dropout), *block.children())
        stages.append(Stage(f"block{i}", block, channels, stride))
    return Network(
        stages,
        num_classes=num_classes,
        in_channels=in_channels,
        input_size=224 if imagenet else 32,
        # What leaves one pixel at the end: a pooled side s comes from 2 s at least.
        min_size=stride + 7 if imagenet else stride,
        init=init,
    )
