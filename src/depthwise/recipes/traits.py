"""What a recipe may look at before it settles its numbers: the plain facts of a data set."""

from dataclasses import dataclass
from statistics import median

from depthwise.data.dataset import Dataset
from depthwise.data.targets import any_number

LOOKED_AT = 32


@dataclass(frozen=True)
class Traits:
    """num_train images of num_classes; height and width in pixels, the median where images differ.

    several: an image may be of any number of classes.
    """

    num_train: int
    num_classes: int
    height: int
    width: int
    several: bool = False

    @staticmethod
    def of(dataset: Dataset) -> "Traits":
        """Measured on the training part, the size on a few dozen images spread over it."""
        train = dataset.splits["train"]
        step = max(1, len(train) // LOOKED_AT)
        sizes = [tuple(train.image(i).shape[1:]) for i in range(0, len(train), step)]
        height, width = (int(median(side)) for side in zip(*sizes, strict=True))
        return Traits(len(train), len(dataset.classes), height, width, any_number(train))
