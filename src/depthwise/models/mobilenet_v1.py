"""MobileNet V1 (Howard 2017, arXiv 1704.04861v1): 4,231,976 parameters and 0.57 GMAC at 224x224, 1000 classes.

Table 1 of the paper, 28 layers: a 3x3 convolution, 13 times a depthwise and a pointwise one, a linear classifier.
Unlike in Xception's separable convolution, batch norm and an activation follow the depthwise one too.
"""

from functools import partial
from typing import Annotated

from torch import nn

from depthwise.bounds import Bounds, checked
from depthwise.layers import (
    ConvNorm,
    Norm,
    PointwiseConv2d,
    conv2d,
    scale_width,
    tensorflow_norm,
)
from depthwise.models.arguments import Classes, Dropout, Groups, ImageChannels, NormEps, Padding, Stem, Width
from depthwise.models.network import Network, Stage

# Like `relu`, only behind a batch norm.
relu6 = partial(nn.ReLU6, inplace=True)


def initialise_as_slim(network: nn.Module) -> None:
    """A truncated normal of deviation 0.09 for every weight, as in TF-slim's release of both MobileNets; in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | PointwiseConv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.09, a=-0.18, b=0.18)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def block(in_channels: int, out_channels: int, stride: int, norm: Norm, padding: str) -> nn.Module:
    """Depthwise 3x3, then 1x1 (Figure 3, right): [N, M, H, W] -> [N, K, H / stride, W / stride]."""
    depthwise = conv2d(in_channels, in_channels, 3, stride, padding, groups=in_channels)
    return nn.Sequential(
        ConvNorm(depthwise, in_channels, relu6, norm),
        ConvNorm(PointwiseConv2d(in_channels, out_channels), out_channels, relu6, norm),
    )


@checked
def mobilenet_v1(
    num_classes: Classes = 1000,
    in_channels: ImageChannels = 3,
    *,
    width: Width = 1.0,
    dropout: Dropout = 1e-3,
    stem: Stem = "imagenet",
    widths: Groups = ((64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024)),
    head: Annotated[int, Bounds(0, 65_536)] = 0,
    norm_eps: NormEps = 1e-3,
    padding: Padding = "same",
) -> Network:
    """Build MobileNet V1: [N, in_channels, H, W], any shape from `min_size` up, to logits [N, num_classes].

    `width` is the paper's width multiplier (1, 0.75, 0.5, 0.25); its resolution multiplier is the size of the
    input (224, 192, 160, 128). `widths` are the blocks' channels in Table 1; each group but the first begins by
    halving the map. `head` puts one more 1x1 convolution behind them, as in MobileNet V2 and in timm's
    mobilenetv1_100h, whose 1024 channels `width` only ever raises. `dropout` stands before the classifier.

    The paper leaves open what the TensorFlow release decided and is followed in: ReLU6, dropout 0.001, SAME
    padding, `norm_eps`, and weights that start from a truncated normal of deviation 0.09. timm's weights want
    padding="symmetric" and norm_eps=1e-5. Keras' copy of the release pads strided windows (0, 1), which is SAME
    on maps of even size only: the two agree if the input's size, halved and rounded up, divides by 16.

    stem="small" is for pictures of 16 to 64 pixels: the first convolution has stride 1, which leaves 16 times
    instead of 32 and a `min_size` of 16. Raises DepthwiseError for a value out of range, UsageError for an
    unknown stem or padding.
    """
    norm = partial(tensorflow_norm, eps=norm_eps)
    stride = 2 if stem == "imagenet" else 1
    channels = scale_width(32, width)
    first = ConvNorm(conv2d(in_channels, channels, 3, stride, padding), channels, relu6, norm)
    stages = [Stage("stem", first, channels, stride)]
    for i, group in enumerate(widths):
        blocks = nn.Sequential()
        for j, out in enumerate(scale_width(c, width) for c in group):
            blocks.append(block(channels, out, 2 if i and not j else 1, norm, padding))
            channels = out
        stride *= 2 if i else 1
        stages.append(Stage(f"separable{i + 1}", blocks, channels, stride))
    if head:
        head = scale_width(head, width, at_least=1.0)
        last = ConvNorm(PointwiseConv2d(channels, head), head, relu6, norm)
        stages.append(Stage("head", last, head, stride))
    return Network(
        stages,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
        input_size=224 if stem == "imagenet" else 32,
        min_size=stride,
        init=initialise_as_slim,
    )
