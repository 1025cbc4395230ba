"""Images that are read in threads beside the network: in which order they come out, and that the threads end."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from depthwise.infer.streaming import streamed
from depthwise.modes import threads_kept

IMAGES = [(str(number), number) for number in range(40)]


class Reading:
    """A way to read an image that knows how many were read, and how many at once."""

    def __init__(self) -> None:
        self.now = self.most = self.done = 0
        self._lock = threading.Lock()

    def __call__(self, image: int) -> int:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.003 * (image % 3))
        with self._lock:
            self.now -= 1
            self.done += 1
        return -image


@pytest.fixture
def four_threads() -> Iterator[None]:
    with threads_kept():
        torch.set_num_threads(4)
        yield


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("ahead", [False, True])
def test_a_batch_is_read_in_threads_and_the_next_one_meanwhile(*, ahead: bool) -> None:
    reading, met = Reading(), []

    def network(names: list[str], read: list[int]) -> Iterator[str]:
        seen = 8 * (len(met) + 1 + ahead)
        end = time.monotonic() + 10
        while ahead and reading.done < min(seen, len(IMAGES)) and time.monotonic() < end:
            time.sleep(0.001)
        met.append(reading.done)
        yield from map(str, read)

    answers = list(streamed(IMAGES, 8, reading, network, ahead=ahead))
    assert answers == [str(-number) for _, number in IMAGES]
    assert 2 <= reading.most <= 4
    assert met == ([16, 24, 32, 40, 40] if ahead else [8, 16, 24, 32, 40])


@pytest.mark.usefixtures("four_threads")
def test_an_error_of_the_network_ends_all_threads() -> None:
    def network(names: list[str], read: list[int]) -> Iterator[str]:
        raise KeyboardInterrupt
        yield ""

    with pytest.raises(KeyboardInterrupt):
        list(streamed(IMAGES, 8, Reading(), network, ahead=True))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("depthwise-read")]
