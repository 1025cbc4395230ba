"""Images in: where they come from (sources), what is done to them (transform), in what order (loader)."""

from depthwise.data.columns import Columns
from depthwise.data.dataset import ArraySplit, BadImage, Dataset, FileSplit, Split, test_split, val_split
from depthwise.data.image import Decoding
from depthwise.data.loader import Batch, Batches
from depthwise.data.sources.open import open_dataset
from depthwise.data.sources.source import TooManyUnreadableError
from depthwise.data.transform import Augment, Preprocess

__all__ = [
    "ArraySplit",
    "Augment",
    "BadImage",
    "Batch",
    "Batches",
    "Columns",
    "Dataset",
    "Decoding",
    "FileSplit",
    "Preprocess",
    "Split",
    "TooManyUnreadableError",
    "open_dataset",
    "test_split",
    "val_split",
]
