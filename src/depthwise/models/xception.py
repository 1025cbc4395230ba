"""Xception (Chollet 2017, arXiv 1610.02357v3): 22,855,952 parameters and 8.36 GMAC at 299x299, 1000 classes.

Figure 5 of the paper: 36 convolutions in 14 modules, all but the first and the last with a linear residual
around them; batch norm behind every convolution, and nothing between depthwise and pointwise.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import nn

from depthwise.bounds import checked
from depthwise.layers import (
    Conv,
    ConvNorm,
    MaxPool2d,
    Norm,
    PointwiseConv2d,
    Residual,
    SeparableConv2d,
    conv2d,
    relu,
    scale_width,
    tensorflow_norm,
)
from depthwise.models.arguments import (
    Classes,
    ConvName,
    Dropout,
    Halvings,
    ImageChannels,
    NormEps,
    Padding,
    SomeWidths,
    Stem,
    Width,
    Widths,
)
from depthwise.models.convolutions import convolution
from depthwise.models.network import Network, Stage, fully_connected_neck, start_neck


def block(
    in_channels: int,
    widths: Sequence[int],
    *,
    pool: bool = False,
    relu_first: bool = True,
    residual: bool = True,
    conv: Conv = SeparableConv2d,
    norm: Norm = tensorflow_norm,
    padding: str = "same",
) -> nn.Module:
    """body(x) + skip(x): a ReLU and a convolution for each of `widths`, then 3x3/2 pooling if asked.

    The skip is x itself, or a 1x1 convolution where the shape changes: linear either way.
    """
    # Not in place, unlike the later ones: the skip reads the same x.
    body = nn.Sequential(nn.ReLU() if relu_first else nn.Identity())
    channels = in_channels
    for i, out_channels in enumerate(widths, start=1):
        activation = relu if i < len(widths) else nn.Identity
        body.append(ConvNorm(conv(channels, out_channels, 3), out_channels, activation, norm))
        channels = out_channels
    if pool:
        body.append(MaxPool2d(3, stride=2, padding=padding))
    if not residual:
        return body
    if not pool and channels == in_channels:
        return Residual(body)
    skip = PointwiseConv2d(in_channels, channels, stride=2 if pool else 1)
    return Residual(body, ConvNorm(skip, channels, norm=norm))


@checked
def xception(
    num_classes: Classes = 1000,
    in_channels: ImageChannels = 3,
    *,
    width: Width = 1.0,
    dropout: Dropout = 0.0,
    stem: Stem = "imagenet",
    entry: Halvings = (128, 256, 728),
    middle: Widths = (728,) * 8,
    exit: SomeWidths = (1024, 1536, 2048),
    fully_connected: Widths = (),
    residual: bool = True,
    norm_eps: NormEps = 1e-3,
    padding: Padding = "same",
    conv: ConvName | Conv = "separable",
) -> Network:
    """Build Xception: [N, in_channels, H, W], of any shape from `min_size` up, to logits [N, num_classes].

    `entry`, `middle` and `exit` are the widths in Figure 5 and, by their lengths, the depth: a pooled block
    of two convolutions for each of `entry`, a block of three for each of `middle`, and for `exit` a pooled
    block, then a convolution for each further width. `width` scales them and the stem's 32 and 64. `dropout`
    stands before the classifier (section 4.4: 0.5 on ImageNet, none on JFT). `norm_eps` and the `padding` of
    poolings are Keras' unless given: timm's weights want "symmetric" and were published for 1e-5.

    The paper's variants: `residual=False` is the network of Figure 9. `conv` makes every convolution behind the
    stem: a name from models/convolutions.py ("separable-elu" is in Figure 10), or what makes the layer of its
    numbers of channels and its kernel size. `fully_connected=(4096, 4096)` puts layers with ReLU, scaled by
    `width` as well, between the pooled features and the classifier (Table 2, Figure 8).

    stem="imagenet" begins with a 3x3/2 and a 3x3 without padding, and `min_size` is the smallest side that
    leaves a 3x3 map at the end: 71 as published. stem="small" keeps the size of the map, for pictures of 16
    to 64 pixels, and `min_size` is the smallest side that every pooling halves: 16 with the published depth.

    The paper states no initialisation: He normal by fan-in here, Glorot uniform in Keras. Raises
    DepthwiseError for a value out of range, UsageError for an unknown stem.
    """
    entry, middle, exit = ([scale_width(c, width) for c in flow] for flow in (entry, middle, exit))
    first, second = scale_width(32, width), scale_width(64, width)
    entry_out = (second, *entry)[-1]
    middle_out = (entry_out, *middle)[-1]
    conv = convolution(conv, (second, *entry, *middle, *exit[:-1]), (middle_out, *entry, *middle, *exit))
    imagenet = stem == "imagenet"
    stride, edge = (2, 0) if imagenet else (1, 1)
    reduction = 2 ** (len(entry) + 1)
    norm = partial(tensorflow_norm, eps=norm_eps)
    part = partial(block, residual=residual, conv=conv, norm=norm, padding=padding)
    stem_convs = nn.Sequential(
        ConvNorm(conv2d(in_channels, first, 3, stride, edge), first, relu, norm),
        ConvNorm(conv2d(first, second, 3, 1, edge), second, relu, norm),
    )
    stages = [Stage("stem", stem_convs, second, stride)]
    for i, (m, n) in enumerate(pairwise((second, *entry)), start=1):
        stages.append(Stage(f"entry{i}", part(m, (n, n), pool=True, relu_first=i > 1), n, stride * 2**i))
    flow = nn.Sequential(*(part(m, (n, n, n)) for m, n in pairwise((entry_out, *middle))))
    stages.append(Stage("middle", flow, middle_out, stride * 2 ** len(entry)))
    flow = nn.Sequential(
        part(middle_out, (middle_out, exit[0]), pool=True),
        *(ConvNorm(conv(m, n, 3), n, relu, norm) for m, n in pairwise(exit)),
    )
    stages.append(Stage("exit", flow, exit[-1], stride * reduction))
    hidden = [scale_width(c, width) for c in fully_connected]
    network = Network(
        stages,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
        neck=fully_connected_neck(exit[-1], hidden) if hidden else None,
        num_features=(exit[-1], *hidden)[-1],
        input_size=299 if imagenet else 32,
        # More than two of the last map's pixels must reach behind the stem, which maps s to (s - 3) // 2 - 1.
        min_size=4 * reduction + 7 if imagenet else reduction,
    )
    start_neck(network)
    return network
