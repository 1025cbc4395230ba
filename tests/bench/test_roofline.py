"""The native loops that measure what a machine can do at most, on every path it has."""

from collections.abc import Iterator

import pytest
import torch

from depthwise.bench.roofline import prepare
from depthwise.errors import DepthwiseError
from depthwise.native import PATHS, use
from depthwise.native.library import library

HERE = [path for path in PATHS if library.loaded is not None and library.loaded.depthwise_use(path.encode())]
use("best")


@pytest.fixture(params=HERE)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    before = library.path
    use(request.param)
    yield request.param
    use(before)


def test_rates_are_those_of_a_processor(path: str) -> None:
    measure = prepare(1)
    measured = [measure() for _ in range(5)]
    rates = {name: max(each[name] for each in measured) for name in measured[0]}
    assert list(rates) == ["fp32", "bf16", "int8", "memory"]
    # Between a slow laptop's core without vectors and the widest that there is.
    assert all(1e8 < rate < 1e13 for rate in rates.values())
    if path == "avx512bf16":
        # dpbf16ps adds two products where an FMA adds one; other work on the machine may disturb each try.
        assert rates["bf16"] > 1.2 * rates["fp32"]


def test_the_loop_does_what_it_counts(path: str) -> None:
    assert library.handle is not None
    for precision in range(3):
        done = [library.handle.depthwise_peak(precision, repetitions, 1) for repetitions in (1000, 3000)]
        assert done[1] == 3 * done[0] > 0
        assert library.handle.depthwise_peak(precision, 1000, 2) == 2 * done[0]


def test_memory_is_read_to_the_last_value(path: str) -> None:
    assert library.handle is not None
    for count in (0, 1, 77, 100_003):
        for threads in (1, 3):
            values, sums = torch.randint(0, 8, (count,)).float(), torch.zeros(threads)
            library.handle.depthwise_read_memory(values.data_ptr(), count, threads, sums.data_ptr())
            assert sums.sum() == values.sum()  # whole numbers: the order of the additions changes nothing


def test_without_kernels_there_is_no_peak() -> None:
    before = library.path
    use("off")
    try:
        with pytest.raises(DepthwiseError, match="native kernels do not run here"):
            prepare(1)
    finally:
        use(before)
