"""Inception V3 (Szegedy 2016, arXiv 1512.00567v3): 23,834,568 parameters, 5.71 GMAC at 299x299, 1000 classes.

With the auxiliary tower 27,161,264. The network is torchvision's, whose weights are the TensorFlow release's:
its modules differ a little from the paper's table, and from the 23,626,728 parameters that Chollet 2017
counts.

A network is written here as data: `C` is one convolution with batch norm and ReLU, a tuple is a chain, a list
is a set of branches whose outputs are concatenated, and anything else makes a layer that keeps the channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.layers import (
    ConvNorm,
    PointwiseConv2d,
    check_arguments,
    check_input,
    conv2d,
    initialise,
    relu,
    scale_width,
)


@dataclass(frozen=True)
class C:
    """A convolution to `channels` maps, with batch norm and ReLU."""

    channels: int
    kernel_size: int | tuple[int, int]
    stride: int = 1
    padding: int | str = "same"


Part = C | tuple["Part", ...] | list["Part"] | Callable[[], nn.Module]

AVERAGE: Part = partial(nn.AvgPool2d, 3, stride=1, padding=1)
ROW, COLUMN = (1, 7), (7, 1)


def mixed5(pool: int) -> Part:
    """The paper's Figure 5, at 35x35: a 5x5 as two 3x3, beside one left whole."""
    return [C(64, 1), (C(48, 1), C(64, 5)), (C(64, 1), C(96, 3), C(96, 3)), (AVERAGE, C(pool, 1))]


def mixed6(c: int) -> Part:
    """Figure 6, at 17x17: a 7x7 as 1x7 and 7x1."""
    return [
        C(192, 1),
        (C(c, 1), C(c, ROW), C(192, COLUMN)),
        (C(c, 1), C(c, COLUMN), C(c, ROW), C(c, COLUMN), C(192, ROW)),
        (AVERAGE, C(192, 1)),
    ]


def mixed7() -> Part:
    """Figure 7, at 8x8: a 3x3 spread out into 1x3 and 3x1 side by side."""
    fork: Part = [C(384, (1, 3)), C(384, (3, 1))]
    return [C(320, 1), (C(384, 1), fork), (C(448, 1), C(384, 3), fork), (AVERAGE, C(192, 1))]


def build(part: Part, channels: int, width: float) -> tuple[nn.Module, int]:
    """The module that `part` describes for an input of `channels` maps, and how many maps it puts out."""
    match part:
        case C(out, kernel_size, stride, padding):
            out = scale_width(out, width)
            if kernel_size == 1:
                return ConvNorm(PointwiseConv2d(channels, out), out, relu), out
            conv = conv2d(channels, out, kernel_size, stride, padding)
            return ConvNorm(conv, out, relu), out
        case tuple():
            chain = nn.Sequential()
            for step in part:
                module, channels = build(step, channels, width)
                chain.append(module)
            return chain, channels
        case list():
            modules, outs = zip(*(build(branch, channels, width) for branch in part), strict=True)
            return Branches(*modules), sum(outs)
        case _:
            return part(), channels


class Branches(nn.Module):
    """The branches' outputs side by side: [N, C, H, W] -> [N, C1 + C2 + ..., H', W']."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Aux(nn.Module):
    """The auxiliary classifier (section 4), a regulariser at training time: [N, C, H, W] -> logits [N, K]."""

    def __init__(self, channels: int, num_classes: int, width: float) -> None:
        super().__init__()
        self.features, channels = build((C(128, 1), C(768, 5, padding=0)), channels, width)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        # As published the windows make 5x5 out of 17x17; smaller maps get the 5x5 that the convolution needs.
        x = F.avg_pool2d(x, 5, stride=3) if min(x.shape[2:]) >= 17 else F.adaptive_avg_pool2d(x, 5)
        return self.classifier(self.features(x).mean((2, 3)))


class InceptionV3(nn.Module):
    """[N, in_channels, H, W] -> logits [N, num_classes], and in training with `aux` its logits too."""

    aux_weight = 0.4

    def __init__(
        self,
        *,
        trunk: nn.Module,
        aux: Aux | None,
        head: nn.Module,
        classifier: nn.Linear,
        dropout: float,
        in_channels: int,
        input_size: int,
        min_size: int,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = classifier.out_features, in_channels
        self.input_size, self.min_size = input_size, min_size
        self.trunk, self.aux, self.head = trunk, aux, head
        self.dropout = nn.Dropout(dropout)
        self.classifier = classifier
        initialise(self)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        check_input(x, self.in_channels, self.min_size)
        x = self.trunk(x)
        logits = self.classifier(self.dropout(self.head(x).mean((2, 3))))
        return (logits, self.aux(x)) if self.aux is not None and self.training else logits


def inception_v3(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    width: float = 1.0,
    dropout: float = 0.5,
    aux: bool = False,
    stem: str = "imagenet",
) -> InceptionV3:
    """Build Inception V3: [N, in_channels, H, W], any shape from `min_size` up, to logits [N, num_classes].

    `width` scales all channels. `dropout` stands before the classifier. With `aux` the network returns
    (logits, auxiliary logits) in training mode, for a loss that weighs the second by `aux_weight`, and plain
    logits otherwise; Chollet 2017 trains without (section 4.4).

    stem="imagenet" reduces 32 times without padding, so `min_size` is 75. stem="small" is for pictures of 16
    to 64 pixels: the first convolution has stride 1 and everything is padded, which leaves 16 times and a
    `min_size` of 16, as in `xception`.

    Convolutions start He normal by fan-in; TensorFlow's release has a truncated normal of deviation 0.1.
    Raises DepthwiseError for a value out of range, UsageError for an unknown stem.
    """
    check_arguments(num_classes, in_channels, width, dropout, stem)
    imagenet = stem == "imagenet"
    edge = 0 if imagenet else 1
    half = partial(C, kernel_size=3, stride=2, padding=edge)
    pool = partial(nn.MaxPool2d, 3, stride=2, padding=edge)
    trunk, channels = build(
        (
            (C(32, 3, stride=2 if imagenet else 1, padding=edge), C(32, 3, padding=edge), C(64, 3), pool),
            (C(80, 1), C(192, 3, padding=edge), pool),
            (mixed5(32), mixed5(64), mixed5(64)),
            [half(384), (C(64, 1), C(96, 3), half(96)), pool],
            (mixed6(128), mixed6(160), mixed6(160), mixed6(192)),
        ),
        in_channels,
        width,
    )
    tower = Aux(channels, num_classes, width) if aux else None
    head, channels = build(
        (
            [
                (C(192, 1), half(320)),
                (C(192, 1), C(192, ROW), C(192, COLUMN), half(192)),
                pool,
            ],
            (mixed7(), mixed7()),
        ),
        channels,
        width,
    )
    return InceptionV3(
        trunk=trunk,
        aux=tower,
        head=head,
        classifier=nn.Linear(channels, num_classes),
        dropout=dropout,
        in_channels=in_channels,
        input_size=299 if imagenet else 32,
        min_size=75 if imagenet else 16,
    )
