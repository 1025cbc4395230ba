"""Images whose features are most like a picture's, by the cosine between them, in NumPy and a block at a time."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from depthwise.embeddings.files import Embeddings
from depthwise.errors import DepthwiseError


class Neighbour(NamedTuple):
    """An image's name, and the cosine between its features and the picture's, -1 to 1."""

    name: str
    likeness: float


def nearest(
    embeddings: Embeddings, names: Sequence[str], features: np.ndarray, most: int
) -> list[list[Neighbour]]:
    """For each picture, float32 [Q, D], up to `most` images, the most alike first; of two alike the earlier one.

    An image that is called as the picture in `names` is the picture and left out. Raises DepthwiseError if the features
    are not as many as those in the file.
    """
    if features.shape[1] != embeddings.width:
        raise DepthwiseError(
            f"{embeddings.path} has {embeddings.width} features of each image and this network makes "
            f"{features.shape[1]}: give the bundle that it was written with"
        )
    best: list[list[Neighbour]] = [[] for _ in names]
    queries = _of_length_one(features)
    for known, block in embeddings.blocks():
        likeness = queries @ _of_length_one(block).T
        for number, (name, row) in enumerate(zip(names, likeness, strict=True)):
            # One more than are wanted, should the picture itself be among them.
            places = np.argsort(-row, kind="stable")[: most + 1].tolist()
            found = [Neighbour(known[place], float(row[place])) for place in places if known[place] != name]
            best[number] = sorted([*best[number], *found], key=lambda each: -each.likeness)[:most]
    return best


def _of_length_one(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, np.finfo(np.float32).tiny)
