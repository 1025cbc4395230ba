"""Inception-ResNet V2 (Szegedy 2017, arXiv 1602.07261): 55,843,464 parameters, 13.16 GMAC at 299x299, 1000 classes.

As TF-slim, Keras and timm have it: 10, 20 and 10 residuals, each scaled down before the addition (section 3.3). The
paper draws 5, 10 and 5, of slightly other widths, behind the stem of Inception V4, where these stand behind V3's.
"""

from functools import partial

from torch import nn

from depthwise.bounds import checked
from depthwise.models.arguments import Classes, Dropout, ImageChannels, NormEps, Stem, Width
from depthwise.models.network import Network
from depthwise.models.parts import Aux, C, Part, Plan, R, average_pool, glorot_uniform, inception

# The module in front of the residuals at 35x35.
MIXED5B: Part = [
    C(96, 1),
    (C(48, 1), C(64, 5)),
    (C(64, 1), C(96, 3), C(96, 3)),
    (average_pool(count_padding=False), C(64, 1)),
]

# Figures 16, 17 and 19: what a residual adds at 35x35, 17x17 and 8x8.
BLOCK35: Part = [C(32, 1), (C(32, 1), C(32, 3)), (C(32, 1), C(48, 3), C(64, 3))]
BLOCK17: Part = [C(192, 1), (C(128, 1), C(160, (1, 7)), C(192, (7, 1)))]
BLOCK8: Part = [C(192, 1), (C(192, 1), C(224, (1, 3)), C(256, (3, 1)))]


@checked
def inception_resnet_v2(
    num_classes: Classes = 1000,
    in_channels: ImageChannels = 3,
    *,
    width: Width = 1.0,
    dropout: Dropout = 0.2,
    aux: bool = False,
    stem: Stem = "imagenet",
    norm_eps: NormEps = 1e-3,
) -> Network:
    """Build Inception-ResNet V2: [N, in_channels, H, W], any shape from `min_size` up, to logits [N, num_classes].

    `width` scales all channels. `dropout` stands before the classifier, the paper's "keep 0.8". `aux` adds
    TF-slim's auxiliary tower, that of Inception V3: in training mode the network then returns (logits, auxiliary
    logits), for a loss that weighs the second by `aux_weight`. The paper does not show it; Keras and timm have
    none. A residual's branches meet in a 1x1 convolution with a bias and without batch norm; the last residual
    is neither scaled nor followed by a ReLU.

    stem="imagenet" reduces 32 times without padding, so `min_size` is 75. stem="small" is for pictures of 16
    to 64 pixels: the first convolution has stride 1 and everything is padded, which leaves 16 times and a
    `min_size` of 16.

    Weights start Glorot uniform, the default that TF-slim leaves in place here, and Keras; the paper states none.
    Raises DepthwiseError for a value out of range, UsageError for an unknown stem.
    """
    imagenet = stem == "imagenet"
    stride, edge = (2, 0) if imagenet else (1, 1)
    half = partial(C, kernel_size=3, stride=2, padding=edge)
    pool = partial(nn.MaxPool2d, 3, stride=2, padding=edge)
    reduction6: Part = [half(384), (C(256, 1), C(256, 3), half(384)), pool]
    reduction7: Part = [
        (C(256, 1), half(384)),
        (C(256, 1), half(288)),
        (C(256, 1), C(288, 3), half(320)),
        pool,
    ]
    plan: Plan = {
        "stem1": (stride, (C(32, 3, stride, edge), C(32, 3, padding=edge), C(64, 3))),
        "stem2": (2 * stride, (pool, C(80, 1), C(192, 3, padding=edge))),
        "mixed5": (4 * stride, (pool, MIXED5B, *[R(BLOCK35, 0.17)] * 10)),
        "mixed6": (8 * stride, (reduction6, *[R(BLOCK17, 0.1)] * 20)),
        "mixed7": (
            16 * stride,
            (reduction7, *[R(BLOCK8, 0.2)] * 9, R(BLOCK8, 1.0, nn.Identity), C(1536, 1)),
        ),
    }
    return inception(
        plan,
        num_classes,
        in_channels,
        width=width,
        norm_eps=norm_eps,
        aux={"mixed6": Aux} if aux else None,
        aux_weight=0.4,
        dropout=dropout,
        input_size=299 if imagenet else 32,
        min_size=75 if imagenet else 16,
        init=glorot_uniform,
    )
