"""Inception V1, GoogLeNet (Szegedy 2015, arXiv 1409.4842): 6,624,904 parameters, 1.50 GMAC at 224x224, 1000 classes.

With both auxiliary classifiers 13,004,888. The network is torchvision's, which is TF-slim's: batch norm where the
paper has local response normalisation, and 3x3 where it has 5x5.
"""

from functools import partial
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.bounds import OneOf, checked
from depthwise.layers import MaxPool2d, Norm, WidthFactor, scale_width
from depthwise.models.arguments import Classes, Dropout, ImageChannels, NormEps, Padding, Stem, Width
from depthwise.models.network import Network
from depthwise.models.parts import C, Part, Plan, build, inception, strided_pool, truncated_normal

# Table 1 of the paper, a module a row: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
TABLE1 = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def mixed(row: str, kernel_size: int) -> Part:
    """The module of Figure 2(b)."""
    one, reduce3, three, reduce5, five, projection = TABLE1[row]
    return [
        C(one, 1),
        (C(reduce3, 1), C(three, 3)),
        (C(reduce5, 1), C(five, kernel_size)),
        (partial(MaxPool2d, 3, stride=1), C(projection, 1)),
    ]


class Aux(nn.Module):
    """An auxiliary classifier (section 5): [N, C, H, W] -> logits [N, K].

    The 4x4 are torchvision's even share of the map; the paper has 5x5 windows 3 apart, which make 4x4 of 14x14.
    """

    def __init__(self, channels: int, num_classes: int, width: WidthFactor, norm: Norm) -> None:
        super().__init__()
        self.features, channels = build(C(128, 1), channels, width, norm)
        hidden = scale_width(1024, width)
        self.hidden = nn.Linear(channels * 4 * 4, hidden)
        self.dropout = nn.Dropout(0.7)
        self.classifier = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(F.adaptive_avg_pool2d(x, 4))
        return self.classifier(self.dropout(F.relu(self.hidden(x.flatten(1)))))


@checked
def inception_v1(
    num_classes: Classes = 1000,
    in_channels: ImageChannels = 3,
    *,
    width: Width = 1.0,
    dropout: Dropout = 0.4,
    aux: bool = False,
    stem: Stem = "imagenet",
    norm_eps: NormEps = 1e-3,
    padding: Padding = "symmetric",
    kernel_size: Annotated[int, OneOf(3, 5)] = 3,
) -> Network:
    """Build GoogLeNet: [N, in_channels, H, W], any shape from `min_size` up, to logits [N, num_classes].

    `width` scales all channels, those of the auxiliary classifiers too. `dropout` stands before the classifier,
    the paper's 40%. With `aux` the network returns (logits, those behind 4a, those behind 4d) in training mode,
    for a loss that weighs the latter two by `aux_weight`, the paper's 0.3, and plain logits otherwise.
    `kernel_size` is that of the modules' third branch: 3 as in torchvision and TF-slim, 5 as in the paper.

    padding="symmetric" is torchvision's geometry and Caffe's: half the kernel on either side of the first
    convolution, none in the strided poolings, which let their last window reach over the edge. padding="same" is
    TensorFlow's, for which the weights were trained that torchvision has: the first convolution's windows lie one
    pixel further on at 224, and the poolings differ on odd maps. The last pooling is 2x2, in the paper 3x3.

    stem="imagenet" reduces 32 times; stem="small" is for pictures of 16 to 64 pixels: the first convolution has
    stride 1 and no pooling behind it, which leaves 8 times.

    Weights start from a normal distribution of deviation 0.01 cut off at two, as in TF-slim and torchvision; the
    paper states none. Raises DepthwiseError for a value out of range, UsageError for an unknown stem or padding.
    """
    imagenet = stem == "imagenet"
    start, fine = (2, 4) if imagenet else (1, 1)
    pool = strided_pool(padding)
    first: tuple[Part, ...] = (pool,) if imagenet else ()
    rows = {row: mixed(row, kernel_size) for row in TABLE1}
    plan: Plan = {
        "stem1": (start, (C(64, 7, start, padding if imagenet else "same"),)),
        "stem2": (fine, (*first, C(64, 1), C(192, 3))),
        "mixed3": (2 * fine, (pool, rows["3a"], rows["3b"])),
        "mixed4a": (4 * fine, (pool, rows["4a"])),
        "mixed4d": (4 * fine, (rows["4b"], rows["4c"], rows["4d"])),
        "mixed4e": (4 * fine, (rows["4e"],)),
        "mixed5": (8 * fine, (strided_pool(padding, 2), rows["5a"], rows["5b"])),
    }
    return inception(
        plan,
        num_classes,
        in_channels,
        width=width,
        norm_eps=norm_eps,
        aux={"mixed4a": Aux, "mixed4d": Aux} if aux else None,
        aux_weight=0.3,
        dropout=dropout,
        input_size=224 if imagenet else 32,
        min_size=15 if imagenet else 16,
        init=partial(truncated_normal, std=0.01),
    )
