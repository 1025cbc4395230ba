"""Inception V2, BN-Inception (Ioffe 2015, arXiv 1502.03167): 11,285,224 parameters, 2.03 GMAC at 224x224, 1000 classes.

The network of the paper's Figure 5: Inception V1 with batch norm, every 5x5 as two 3x3, average pooling in most
branches, and strided modules in place of poolings. With `bias` it has the 11,295,240 parameters of the public Caffe
model, which pretrainedmodels has for PyTorch as bninception; with both auxiliary classifiers it has 16,170,168. Hu 2018
counts 2.03 GMAC too; the 2.05 that one also finds come out if biases, batch norms and ReLUs are counted.
"""

from functools import partial

from depthwise.bounds import checked
from depthwise.layers import MaxPool2d
from depthwise.models.arguments import Classes, Dropout, ImageChannels, NormEps, Padding, Stem, Width
from depthwise.models.network import Network
from depthwise.models.parts import (
    Aux,
    C,
    D,
    Part,
    Plan,
    average_pool,
    inception,
    strided_pool,
    truncated_normal,
)

# Figure 5 of the paper, a module a row: #1x1, #3x3 reduce, #3x3, double #3x3 reduce, double #3x3, pool proj.
FIGURE5 = {
    "3a": (64, 64, 64, 64, 96, 32),
    "3b": (64, 64, 96, 64, 96, 64),
    "4a": (224, 64, 96, 96, 128, 128),
    "4b": (192, 96, 128, 96, 128, 128),
    "4c": (160, 128, 160, 128, 160, 128),
    "4d": (96, 128, 192, 160, 192, 128),
    "5a": (352, 192, 320, 160, 224, 128),
    "5b": (352, 192, 320, 192, 224, 128),
}


def mixed(row: str, pool: Part) -> Part:
    """A module of stride 1."""
    one, reduce3, three, reduce5, five, projection = FIGURE5[row]
    return [
        C(one, 1),
        (C(reduce3, 1), C(three, 3)),
        (C(reduce5, 1), C(five, 3), C(five, 3)),
        (pool, C(projection, 1)),
    ]


def reduction(reduce3: int, three: int, reduce5: int, five: int, padding: str) -> Part:
    """A module of stride 2, which passes the pooled maps through: rows 3c and 4e."""
    return [
        (C(reduce3, 1), C(three, 3, 2, padding)),
        (C(reduce5, 1), C(five, 3), C(five, 3, 2, padding)),
        partial(MaxPool2d, 3, stride=2),
    ]


@checked
def inception_v2(
    num_classes: Classes = 1000,
    in_channels: ImageChannels = 3,
    *,
    width: Width = 1.0,
    dropout: Dropout = 0.0,
    aux: bool = False,
    stem: Stem = "imagenet",
    norm_eps: NormEps = 1e-3,
    padding: Padding = "symmetric",
    count_padding: bool = True,
    bias: bool = False,
    separable: bool = False,
) -> Network:
    """Build BN-Inception: [N, in_channels, H, W], any shape from `min_size` up, to logits [N, num_classes].

    `width` scales all channels, those of the auxiliary classifiers too; `dropout` stands before the classifier, where
    the paper leaves it out. With `aux` the network returns (logits, those behind 3c, those behind 4e) in training mode,
    for a loss that weighs the latter two by `aux_weight`, 0.3, and plain logits otherwise. The paper does not show
    them, TF-slim and pretrainedmodels have none; they are those of lim0606's training in Caffe: GoogLeNet's with batch
    norm in the hidden layer instead of dropout, where 14x14 and 7x7 begin.

    The branches have the channels of Figure 5. Its column of output sizes does not add up to them: modules 4c and
    4d come to 608 maps where it says 576, and 4e to 1056 where it says 1024. The public Caffe model takes the
    branches, as here; TF-slim takes the sizes and narrows the branches. Section 4.2 speaks of 13.6 million
    parameters, which neither has.

    Section 3.2 drops the convolutions' biases, since batch norm has its own; the Caffe model keeps them: `bias`,
    with norm_eps=1e-5. padding="symmetric" is that model's: half the kernel on either side of a strided
    convolution, none in strided poolings, which let their last window reach over the edge. (Where a module of
    stride 2 meets an odd map, that model's branches end in different sizes; ours pool as the convolutions go.)
    "same" is TensorFlow's. `count_padding` says whether average poolings count the zeros at the border: Caffe's do,
    TensorFlow's do not. `separable` makes the first convolution a depthwise one of multiplier 8 and a pointwise
    one, as the paper's own model and TF-slim's have it.

    stem="imagenet" reduces 32 times; stem="small" is for pictures of 16 to 64 pixels: the first convolution has
    stride 1 and no pooling behind it, which leaves 8 times.

    Convolutions start He normal by fan-in, cut off at two deviations, as in TF-slim, which starts the reductions
    at 0.09; the paper states none. Raises DepthwiseError for a value out of range, UsageError for an unknown stem
    or padding.
    """
    imagenet = stem == "imagenet"
    start, fine = (2, 4) if imagenet else (1, 1)
    edge = padding if imagenet else "same"
    conv1: tuple[Part, ...] = (D(8, 7, start, edge), C(64, 1)) if separable else (C(64, 7, start, edge),)
    pool = strided_pool(padding)
    first: tuple[Part, ...] = (pool,) if imagenet else ()
    average = average_pool(count_padding)
    rows = {row: mixed(row, average) for row in FIGURE5}
    rows["5b"] = mixed("5b", partial(MaxPool2d, 3, stride=1))
    reduction3c, reduction4e = reduction(128, 160, 64, 96, padding), reduction(128, 192, 192, 256, padding)
    plan: Plan = {
        "stem1": (start, conv1),
        "stem2": (fine, (*first, C(64, 1), C(192, 3))),
        "mixed3": (2 * fine, (pool, rows["3a"], rows["3b"])),
        "mixed4": (4 * fine, (reduction3c, rows["4a"], rows["4b"], rows["4c"], rows["4d"])),
        "mixed5": (8 * fine, (reduction4e, rows["5a"], rows["5b"])),
    }
    return inception(
        plan,
        num_classes,
        in_channels,
        width=width,
        norm_eps=norm_eps,
        bias=bias,
        aux={
            "mixed3c": partial(Aux, hidden=1024, ceil=True, grid=4),
            "mixed4e": partial(Aux, hidden=1024, ceil=True, grid=2),
        }
        if aux
        else None,
        taps={"mixed4": {0: "mixed3c"}, "mixed5": {0: "mixed4e"}},
        aux_weight=0.3,
        dropout=dropout,
        input_size=224 if imagenet else 32,
        min_size=7 if imagenet else 16,
        init=truncated_normal,
    )
