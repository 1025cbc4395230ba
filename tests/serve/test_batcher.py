"""Images on their way through the batcher: together, alone, too late, and not at all."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import torch
from tests.models.networks import narrow
from tests.serve.serving import png

from depthwise.data import Preprocess
from depthwise.infer import Predictor, compile
from depthwise.infer.looking import Asked
from depthwise.serve.batcher import MOST_HEATS, Batcher, Look, sizes
from depthwise.serve.limits import Limits, RefusedError, refusal_of
from depthwise.serve.sharing import Threads, divided
from depthwise.ship.load import load


class Seen:
    """What a batcher tells."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.num_dropped = self.num_decoded = 0

    def decoded(self, seconds: float) -> None:
        self.num_decoded += 1

    def batch(self, images: int, waited: Sequence[float], seconds: float) -> None:
        self.batches.append(images)

    def dropped(self, images: int) -> None:
        self.num_dropped += images


class Held:
    """A network that waits to be let go, as one does that is busy with a large batch; NaN from a white image."""

    def __init__(self, predictor: Predictor) -> None:
        self.free, self.busy = threading.Event(), threading.Event()
        self.module = predictor.module
        predictor.module = torch.nn.Identity()
        predictor.module.forward = self.run  # type: ignore[method-assign]
        self.free.set()

    def run(self, x: torch.Tensor) -> torch.Tensor:
        self.busy.set()
        assert self.free.wait(60)
        if (x > 0.99).all(dim=(1, 2, 3)).any():
            raise RuntimeError("poisoned")
        return self.module(x)


@pytest.fixture
def predictor(tiny_bundle: Path) -> Predictor:
    return load(tiny_bundle, engine="torch")


def soon() -> float:
    return time.monotonic() + 60


def test_what_came_while_the_network_was_busy_goes_together(predictor: Predictor) -> None:
    held, seen = Held(predictor), Seen()
    batcher = Batcher(predictor, Limits(max_batch=8), Threads(1, 1, 1), seen)
    held.free.clear()
    held.busy.clear()
    first = batcher.submit([png(0)], soon())
    assert held.busy.wait(60)  # an idle network does not wait for company
    others = batcher.submit([png(number) for number in range(1, 12)], soon())
    while seen.num_decoded < 12:
        time.sleep(0.01)
    assert batcher.pending == 12
    held.free.set()
    outputs = torch.stack([future.result(60) for future in first + others])
    batcher.close()
    assert seen.batches == [1, 8, 2, 1]
    assert batcher.pending == 0
    pixels = torch.stack([predictor.pixels(png(number)) for number in range(12)])  # type: ignore[arg-type]
    torch.testing.assert_close(outputs, predictor.outputs(pixels))


def test_who_is_not_waited_for_any_more_costs_nothing(predictor: Predictor) -> None:
    held, seen = Held(predictor), Seen()
    batcher = Batcher(predictor, Limits(max_batch=8), Threads(1, 1, 1), seen)
    held.free.clear()
    held.busy.clear()
    first = batcher.submit([png(0)], soon())
    assert held.busy.wait(60)
    late = batcher.submit([png(1), png(2)], time.monotonic() + 0.2)
    gone = batcher.submit([png(3), png(4)], soon())
    last = batcher.submit([png(5)], soon())
    assert all(future.cancel() for future in gone)
    time.sleep(0.3)
    held.free.set()
    for future in late:
        with pytest.raises(RefusedError, match="no answer within 10 s") as refused:
            future.result(60)
        assert refused.value.status == 504
    for future in gone:
        with pytest.raises(CancelledError):
            future.result(60)
    assert (first + last)[1].result(60).shape == (3,)
    batcher.close()
    assert (seen.batches, seen.num_dropped) == ([1, 1], 4)


def test_where_the_network_looked_is_said_of_few_classes_and_refused_by_what_does_not_show_it() -> None:
    asked = Asked(7, None, None)

    def batcher(module: torch.nn.Module) -> Batcher:
        predictor = Predictor(module.eval(), Preprocess((32, 40), channels=3), [*"abcdefg"])
        return Batcher(predictor, Limits(max_batch=2), Threads(1, 1, 1), Seen())

    hidden = narrow("vgg16", stem="small").eval()
    for module, method in ((narrow("mobilenet_v1", stem="small"), "cam"), (hidden, "grad-cam")):
        taking, looks = batcher(module), [Look(png(number), asked) for number in range(3)]
        for output, look in zip(taking.submit(looks, soon()), looks, strict=True):
            made, predictor = output.result(60), taking.predictor
            answer = predictor.prediction("", predictor.task.answer(made[None])[0], topk=7)
            assert [heat.index for heat in look.heats] == [*answer.indices[:MOST_HEATS]]
            assert [heat.logit for heat in look.heats] == made[[*answer.indices[:MOST_HEATS]]].tolist()
            assert {heat.method for heat in look.heats} == {method}
        taking.close()
    taking = batcher(compile(hidden, torch.zeros(1, 3, 32, 40), engine="native"))
    with pytest.raises(RefusedError, match="cam=true: what runs this network does not show where") as refused:
        taking.submit([png(), Look(png(), asked)], soon())
    assert (refused.value.status, taking.pending) == (422, 0)
    taking.close()


def test_a_poisoned_image_fails_alone(predictor: Predictor) -> None:
    held, seen = Held(predictor), Seen()
    batcher = Batcher(predictor, Limits(max_batch=8), Threads(1, 1, 1), seen)
    held.free.clear()
    held.busy.clear()
    white = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    futures = batcher.submit([png(0)], soon())
    assert held.busy.wait(60)
    futures += batcher.submit([png(1), white, b"broken", png(2), torch.zeros(3, 32, 32)], soon())
    while batcher._decoding:
        time.sleep(0.01)
    held.free.set()
    found = [future.exception(60) for future in futures]
    assert [error and refusal_of(error).status for error in found] == [None, None, 500, 422, None, None]
    assert "unexpected RuntimeError: look into the service's log" in str(refusal_of(found[2] or SystemExit()))
    batcher.close()


def test_beyond_its_queue_all_or_nothing_is_taken(predictor: Predictor) -> None:
    held = Held(predictor)
    batcher = Batcher(predictor, Limits(max_queue=3), Threads(1, 1, 1), Seen())
    held.free.clear()
    futures = batcher.submit([png(0), png(1)], soon())
    with pytest.raises(
        RefusedError, match="2 of at most 3 images are waiting already: ask again later"
    ) as refused:
        batcher.submit([png(2), png(3)], soon())
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
    futures += batcher.submit([png(2)], soon())
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while not batcher._closed:
        time.sleep(0.01)
    with pytest.raises(RefusedError, match="the service is ending"):
        batcher.submit([png(4)], soon())
    held.free.set()
    closing.join()
    assert [future.result(0).shape for future in futures] == [(3,)] * 3


def test_what_would_wait_too_long_is_refused_at_once(predictor: Predictor) -> None:
    held = Held(predictor)
    batcher = Batcher(predictor, Limits(seconds=3), Threads(1, 1, 1), Seen())
    held.free.clear()
    first = batcher.submit([png(0)], soon())
    time.sleep(0.5)
    held.free.set()
    assert first[0].result(60).shape == (3,)
    while batcher.pending:
        time.sleep(0.01)
    held.free.clear()
    alone = batcher.submit([png(1)], time.monotonic() + 0.4)  # an idle service takes everything
    with pytest.raises(
        RefusedError,
        match=r"1 image before it would take \S+ s, too long for an answer within 3 s: ask again later",
    ) as refused:
        batcher.submit([png(2)], time.monotonic() + 0.4)
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
    patient = batcher.submit([png(3)], soon())
    held.free.set()
    batcher.close()
    assert [future.result(0).shape for future in alone + patient] == [(3,)] * 2


def test_threads_go_where_the_time_goes() -> None:
    assert divided(1, 0.003, 0.003) == Threads(1, 1, 1)
    assert divided(2, 0.003, 0.003) == Threads(1, 1, 2)
    assert divided(2, 0.006, 0.035) == Threads(1, 2, 2)
    assert divided(16, 0.003, 0.009) == Threads(4, 12, 16)
    assert sizes(1) == [1]
    assert sizes(12) == [1, 2, 4, 8]
