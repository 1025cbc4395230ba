"""A VGG-like network of separable convolutions without residuals: 23,594,024 parameters and 6.4 GMAC at 299x299.

Chollet 2017, section 4.6, reports that such networks too beat Inception V3 on JFT at equal parameters, and does
not publish their plan. This one is VGG-16's (Simonyan 2015, configuration D): 13 convolutions in five groups of
growing width with a pooling between. The widths are ours: twice VGG's in the first three groups, and in the last
two what brings the parameters within 0.2% of the 23,626,728 of Inception V3 in the paper's Table 3.
"""

from itertools import chain, pairwise

from torch import nn

from depthwise.bounds import checked
from depthwise.layers import (
    Conv,
    ConvNorm,
    MaxPool2d,
    conv2d,
    relu,
    scale_width,
)
from depthwise.models.arguments import Classes, ConvName, Dropout, Groups, ImageChannels, Stem, Width
from depthwise.models.convolutions import convolution
from depthwise.models.network import Network, Stage


@checked
def separable_vgg(
    num_classes: Classes = 1000,
    in_channels: ImageChannels = 3,
    *,
    width: Width = 1.0,
    dropout: Dropout = 0.0,
    stem: Stem = "imagenet",
    widths: Groups = ((128,) * 2, (256,) * 2, (512,) * 3, (1984,) * 3, (1984,) * 3),
    conv: ConvName | Conv = "separable",
) -> Network:
    """Build the network: [N, in_channels, H, W], any shape from `min_size` up, to logits [N, num_classes].

    `widths` are the convolutions' in each group; `width` scales them. `conv` makes all but the first, as in
    `xception`. The first is a regular one with stride 2, as in Xception and Inception V3: a filter a channel
    would see three colours and nothing else. Batch norm and ReLU follow each; the classifier takes the mean of
    the last maps, where VGG has two large layers. `dropout` stands before it.

    stem="small" is for pictures of 16 to 64 pixels: the first convolution has stride 1, which leaves 16 times
    instead of 32 and a `min_size` of 16. Convolutions start He normal by fan-in. Raises DepthwiseError for a
    value out of range, UsageError for an unknown stem.
    """
    groups = [[scale_width(c, width) for c in group] for group in widths]
    plan = list(chain(*groups))
    conv = convolution(conv, plan[:-1], plan[1:])
    stride = 2 if stem == "imagenet" else 1
    layers = chain(
        [conv2d(in_channels, plan[0], 3, stride, "same")], (conv(m, n, 3) for m, n in pairwise(plan))
    )
    stages = []
    for i, group in enumerate(groups):
        stage = nn.Sequential()
        if i:
            stage.append(MaxPool2d(2, stride=2))
            stride *= 2
        for n in group:
            stage.append(ConvNorm(next(layers), n, relu))
        stages.append(Stage(f"group{i + 1}", stage, group[-1], stride))
    return Network(
        stages,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
        input_size=299 if stem == "imagenet" else 32,
        min_size=stride,
    )
