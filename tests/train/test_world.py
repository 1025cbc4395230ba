"""How shards are shared out, and in what order they are added: against the plainest recursion."""

import numpy as np
import pytest
import torch

from depthwise.errors import UsageError
from depthwise.train.sums import Tree
from depthwise.train.world import Share, shares


@pytest.mark.parametrize("size", range(1, 17))
def test_shares_are_all_shards_in_order(size: int) -> None:
    found = shares(16, size)
    assert [number for s in found for number in range(s.first, s.first + s.count)] == list(range(16))
    for share in found:  # each is a subtree
        assert share.count & (share.count - 1) == 0
        assert share.first % share.count == 0


def test_shares_of_three() -> None:
    assert shares(8, 3) == (Share(0, 2), Share(2, 2), Share(4, 4))
    assert shares(4, 3) == (Share(0, 1), Share(1, 1), Share(2, 2))


def test_more_processes_than_shards_are_refused() -> None:
    with pytest.raises(UsageError, match="3 processes have 2 shards of each update between them"):
        shares(2, 3)


def pairwise(values: list[np.ndarray]) -> np.ndarray:
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return pairwise(values[:half]) + pairwise(values[half:])


@pytest.mark.parametrize("size", range(1, 17))
def test_a_tree_adds_in_one_order_whoever_holds_what(size: int) -> None:
    values = [np.random.default_rng(k).normal(size=50).astype(np.float32) * 10.0**k for k in range(16)]
    whole = Tree()
    for share in shares(16, size):
        part = Tree()
        for number in range(share.first, share.first + share.count):
            part.add(torch.from_numpy(values[number].copy()))
        whole.add(part.take(), share.count)
    np.testing.assert_array_equal(whole.take().numpy(), pairwise(values))
