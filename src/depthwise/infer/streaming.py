"""Many images through a network: a batch is read in threads while the network runs on the batch before."""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from typing import TypeVar

import torch

from depthwise.data.dataset import BadImage
from depthwise.data.image import UnreadableImageError
from depthwise.errors import DepthwiseError

G = TypeVar("G")
R = TypeVar("R")
A = TypeVar("A")

_Image = tuple[str, Callable[[], R | DepthwiseError]]
"""An image's name, and a function that waits for what is read of it."""


def streamed(
    images: Iterable[tuple[str, G]],
    batch_size: int,
    read: Callable[[G], R | DepthwiseError],
    work: Callable[[list[str], list[R]], Iterable[A]],
    *,
    ahead: bool,
) -> Generator[A | BadImage, None, None]:
    """What `work` makes of the names of images and of what was `read` of them, a batch at a time, in their order.

    An image of which a DepthwiseError is read gives a BadImage. ahead: whether the next batch is read meanwhile; no
    further batch is in memory, and otherwise `images` is not asked for more before the answers to its last batch were
    taken.
    """
    with closing(_Readers(torch.get_num_threads())) as readers:

        def begun() -> list[_Image[R]]:
            part = list(islice(images, batch_size))
            started = readers.start if ahead or len(part) > 1 else partial
            return [(name, started(read, image)) for name, image in part]

        images = iter(images)
        batch = begun()
        while batch:
            following = begun() if ahead else None
            yield from _worked(batch, work)
            batch = begun() if following is None else following


def _worked(
    batch: list[_Image[R]],
    work: Callable[[list[str], list[R]], Iterable[A]],
) -> Iterator[A | BadImage]:
    """What `work` makes of the images of a batch that can be read, in order, and a BadImage of each other."""
    read = [(name, image()) for name, image in batch]
    good = [(name, image) for name, image in read if not isinstance(image, DepthwiseError)]
    made: Iterator[A] = iter(())
    if good:
        made = iter(work([name for name, _ in good], [image for _, image in good]))
    for name, image in read:
        if isinstance(image, DepthwiseError):
            yield BadImage(name, image.reason if isinstance(image, UnreadableImageError) else str(image))
        else:
            yield next(made)


class _Readers:
    """`threads` threads that read images, started with the first image; decoding releases Python's lock."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def start(self, read: Callable[[G], R], image: G) -> Callable[[], R]:
        """A function that waits for what is read of the image."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, "depthwise-read")
        return self._pool.submit(read, image).result

    def close(self) -> None:
        """Drop what has not begun, and wait for the rest."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
