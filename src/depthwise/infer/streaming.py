"""Many images through a network: a batch is read in threads while the network runs on the batch before."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain, islice
from threading import Condition
from typing import TypeVar

import torch

from depthwise.data.dataset import BadImage
from depthwise.data.image import UnreadableImageError
from depthwise.errors import DepthwiseError
from depthwise.infer.sharing import Sharing

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
    sharing: Callable[[], Sharing | None],
) -> Generator[A | BadImage, None, None]:
    """What `work` makes of the names of images and of what was `read` of them, a batch at a time, in their order.

    `work` runs the network before it gives its first answer. An image of which a DepthwiseError is read gives a
    BadImage. ahead: whether the next batch is read meanwhile; no further batch is in memory, and otherwise `images` is
    not asked for more before the answers to its last batch were taken. sharing: how the network that runs now shares
    its threads with those that read; None where it must have all.
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
            yield from _worked(batch, work, readers, sharing)
            batch = begun() if following is None else following


def _worked(
    batch: list[_Image[R]],
    work: Callable[[list[str], list[R]], Iterable[A]],
    readers: "_Readers",
    sharing: Callable[[], Sharing | None],
) -> Iterator[A | BadImage]:
    """What `work` makes of the images of a batch that can be read, in order, and a BadImage of each other."""
    read = [(name, image()) for name, image in batch]
    good = [(name, image) for name, image in read if not isinstance(image, DepthwiseError)]
    made: Iterator[A] = iter(())
    if good:
        made = iter(work([name for name, _ in good], [image for _, image in good]))
        with readers.beside(len(good), sharing()):
            first = next(made)
        made = chain([first], made)
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
        self._free = Condition()
        self._left, self._busy, self._most = 0, 0, threads
        self._seconds: list[float] = []

    def start(self, read: Callable[[G], R], image: G) -> Callable[[], R]:
        """A function that waits for what is read of the image."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, "depthwise-read")
        with self._free:
            self._left += 1
        return self._pool.submit(self._timed, read, image).result

    def close(self) -> None:
        """Drop what has not begun, and wait for the rest."""
        if self._pool is not None:
            self._allow(self.threads)
            self._pool.shutdown(cancel_futures=True)

    @contextmanager
    def beside(self, images: int, sharing: Sharing | None) -> Iterator[None]:
        """While the network runs on so many images: readers and network have their shares of the threads.

        Until these are known the network runs alone, and tells. Without `sharing` both have all threads.
        """
        if sharing is None:
            yield
            return
        self._tell(sharing)
        threads = torch.get_num_threads()
        shares = sharing.shares(threads)
        if shares is None:
            begun = time.perf_counter()
            with self._at_most(0):
                yield
            sharing.ran((time.perf_counter() - begun) * threads / images)
            return
        with self._at_most(shares.decoding):
            network = shares.network if self._left else shares.alone
            if network == threads:
                yield
                return
            torch.set_num_threads(network)
            try:
                yield
            finally:
                torch.set_num_threads(threads)

    def _timed(self, read: Callable[[G], R], image: G) -> R:
        with self._free:
            self._free.wait_for(lambda: self._busy < self._most)
            self._busy += 1
        begun = time.thread_time()
        try:
            return read(image)
        finally:
            seconds = time.thread_time() - begun
            with self._free:
                self._seconds.append(seconds)
                self._busy -= 1
                self._left -= 1
                self._free.notify()

    @contextmanager
    def _at_most(self, threads: int) -> Iterator[None]:
        """Inside, no more threads than these begin to read."""
        self._allow(threads)
        try:
            yield
        finally:
            self._allow(self.threads)

    def _allow(self, threads: int) -> None:
        with self._free:
            self._most = threads
            self._free.notify_all()

    def _tell(self, sharing: Sharing) -> None:
        with self._free:
            seconds, self._seconds = self._seconds, []
        for each in seconds:
            sharing.read(each)
