"""Inception V3 (Szegedy 2016, arXiv 1512.00567v3): 23,834,568 parameters, 5.71 GMAC at 299x299, 1000 classes.

With the auxiliary tower 27,161,264. The network is torchvision's, whose weights are the TensorFlow release's: its
modules differ a little from the paper's table. `inception_v3_table3` is the network of 23,626,728 parameters (and
5.62 GMAC, which nobody published) that Chollet 2017 compares Xception with.
"""

from functools import partial

from torch import nn

from depthwise.bounds import checked
from depthwise.layers import scale_width
from depthwise.models.arguments import Channels, Classes, Dropout, ImageChannels, NormEps, Stem, Width, Widths
from depthwise.models.network import Network, fully_connected_neck, start_neck
from depthwise.models.parts import Aux, C, Part, Plan, average_pool, inception, truncated_normal

ROW, COLUMN = (1, 7), (7, 1)
MIXED7 = (320, *(384,) * 4, 192)  # what the last block puts side by side


def mixed5(projection: int, average: Part) -> Part:
    """The paper's Figure 5, at 35x35: a 5x5 as two 3x3, beside one left whole."""
    return [C(64, 1), (C(48, 1), C(64, 5)), (C(64, 1), C(96, 3), C(96, 3)), (average, C(projection, 1))]


def mixed6(c: int, average: Part, first: int | None = None) -> Part:
    """Figure 6, at 17x17: a 7x7 as 1x7 and 7x1; `first` is the 1x1 before two of them, `c` like the rest."""
    return [
        C(192, 1),
        (C(c, 1), C(c, ROW), C(192, COLUMN)),
        (C(first or c, 1), C(c, COLUMN), C(c, ROW), C(c, COLUMN), C(192, ROW)),
        (average, C(192, 1)),
    ]


def mixed7(average: Part) -> Part:
    """Figure 7, at 8x8: a 3x3 spread out into 1x3 and 3x1 side by side."""
    fork: Part = [C(384, (1, 3)), C(384, (3, 1))]
    return [C(320, 1), (C(384, 1), fork), (C(448, 1), C(384, 3), fork), (average, C(192, 1))]


@checked
def inception_v3(
    num_classes: Classes = 1000,
    in_channels: ImageChannels = 3,
    *,
    width: Width = 1.0,
    dropout: Dropout = 0.5,
    aux: bool = False,
    stem: Stem = "imagenet",
    norm_eps: NormEps = 1e-3,
    count_padding: bool = True,
    projections: Widths = (32, 64, 64),
    double7x7: Channels = 192,
    bias: bool = False,
    fully_connected: Widths = (),
) -> Network:
    """Build Inception V3: [N, in_channels, H, W], any shape from `min_size` up, to logits [N, num_classes].

    `width` scales all channels. `dropout` stands before the classifier. With `aux` the network returns
    (logits, auxiliary logits) in training mode, for a loss that weighs the second by `aux_weight`, and plain
    logits otherwise; Chollet 2017 trains without (section 4.4). `count_padding` says whether the branches'
    average poolings count the zeros at the border: torchvision's and timm's do, Keras' do not. `projections` are
    the channels behind these poolings in the blocks at 35x35 and, by their number, the blocks; `double7x7` are
    the first channels of the branch with two 7x7 in the last block at 17x17; `bias` gives the convolutions one.
    `fully_connected` are the widths of hidden layers between the pooled features and the classifier (Chollet 2017,
    Table 2), which `width` scales, too.

    stem="imagenet" reduces 32 times without padding, so `min_size` is 75. stem="small" is for pictures of 16
    to 64 pixels: the first convolution has stride 1 and everything is padded, which leaves 16 times and a
    `min_size` of 16, as in `xception`.

    Convolutions start He normal by fan-in, cut off at two deviations, as in TF-slim; the paper states none.
    Raises DepthwiseError for a value out of range, UsageError for an unknown stem.
    """
    imagenet = stem == "imagenet"
    stride, edge = (2, 0) if imagenet else (1, 1)
    average = average_pool(count_padding)
    half = partial(C, kernel_size=3, stride=2, padding=edge)
    pool = partial(nn.MaxPool2d, 3, stride=2, padding=edge)
    blocks6 = [*(mixed6(c, average) for c in (128, 160, 160)), mixed6(192, average, first=double7x7)]
    plan: Plan = {
        "stem1": (stride, (C(32, 3, stride, edge), C(32, 3, padding=edge), C(64, 3))),
        "stem2": (2 * stride, (pool, C(80, 1), C(192, 3, padding=edge))),
        "mixed5": (4 * stride, (pool, *(mixed5(c, average) for c in projections))),
        "mixed6": (8 * stride, ([half(384), (C(64, 1), C(96, 3), half(96)), pool], *blocks6)),
        "mixed7": (
            16 * stride,
            (
                [(C(192, 1), half(320)), (C(192, 1), C(192, ROW), C(192, COLUMN), half(192)), pool],
                mixed7(average),
                mixed7(average),
            ),
        ),
    }
    hidden = [scale_width(c, width) for c in fully_connected]
    features = sum(scale_width(c, width) for c in MIXED7)
    network = inception(
        plan,
        num_classes,
        in_channels,
        width=width,
        norm_eps=norm_eps,
        bias=bias,
        aux={"mixed6": Aux} if aux else None,
        aux_weight=0.4,
        dropout=dropout,
        input_size=299 if imagenet else 32,
        min_size=75 if imagenet else 16,
        init=truncated_normal,
        neck=fully_connected_neck(features, hidden) if hidden else None,
        num_features=hidden[-1] if hidden else 0,
    )
    start_neck(network)
    return network


@checked
def inception_v3_table3(
    num_classes: Classes = 1000,
    in_channels: ImageChannels = 3,
    *,
    width: Width = 1.0,
    dropout: Dropout = 0.5,
    aux: bool = False,
    stem: Stem = "imagenet",
    norm_eps: NormEps = 1e-3,
    count_padding: bool = False,
) -> Network:
    """Build the Inception V3 of Chollet 2017, Table 3: 23,626,728 parameters, exactly.

    That is what the first version in Keras has, where `inception_v3` is today's: convolutions keep their biases
    beside batch norm, the three blocks at 35x35 are alike, and the last block at 17x17 begins its branch with two
    7x7 at 160 channels. The arguments are those of `inception_v3`; the average poolings are Keras'.
    """
    return inception_v3(
        num_classes,
        in_channels,
        width=width,
        dropout=dropout,
        aux=aux,
        stem=stem,
        norm_eps=norm_eps,
        count_padding=count_padding,
        projections=(32, 32, 32),
        double7x7=160,
        bias=True,
    )
