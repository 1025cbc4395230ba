"""Inception V4 (Szegedy 2017, arXiv 1602.07261): 42,679,816 parameters, 12.25 GMAC at 299x299, 1000 classes.

Figure 9 of the paper, as TF-slim and timm have it: one geometry for all modules of a grid, no residuals.
"""

from functools import partial

from torch import nn

from depthwise.bounds import checked
from depthwise.models.arguments import Classes, Dropout, ImageChannels, NormEps, Stem, Width
from depthwise.models.network import Network
from depthwise.models.parts import Aux, C, Part, Plan, average_pool, inception, truncated_normal

AVERAGE = average_pool(count_padding=False)
ROW, COLUMN = (1, 7), (7, 1)

# Figure 4, at 35x35.
INCEPTION_A: Part = [
    C(96, 1),
    (C(64, 1), C(96, 3)),
    (C(64, 1), C(96, 3), C(96, 3)),
    (AVERAGE, C(96, 1)),
]

# Figure 5, at 17x17.
INCEPTION_B: Part = [
    C(384, 1),
    (C(192, 1), C(224, ROW), C(256, COLUMN)),
    (C(192, 1), C(192, COLUMN), C(224, ROW), C(224, COLUMN), C(256, ROW)),
    (AVERAGE, C(128, 1)),
]

# Figure 6, at 8x8.
FORK: Part = [C(256, (1, 3)), C(256, (3, 1))]
INCEPTION_C: Part = [
    C(256, 1),
    (C(384, 1), FORK),
    (C(384, 1), C(448, (3, 1)), C(512, (1, 3)), FORK),
    (AVERAGE, C(256, 1)),
]


@checked
def inception_v4(
    num_classes: Classes = 1000,
    in_channels: ImageChannels = 3,
    *,
    width: Width = 1.0,
    dropout: Dropout = 0.2,
    aux: bool = False,
    stem: Stem = "imagenet",
    norm_eps: NormEps = 1e-3,
) -> Network:
    """Build Inception V4: [N, in_channels, H, W], any shape from `min_size` up, to logits [N, num_classes].

    `width` scales all channels. `dropout` stands before the classifier, the paper's "keep 0.8". `aux` adds
    TF-slim's auxiliary tower, that of Inception V3: in training mode the network then returns (logits, auxiliary
    logits), for a loss that weighs the second by `aux_weight`. The paper does not show it and timm has none.

    stem="imagenet" reduces 32 times without padding, so `min_size` is 75. stem="small" is for pictures of 16
    to 64 pixels: the first convolution has stride 1 and everything is padded, which leaves 16 times and a
    `min_size` of 16.

    Convolutions start He normal by fan-in, cut off at two deviations, as in TF-slim; the paper states none.
    Raises DepthwiseError for a value out of range, UsageError for an unknown stem.
    """
    imagenet = stem == "imagenet"
    stride, edge = (2, 0) if imagenet else (1, 1)
    valid = partial(C, kernel_size=3, padding=edge)
    half = partial(C, kernel_size=3, stride=2, padding=edge)
    pool = partial(nn.MaxPool2d, 3, stride=2, padding=edge)
    plan: Plan = {
        "stem1": (stride, (C(32, 3, stride, edge), valid(32), C(64, 3))),
        "stem2": (
            2 * stride,
            (
                [pool, half(96)],
                [(C(64, 1), valid(96)), (C(64, 1), C(64, ROW), C(64, COLUMN), valid(96))],
            ),
        ),
        "mixed5": (4 * stride, ([half(192), pool], *[INCEPTION_A] * 4)),
        "mixed6": (8 * stride, ([half(384), (C(192, 1), C(224, 3), half(256)), pool], *[INCEPTION_B] * 7)),
        "mixed7": (
            16 * stride,
            (
                [(C(192, 1), half(192)), (C(256, 1), C(256, ROW), C(320, COLUMN), half(320)), pool],
                *[INCEPTION_C] * 3,
            ),
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
        init=truncated_normal,
    )
