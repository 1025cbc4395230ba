"""From encoded images to a network's outputs: decoded in threads, and run through the network in batches.

The network never waits while an image is ready: a batch is whatever was decoded while it was busy with the last one.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Condition, Event, Thread
from typing import Protocol

import torch
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.heat import Heat
from depthwise.infer import Predictor
from depthwise.infer.looking import Asked, answer_and_heats, shows
from depthwise.serve.limits import Limits, RefusedError
from depthwise.serve.sharing import Threads
from depthwise.words import number_of

MOST_HEATS = 5
"""Classes of an image whose heat is given."""

SURE = 0.5
"""How much of an image's time it may wait by our guess, which is a rough one."""


@dataclass(eq=False)
class Look:
    """An encoded image of which is also asked where the network looked: `heats` are there when it is answered.

    At most MOST_HEATS: of the classes that `asked` names first, or of the likeliest.
    """

    data: bytes
    asked: Asked
    heats: tuple[Heat, ...] = ()


Source = bytes | Tensor | Look
"""An encoded image; uint8 pixels [C, H, W] of any size; or float32 [C, h, w], which go into the network as they are."""

logger = logging.getLogger("depthwise.serve")


class Watch(Protocol):
    """Who is told what images wait for and cost, in seconds; from several threads."""

    def decoded(self, seconds: float) -> None: ...

    def batch(self, images: int, waited: Sequence[float], seconds: float) -> None: ...

    def dropped(self, images: int) -> None: ...


def sizes(most: int) -> list[int]:
    """The numbers of images that batches have: powers of two, up to `most`."""
    return [2**power for power in range(most.bit_length())]


def nothing(predictor: Predictor, images: int) -> Tensor:
    """As many black images as the network takes them, uint8 [N, C, h, w]."""
    return torch.zeros((images, *predictor.preprocess.shape), dtype=torch.uint8)


class _Pace:
    """Seconds from one image's answer to the next while more wait: a mean in which late batches weigh most."""

    def __init__(self) -> None:
        self.seconds, self._last = 0.0, -math.inf

    def answered(self, images: int, taken: float) -> None:
        """A batch is done, of which the first image was taken at `taken`, by `time.monotonic`."""
        now = time.monotonic()
        each = (now - max(self._last, taken)) / images
        self.seconds, self._last = (0.8 * self.seconds + 0.2 * each if self.seconds else each), now


@dataclass(eq=False)
class _Item:
    source: Source
    deadline: float
    taken: float
    future: "Future[Tensor]" = field(default_factory=Future)
    pixels: Tensor | None = None
    size: tuple[int, int] = (0, 0)


class Batcher:
    """Runs the `predictor`'s network on what `submit` takes, in the order in which it was decoded.

    At most `limits.max_queue` images are taken and not answered, and none that would wait for more than half of the
    time that it has, at the rate of the last answers. An image whose future was cancelled, or whose deadline has
    passed, is dropped before it is decoded and again before the network. One that cannot be decoded, or on which the
    network fails, fails alone. Batches have a power of two of images: a plan keeps memory for each size.
    Where the network looked is found one image at a time, for a plan keeps memory for that beside the other.
    """

    def __init__(self, predictor: Predictor, limits: Limits, threads: Threads, watch: Watch) -> None:
        self.predictor, self.limits, self.threads, self.watch = predictor, limits, threads, watch
        self._ready: deque[_Item] = deque()
        self._changed = Condition()
        self._pending = 0
        self._decoding = 0
        self._pace = _Pace()
        self._closed = False
        self.looks = False
        """Whether a `Look` can be answered."""
        self._decoders = ThreadPoolExecutor(threads.decoding, "depthwise-decode")
        self._warm = Event()
        self._network = Thread(target=self._run, name="depthwise-network", daemon=True)
        self._network.start()
        self._warm.wait()

    @property
    def pending(self) -> int:
        """Images that were taken and have left neither with an answer nor without."""
        return self._pending

    def submit(self, sources: Sequence[Source], deadline: float) -> "list[Future[Tensor]]":
        """A future of the network's output, float32 [outputs], for each of the sources; all are taken or none.

        deadline: by `time.monotonic`. Raises RefusedError with 503 if there is no room for them, and with 422
        for a `Look` if what runs the network does not show where it looked.
        """
        if not self.looks and any(isinstance(source, Look) for source in sources):
            raise RefusedError(
                422,
                "cam=true: what runs this network does not show where it looked: leave it out, or have depthwise serve "
                "run it with --engine torch",
            )
        now = time.monotonic()
        items = [_Item(source, deadline, now) for source in sources]
        with self._changed:
            self._make_room(len(items), deadline - now)
            self._pending += len(items)
            self._decoding += len(items)
        for item in items:
            self._decoders.submit(self._decode, item)
        return [item.future for item in items]

    def _make_room(self, images: int, seconds: float) -> None:
        """Refuse so many images, which have so many seconds, if they cannot be answered."""
        if self._closed:
            raise RefusedError(503, "the service is ending: ask another", {"Retry-After": "1"})
        wait = self._pending * self._pace.seconds
        again = {"Retry-After": str(max(1, math.ceil(wait)))}
        if self._pending + images > self.limits.max_queue:
            raise RefusedError(
                503,
                f"{self._pending} of at most {self.limits.max_queue} images are waiting already: ask again later",
                again,
            )
        if wait > SURE * seconds:
            raise RefusedError(
                503,
                f"{number_of(self._pending, 'image')} before it would take {wait:.2g} s, too long for an answer within "
                f"{self.limits.seconds:g} s: ask again later",
                again,
            )

    def close(self) -> None:
        """Finish what was taken, and take nothing more; waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._network.join()
        self._decoders.shutdown()

    def _decode(self, item: _Item) -> None:
        try:
            if not self._alive(item):
                self._left(1, decoded=1)
                return
            begun = time.monotonic()
            if isinstance(item.source, Look):
                item.size, item.pixels = self._sized(item.source.data)
            else:
                item.pixels = self._pixels(item.source)
                item.source = b""
            self.watch.decoded(time.monotonic() - begun)
        except BaseException as error:
            _say(error)
            _fail(item.future, error)
            self._left(1, decoded=1)
            return
        with self._changed:
            self._ready.append(item)
            self._decoding -= 1
            self._changed.notify_all()

    def _sized(self, data: bytes) -> tuple[tuple[int, int], Tensor]:
        """The picture's height and width, and its uint8 [C, h, w]."""
        found = self.predictor.picture(data)
        if isinstance(found, DepthwiseError):
            raise found
        picture, pixels = found
        return (picture.shape[1], picture.shape[2]), pixels

    def _pixels(self, source: bytes | Tensor) -> Tensor:
        if isinstance(source, Tensor) and source.is_floating_point():
            return source
        pixels = self.predictor.pixels(source)
        if isinstance(pixels, DepthwiseError):
            raise pixels
        return pixels

    def _alive(self, item: _Item) -> bool:
        """Whether somebody still waits for it, and may; whoever waits too long is told."""
        if item.future.cancelled():
            self.watch.dropped(1)
            return False
        if time.monotonic() > item.deadline:
            self.watch.dropped(1)
            _fail(item.future, self.limits.too_late())
            return False
        return True

    def _left(self, images: int, decoded: int = 0) -> None:
        with self._changed:
            self._pending -= images
            self._decoding -= decoded
            self._changed.notify_all()

    def _run(self) -> None:
        threads = 0
        try:
            self._take_memory()
        finally:
            self._warm.set()
        while batch := self._next():
            wanted = self.threads.network if self._decoding else self.threads.alone
            if wanted != threads:
                torch.set_num_threads(threads := wanted)
            try:
                self._answer(batch)
            finally:
                self._left(len(batch))

    def _take_memory(self) -> None:
        """Have the plan take what it keeps for each size of batch, in the thread that will run it."""
        for threads in {self.threads.network, self.threads.alone}:
            torch.set_num_threads(threads)
            for size in sizes(self.limits.max_batch):
                self.predictor.outputs(nothing(self.predictor, size))
            self.looks = shows(self.predictor)

    def _next(self) -> list[_Item]:
        """The next batch as soon as there is one; empty when all is done and no more will come."""
        with self._changed:
            while not self._closed or self._pending:
                items: list[_Item] = []
                while self._ready and len(items) < self.limits.max_batch:
                    if not self._alive(self._ready[0]):
                        self._ready.popleft()
                        self._left(1)
                    elif items and not _together(items[0], self._ready[0]):
                        break
                    else:
                        items.append(self._ready.popleft())
                if items:
                    size = sizes(len(items))[-1]
                    self._ready.extendleft(reversed(items[size:]))
                    return items[:size]
                if not self._closed or self._pending:
                    self._changed.wait()
        return []

    def _answer(self, items: list[_Item]) -> None:
        now = time.monotonic()
        waited = [now - item.taken for item in items]
        try:
            outputs = self._outputs(items)
        except Exception as error:
            if len(items) == 1:
                _say(error)
                _fail(items[0].future, error)
            else:
                for item in items:
                    self._answer([item])
            return
        self.watch.batch(len(items), waited, time.monotonic() - now)
        self._pace.answered(len(items), items[0].taken)
        for item, output in zip(items, outputs, strict=True):
            _succeed(item.future, output)

    def _outputs(self, items: list[_Item]) -> Tensor:
        first = items[0]
        if isinstance(first.source, Look) and first.pixels is not None:
            look = first.source
            output, look.heats = answer_and_heats(
                self.predictor, look.asked, first.pixels, first.size, MOST_HEATS
            )
            return output[None]
        pixels = torch.stack([item.pixels for item in items if item.pixels is not None])
        if pixels.dtype == torch.uint8:
            return self.predictor.outputs(pixels).reshape(len(items), -1)
        with torch.inference_mode():
            return self.predictor.module(pixels).reshape(len(items), -1)


def _together(one: _Item, other: _Item) -> bool:
    """Whether both may be in a batch."""
    if one.pixels is None or other.pixels is None or one.pixels.dtype != other.pixels.dtype:
        return False
    return not isinstance(one.source, Look) and not isinstance(other.source, Look)


def _say(error: BaseException) -> None:
    if not isinstance(error, DepthwiseError):
        logger.error("an image failed", exc_info=error)


def _fail(future: "Future[Tensor]", error: BaseException) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


def _succeed(future: "Future[Tensor]", output: Tensor) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(output)
