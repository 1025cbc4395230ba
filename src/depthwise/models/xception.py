"""Xception (Chollet 2017, arXiv 1610.02357v3): 22,855,952 parameters and 8.36 GMAC at 299x299, 1000 classes.

Figure 5 of the paper: 36 convolutions in 14 modules, all but the first and the last with a linear residual
around them; batch norm behind every convolution, and nothing between depthwise and pointwise.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.layers import (
    Conv,
    ConvNorm,
    MaxPool2d,
    PointwiseConv2d,
    SeparableConv2d,
    check_arguments,
    check_input,
    check_widths,
    conv2d,
    initialise,
    relu,
    run,
    scale_width,
)


class Block(nn.Module):
    """body(x) + skip(x): a ReLU and a convolution for each of `widths`, then 3x3/2 pooling if asked.

    The skip is x itself, or a 1x1 convolution where the shape changes: linear either way.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        pool: bool = False,
        relu_first: bool = True,
        residual: bool = True,
        conv: Conv = SeparableConv2d,
    ) -> None:
        super().__init__()
        # Not in place, unlike the later ones: the skip reads the same x.
        self.body = nn.Sequential(nn.ReLU() if relu_first else nn.Identity())
        channels = in_channels
        for i, out_channels in enumerate(widths, start=1):
            activation = relu if i < len(widths) else nn.Identity
            self.body.append(ConvNorm(conv(channels, out_channels, 3), out_channels, activation))
            channels = out_channels
        if pool:
            self.body.append(MaxPool2d(3, stride=2))
        self.skip: nn.Module | None = None
        if residual and (pool or channels != in_channels):
            self.skip = ConvNorm(PointwiseConv2d(in_channels, channels, stride=2 if pool else 1), channels)
        elif residual:
            self.skip = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.skip, ConvNorm):
            return self.skip(x, residual=run(self.body, x))
        return run(self.body, x, None if self.skip is None else self.skip(x))


class Xception(nn.Module):
    """[N, in_channels, H, W] -> logits [N, num_classes]; `xception` builds it."""

    def __init__(
        self,
        *,
        stem: nn.Sequential,
        entry: nn.Sequential,
        middle: nn.Sequential,
        exit: nn.Sequential,
        classifier: nn.Linear,
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
        x = run(self.exit, self.middle(self.entry(self.stem(x))))
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
    """Build Xception: [N, in_channels, H, W], of any shape from `min_size` up, to logits [N, num_classes].

    `entry`, `middle` and `exit` are the widths in Figure 5 and, by their lengths, the depth: a pooled block
    of two convolutions for each of `entry`, a block of three for each of `middle`, and for `exit` a pooled
    block, then a convolution for each further width. `width` scales them and the stem's 32 and 64. `dropout`
    stands before the classifier (section 4.4: 0.5 on ImageNet, none on JFT). `residual=False` is the network
    of Figure 9; `conv` makes every convolution behind the stem.

    stem="imagenet" begins with a 3x3/2 and a 3x3 without padding, and `min_size` is the smallest side that
    leaves a 3x3 map at the end: 71 as published. stem="small" keeps the size of the map, for pictures of 16
    to 64 pixels, and `min_size` is the smallest side that every pooling halves: 16 with the published depth.

    The paper states no initialisation: He normal by fan-in here, Glorot uniform in Keras. Raises
    DepthwiseError for a value out of range, UsageError for an unknown stem.
    """
    check_arguments(num_classes, in_channels, width, dropout, stem)
    check_widths(entry=entry, middle=middle, exit=exit)
    if not exit:
        raise DepthwiseError("exit=() must hold at least one width, that of the last pooled block")
    entry, middle, exit = ([scale_width(c, width) for c in flow] for flow in (entry, middle, exit))
    first, second = scale_width(32, width), scale_width(64, width)
    entry_out = (second, *entry)[-1]
    middle_out = (entry_out, *middle)[-1]
    imagenet = stem == "imagenet"
    stride, padding = (2, 0) if imagenet else (1, 1)
    reduction = 2 ** (len(entry) + 1)
    block = partial(Block, residual=residual, conv=conv)
    return Xception(
        stem=nn.Sequential(
            ConvNorm(conv2d(in_channels, first, 3, stride, padding), first, relu),
            ConvNorm(conv2d(first, second, 3, 1, padding), second, relu),
        ),
        entry=nn.Sequential(
            *(
                block(m, (n, n), pool=True, relu_first=i > 0)
                for i, (m, n) in enumerate(pairwise((second, *entry)))
            )
        ),
        middle=nn.Sequential(*(block(m, (n, n, n)) for m, n in pairwise((entry_out, *middle)))),
        exit=nn.Sequential(
            block(middle_out, (middle_out, exit[0]), pool=True),
            *(ConvNorm(conv(m, n, 3), n, relu) for m, n in pairwise(exit)),
        ),
        classifier=nn.Linear(exit[-1], num_classes),
        dropout=dropout,
        in_channels=in_channels,
        input_size=299 if imagenet else 32,
        # More than two of the last map's pixels must reach behind the stem, which maps s to (s - 3) // 2 - 1.
        min_size=4 * reduction + 7 if imagenet else reduction,
    )
