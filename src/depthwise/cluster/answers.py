"""Batch prediction by a cluster: pieces of the images are tasks, and whoever asked writes their files.

A worker process keeps the network that it has loaded, so no actor is needed. It must see the images and the bundle
under the same paths as whoever asks; the answers' folder is written from there alone.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

from depthwise.batch.pictures import Pictures
from depthwise.batch.pieces import Piece, pictures_of
from depthwise.batch.run import Carry, Results
from depthwise.batch.work import Answered, Asked, answered, predictor_of
from depthwise.cluster.connection import connected
from depthwise.cluster.tasks import events, stand_in
from depthwise.errors import DepthwiseError
from depthwise.infer import Predictor


def on_cluster(address: str, jobs: int | None, say: Callable[[str], None]) -> Carry:
    """A `Carry`: by tasks of one CPU on the cluster at `address`, `jobs` of them at once.

    say: called with a sentence for each piece whose worker died.
    """

    def carry(asked: Asked, pieces: Sequence[Piece], found: Sequence[Pictures]) -> Results:
        folder = os.getcwd()
        orders = ((piece, _Order(folder, asked, pictures_of(piece, found))) for piece in pieces)

        def lost(piece: Piece, reason: str) -> None:
            say(f"{piece} is answered again: {reason}")

        with (
            connected(address) as cluster,
            closing(events(cluster, _answer, orders, at_once=jobs, lost=lost)) as answers,
        ):
            for piece, event in answers:
                if isinstance(event, str):
                    raise DepthwiseError(event)
                yield piece, event

    return carry


@dataclass(frozen=True)
class _Order:
    """A piece, and the folder in which paths are meant."""

    folder: str
    asked: Asked
    pictures: Pictures


def _answer(order: _Order) -> Iterator[Answered | str]:
    """In a worker: the answers, or the sentence why there are none."""
    try:
        stand_in(order.folder)
        yield answered(order.asked, _predictor(order.asked), order.pictures)
    except DepthwiseError as error:
        yield str(error)


@lru_cache(maxsize=1)
def _predictor(asked: Asked) -> Predictor:
    import torch

    torch.set_num_threads(1)  # of the CPU that a task has
    return predictor_of(asked)
