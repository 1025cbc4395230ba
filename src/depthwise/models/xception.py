"""Xception (Chollet 2017, arXiv 1610.02357v3): 22,855,952 parameters and 8.36 GMAC at 299x299 and 1000 classes.

Figure 5 of the paper: 36 convolutions in 14 modules, all but the first and the last with a linear residual around
them. Batch norm follows every convolution; nothing stands between depthwise and pointwise.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from depthwise.errors import DepthwiseError, unknown_name
from depthwise.layers import (
    Conv,
    ConvNorm,
    MaxPool2d,
    PointwiseConv2d,
    SeparableConv2d,
    check_arguments,
    check_input,
    check_widths,
    initialise,
    relu,
    scale_width,
)

STEMS = ("imagenet", "small")


class Block(nn.Module):
    """conv(relu(x)) over `widths`, halved if `stride` is 2, plus the skip: x itself, or 1x1 where the shape changes."""

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        stride: int = 1,
        relu_first: bool = True,
        residual: bool = True,
        conv: Conv = SeparableConv2d,
    ) -> None:
        super().__init__()
        # The first ReLU must not work in place: the skip reads the same tensor.
        self.body = nn.Sequential(nn.ReLU() if relu_first else nn.Identity())
        channels = in_channels
        for i, out_channels in enumerate(widths, start=1):
            activation = relu if i < len(widths) else nn.Identity
            self.body.append(ConvNorm(channels, out_channels, 3, conv=conv, activation=activation))
            channels = out_channels
        if stride > 1:
            self.body.append(MaxPool2d(3, stride))
        self.skip: nn.Module | None = None
        if residual:
            same_shape = channels == in_channels and stride == 1
            self.skip = (
                nn.Identity()
                if same_shape
                else ConvNorm(in_channels, channels, stride=stride, conv=PointwiseConv2d)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if self.skip is None else self.body(x) + self.skip(x)


class Xception(nn.Module):
    """[N, in_channels, H, W] -> logits [N, num_classes]; `xception` builds it."""

    def __init__(
        self,
        stem: nn.Module,
        entry: nn.Module,
        middle: nn.Module,
        exit: nn.Module,
        classifier: nn.Linear,
        *,
        dropout: float,
        in_channels: int,
        input_size: int,
        min_size: int,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_channels = classifier.out_features, in_channels
        self.input_size, self.min_size = input_size, min_size
        self.stem, self.entry, self.middle, self.exit = stem, entry, middle, exit
        self.dropout = nn.Dropout(dropout)
        self.classifier = classifier
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, self.in_channels, self.min_size)
        x = self.exit(self.middle(self.entry(self.stem(x))))
        return self.classifier(self.dropout(x.mean((2, 3))))


def xception(
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    width: float = 1.0,
    dropout: float = 0.0,
    stem: str = "imagenet",
    entry: Sequence[int] = (128, 256, 728),
    middle: Sequence[int] = (728,) * 8,
    exit: Sequence[int] = (1024, 1536, 2048),
    residual: bool = True,
    conv: Conv = SeparableConv2d,
) -> Xception:
    """Xception for images [N, in_channels, H, W] of any shape from `min_size` up, giving logits [N, num_classes].

    `entry`, `middle` and `exit` are the widths of Figure 5's three flows and, by their lengths, the depth: one block
    of two convolutions and a pooling for each of `entry`, one of three convolutions for each of `middle`, and for
    `exit` a last pooled block, then one convolution for each further width. `width` multiplies them all and the
    stem's 32 and 64. `dropout` stands before the classifier (0.5 on ImageNet and none on JFT, section 4.4; the
    published weights' network has none). `residual=False` is Figure 9's network; `conv` replaces every separable
    convolution.

    `stem="imagenet"` starts with a 3x3/2 and a 3x3 without padding; `min_size` is then the smallest side that leaves a
    3x3 map at the end, 71 at the default depth. `stem="small"` starts with two 3x3 that keep the map's size, for
    pictures of 16 to 64 pixels; `min_size` is then the smallest side that every pooling halves, 16 at the default
    depth, leaving 1x1.

    The paper states no initialisation; He normal by fan-in is used. Raises DepthwiseError for values outside
    their range and UsageError for an unknown stem.
    """
    check_arguments(num_classes, in_channels, width, dropout)
    check_widths(entry=entry, middle=middle, exit=exit)
    if not exit:
        raise DepthwiseError("exit=() leaves the network without an exit flow: give it at least one width")
    if stem not in STEMS:
        raise unknown_name("stem", stem, STEMS)
    imagenet = stem == "imagenet"
    reductions = len(entry) + 1

    def scaled(channels: int) -> int:
        return scale_width(channels, width)

    block = partial(Block, residual=residual, conv=conv)
    stride, padding = (2, 0) if imagenet else (1, 1)
    channels = scaled(64)
    stem_flow = nn.Sequential(
        ConvNorm(in_channels, scaled(32), 3, stride=stride, padding=padding, activation=relu),
        ConvNorm(scaled(32), channels, 3, padding=padding, activation=relu),
    )
    entry_flow = nn.Sequential()
    for i, out_channels in enumerate(map(scaled, entry)):
        # The stem ends in a ReLU, so the first block needs none.
        entry_flow.append(block(channels, (out_channels,) * 2, stride=2, relu_first=i > 0))
        channels = out_channels
    middle_flow = nn.Sequential()
    for out_channels in map(scaled, middle):
        middle_flow.append(block(channels, (out_channels,) * 3))
        channels = out_channels
    pooled, *last = map(scaled, exit)
    exit_flow = nn.Sequential(block(channels, (channels, pooled), stride=2))
    channels = pooled
    for out_channels in last:
        exit_flow.append(ConvNorm(channels, out_channels, 3, conv=conv, activation=relu))
        channels = out_channels

    return Xception(
        stem_flow,
        entry_flow,
        middle_flow,
        exit_flow,
        nn.Linear(channels, num_classes),
        dropout=dropout,
        in_channels=in_channels,
        input_size=299 if imagenet else 32,
        min_size=4 * 2**reductions + 7 if imagenet else 2**reductions,
    )
