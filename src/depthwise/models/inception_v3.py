"""Inception V3 (Szegedy 2016, arXiv 1512.00567v3): 23,834,568 parameters, 5.71 GMAC at 299x299, 1000 classes.

With the auxiliary tower 27,161,264. The network is torchvision's, whose weights are the TensorFlow release's:
its modules differ a little from the paper's table, and from the 23,626,728 parameters that Chollet 2017
counts.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from depthwise.layers import check_arguments
from depthwise.models.network import Network, Stage
from depthwise.models.parts import C, Part, build

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


def inception_v3(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    width: float = 1.0,
    dropout: float = 0.5,
    aux: bool = False,
    stem: str = "imagenet",
) -> Network:
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
    reduction: Part = [
        (C(192, 1), half(320)),
        (C(192, 1), C(192, ROW), C(192, COLUMN), half(192)),
        pool,
    ]
    plan: dict[str, tuple[int, Part]] = {
        "stem1": (1, (C(32, 3, stride=2 if imagenet else 1, padding=edge), C(32, 3, padding=edge), C(64, 3))),
        "stem2": (2, (pool, C(80, 1), C(192, 3, padding=edge))),
        "mixed5": (4, (pool, mixed5(32), mixed5(64), mixed5(64))),
        "mixed6": (
            8,
            ([half(384), (C(64, 1), C(96, 3), half(96)), pool], *map(mixed6, (128, 160, 160, 192))),
        ),
        "mixed7": (16, (reduction, mixed7(), mixed7())),
    }
    stages, channels = [], in_channels
    tower = {}
    for name, (stride, part) in plan.items():
        module, channels = build(part, channels, width)
        stages.append(Stage(name, module, channels, 2 * stride if imagenet else stride))
        if aux and name == "mixed6":
            tower[name] = Aux(channels, num_classes, width)
    return Network(
        stages,
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
        aux=tower,
        aux_weight=0.4,
        input_size=299 if imagenet else 32,
        min_size=75 if imagenet else 16,
    )
