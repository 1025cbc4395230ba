"""What the arguments that networks share may be; a builder annotates its own with these, and `bounds.checked` asks."""

from collections.abc import Sequence
from typing import Annotated

from depthwise.bounds import Bounds, Length, OneOf

STEMS = ("imagenet", "small")
PADDINGS = ("same", "symmetric")

Side = Annotated[int, Bounds(1, 8192)]
Classes = Annotated[int, Bounds(0, 1_000_000)]  # 0 leaves the classifier out
ImageChannels = Annotated[int, Bounds(1, 4096)]
Channels = Annotated[int, Bounds(1, 65_536)]
Factor = Annotated[float, Bounds(0, 64, above=True)]
Width = Factor | tuple[Factor, Annotated[int, Bounds(1, 64)]]  # see layers.WidthFactor
Dropout = Annotated[float, Bounds(0, 1, below=True)]
NormEps = Annotated[float, Bounds(0, 1, above=True)]
Stem = Annotated[str, OneOf(*STEMS)]
Padding = Annotated[str, OneOf(*PADDINGS)]
ConvName = Annotated[str, Length(1, 60)]

# The channels of convolutions one after another, of at least one, and of parts of a network between which maps shrink.
Widths = Annotated[Sequence[Channels], Length(0, 256)]
SomeWidths = Annotated[Sequence[Channels], Length(1, 256)]
Halvings = Annotated[Sequence[Channels], Length(0, 12)]
Groups = Annotated[Sequence[SomeWidths], Length(1, 12)]
