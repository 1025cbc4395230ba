"""MobileNet V2 (Sandler 2018, arXiv 1801.04381v4): 3,504,872 parameters and 0.30 GMAC at 224x224, 1000 classes.

Inverted residuals: a 1x1 convolution to `expansion` times the channels, a depthwise 3x3, and a 1x1 back, linear
and with the residual connection between the narrow ends (Figure 3b, Table 1).
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from torch import nn

from depthwise.bounds import Bounds, Length, checked
from depthwise.layers import (
    ConvNorm,
    Norm,
    PointwiseConv2d,
    Residual,
    WidthFactor,
    conv2d,
    factor_and_step,
    scale_width,
    tensorflow_norm,
)
from depthwise.models.arguments import (
    Channels,
    Classes,
    Dropout,
    ImageChannels,
    NormEps,
    Padding,
    Stem,
    Width,
)
from depthwise.models.mobilenet_v1 import initialise_as_slim, relu6
from depthwise.models.network import Network, Stage

Row = tuple[
    Annotated[int, Bounds(1, 64)], Channels, Annotated[int, Bounds(1, 64)], Annotated[int, Bounds(1, 2)]
]

# Table 2: expansion, channels, how many, stride of the first.
BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def rounded(channels: int, width: WidthFactor, at_least: float = 0.0) -> int:
    """`channels` times `width` as the release rounds it: like `scale_width`, but never down by more than a tenth."""
    scaled, (factor, step) = scale_width(channels, width, at_least), factor_and_step(width)
    return scaled if scaled >= 0.9 * channels * max(factor, at_least) else scaled + step


def inverted_residual(
    in_channels: int, out_channels: int, expansion: int, stride: int, norm: Norm, padding: str
) -> nn.Module:
    """Table 1: [N, M, H, W] -> [N, K, H / stride, W / stride]; the connection is there where the shape stays."""
    wide = expansion * in_channels
    body = nn.Sequential()
    if expansion > 1:
        body.append(ConvNorm(PointwiseConv2d(in_channels, wide), wide, relu6, norm))
    body.append(ConvNorm(conv2d(wide, wide, 3, stride, padding, groups=wide), wide, relu6, norm))
    body.append(ConvNorm(PointwiseConv2d(wide, out_channels), out_channels, norm=norm))
    return Residual(body) if stride == 1 and in_channels == out_channels else body


@checked
def mobilenet_v2(
    num_classes: Classes = 1000,
    in_channels: ImageChannels = 3,
    *,
    width: Width = 1.0,
    dropout: Dropout = 0.2,
    stem: Stem = "imagenet",
    blocks: Annotated[Sequence[Row], Length(0, 32)] = BLOCKS,
    head: Channels = 1280,
    norm_eps: NormEps = 1e-3,
    padding: Padding = "same",
) -> Network:
    """Build MobileNet V2: [N, in_channels, H, W], any shape from `min_size` up, to logits [N, num_classes].

    `width` scales all channels, rounded as in the release; those of the last 1x1 convolution, `head`, it only
    ever raises (section 6.1). `blocks` has a row for each group of inverted residuals in Table 2: expansion,
    channels, how many, stride of the first. `dropout` stands before the classifier.

    ReLU6, dropout 0.2, SAME padding, `norm_eps` and weights from a truncated normal of deviation 0.09 are the
    TensorFlow release's, and but for the dropout Keras'; torchvision's and timm's weights want
    padding="symmetric" and norm_eps=1e-5.

    stem="small" is for pictures of 16 to 64 pixels: the first convolution has stride 1, which leaves 16 times
    instead of 32 and a `min_size` of 16. Raises DepthwiseError for a value out of range, UsageError for an
    unknown stem or padding.
    """
    norm = partial(tensorflow_norm, eps=norm_eps)
    stride = 2 if stem == "imagenet" else 1
    channels = rounded(32, width)
    first = ConvNorm(conv2d(in_channels, channels, 3, stride, padding), channels, relu6, norm)
    stages = [Stage("stem", first, channels, stride)]
    for i, (expansion, c, count, first_stride) in enumerate(blocks, start=1):
        group = nn.Sequential()
        out = rounded(c, width)
        for j in range(count):
            group.append(inverted_residual(channels, out, expansion, 1 if j else first_stride, norm, padding))
            channels = out
        stride *= first_stride
        stages.append(Stage(f"bottleneck{i}", group, channels, stride))
    head = rounded(head, width, at_least=1.0)
    last = ConvNorm(PointwiseConv2d(channels, head), head, relu6, norm)
    return Network(
        [*stages, Stage("head", last, head, stride)],
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
        input_size=224 if stem == "imagenet" else 32,
        min_size=stride,
        init=initialise_as_slim,
    )
