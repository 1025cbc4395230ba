"""The images most like some pictures, by a bundle's network: what `depthwise similar` does."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from depthwise.data import BadImage
from depthwise.data.image import decode
from depthwise.embeddings.files import Embeddings
from depthwise.embeddings.nearest import Neighbour, nearest
from depthwise.embeddings.page import Found, render
from depthwise.errors import DepthwiseError
from depthwise.infer import Predictor
from depthwise.infer.predictor import Given
from depthwise.writing import written_whole


def check_same_network(embeddings: Embeddings, weights: str) -> None:
    """Raise DepthwiseError if another network than that with these weights, by their SHA-256, made the embeddings."""
    if embeddings.weights not in (None, weights):
        raise DepthwiseError(
            f"{embeddings.path} was made by other weights than this bundle's, and features of two networks cannot be "
            f"compared: give that bundle, or embed the images anew"
        )


def alike(
    embeddings: Embeddings, names: Sequence[str], rows: Iterable[np.ndarray | BadImage], most: int
) -> list[list[Neighbour] | BadImage]:
    """For each picture of these `names` and features, what `nearest` finds, or why the picture cannot be read."""
    read = list(rows)
    good = [number for number, row in enumerate(read) if not isinstance(row, BadImage)]
    features = np.array([read[number] for number in good], np.float32).reshape(len(good), -1)
    neighbours = iter(nearest(embeddings, [names[number] for number in good], features, most) if good else ())
    return [row if isinstance(row, BadImage) else next(neighbours) for row in read]


def write_page(
    out: Path,
    found: Sequence[tuple[str, Given, Sequence[Neighbour]]],
    sources: Mapping[str, Given],
    embeddings: Path,
    predictor: Predictor,
    command: Sequence[str],
) -> None:
    """Write the page of pictures, by name, with their neighbours to `out`, whole or not at all.

    A neighbour is read from where `sources` have its name, else from the file that is called so.
    """

    def read(image: Given) -> Tensor:
        return decode(image() if callable(image) else image, None, predictor.decoding)

    shown = [Found(name, read(image), neighbours) for name, image, neighbours in found]
    page = render(shown, lambda name: read(sources.get(name, name)), str(embeddings), command)
    with written_whole(out) as file:
        file.write(page.encode("utf-8", errors="replace"))
