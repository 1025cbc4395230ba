"""Threads that read images and a network beside them: who has how many, and that they end."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.conftest import CLASSES

from depthwise.infer.sharing import SETTLING, Sharing, Threads
from depthwise.infer.streaming import streamed
from depthwise.modes import threads_kept
from depthwise.ship.load import load

IMAGES = [(str(number), number) for number in range(40)]


class Reading:
    """A way to read an image that knows how many are being read."""

    def __init__(self) -> None:
        self.now, self._lock = 0, threading.Lock()

    def __call__(self, image: int) -> int:
        with self._lock:
            self.now += 1
        time.sleep(0.003)
        with self._lock:
            self.now -= 1
        return -image

    def most_from(self, number: int) -> int:
        """How many at most are being read for a while, after no more than `number` were."""
        end = time.monotonic() + 10
        while self.now > number and time.monotonic() < end:
            time.sleep(0.001)
        most, end = 0, time.monotonic() + 0.03
        while time.monotonic() < end:
            most = max(most, self.now)
            time.sleep(0.001)
        return most


def known() -> Sharing:
    """Of a network that takes as long as reading does."""
    sharing = Sharing()
    for _ in range(SETTLING):
        sharing.read(1.0)
        sharing.ran(1.0)
    return sharing


@pytest.fixture
def four_threads() -> Iterator[None]:
    with threads_kept():
        torch.set_num_threads(4)
        yield


@pytest.mark.usefixtures("four_threads")
def test_the_network_runs_alone_until_it_is_known() -> None:
    reading, sharing, met = Reading(), Sharing(), []

    def network(names: list[str], read: list[int]) -> Iterator[str]:
        met.append((reading.most_from(0), torch.get_num_threads()))
        yield from map(str, read)

    answers = list(streamed(IMAGES, 8, reading, network, ahead=True, sharing=lambda: sharing))
    assert answers == [str(-number) for _, number in IMAGES]
    assert met[:2] == [(0, 4)] * 2
    assert sharing.shares(4)


@pytest.mark.usefixtures("four_threads")
def test_readers_and_network_have_their_shares_of_the_threads() -> None:
    reading, sharing, met = Reading(), known(), []
    assert sharing.shares(4) == Threads(decoding=2, network=2, alone=4)

    def network(names: list[str], read: list[int]) -> Iterator[str]:
        met.append((reading.most_from(2), torch.get_num_threads()))
        yield from map(str, read)

    stream = streamed(IMAGES, 8, reading, network, ahead=True, sharing=lambda: sharing)
    for number, answer in enumerate(stream):
        assert answer == str(-number)
        assert torch.get_num_threads() == 4  # to whoever takes the answers
    assert max(most for most, _ in met) <= 2
    *beside, alone = [threads for _, threads in met]
    assert 2 in beside
    assert alone == 4


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("sharing", [None, Sharing(), known()], ids=["none", "unknown", "known"])
def test_an_error_of_the_network_ends_all_threads(sharing: Sharing | None) -> None:

    def network(names: list[str], read: list[int]) -> Iterator[str]:
        raise KeyboardInterrupt
        yield ""

    with pytest.raises(KeyboardInterrupt):
        list(streamed(IMAGES, 8, Reading(), network, ahead=True, sharing=lambda: sharing))
    assert torch.get_num_threads() == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("depthwise-read")]


@pytest.mark.usefixtures("four_threads")
def test_shared_threads_change_no_bit(tiny_bundle: Path) -> None:
    predictor = load(tiny_bundle, engine="native")
    images = list(torch.randint(0, 256, (48, 3, 40, 36), dtype=torch.uint8))
    shared = predictor(images, len(CLASSES), batch_size=4)
    assert predictor._shared().shares(4)  # type: ignore[union-attr]
    torch.set_num_threads(1)
    assert predictor(images, len(CLASSES), batch_size=4) == shared
