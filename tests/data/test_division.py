"""Dividing by labels: every label's share is what it should be, copies and order move nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthwise.data.division import stratified


def pairs(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    images = [image for image, labels in enumerate(lists) for _ in labels]
    return np.array(images, np.int64), np.array([k for labels in lists for k in labels], np.int32)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.integers(0, 8), max_size=4, unique=True), min_size=1, max_size=200),
    st.integers(0, 3),
)
def test_a_division_is_of_no_order_and_keeps_rare_labels_in_train(lists: list[list[int]], seed: int) -> None:
    contents = [f"content {k}" for k in range(len(lists))]
    in_val = stratified(contents, *pairs(lists), seed)
    order = np.random.default_rng(seed).permutation(len(lists)).tolist()
    again = stratified([contents[k] for k in order], *pairs([lists[k] for k in order]), seed)
    assert again.tolist() == in_val[order].tolist()
    for label in range(9):
        members = [image for image, labels in enumerate(lists) if label in labels]
        if 1 <= len(members) <= 2 and all(len(lists[image]) == 1 for image in members):
            assert not in_val[members].any()


@pytest.mark.parametrize("seed", [0, 1])
def test_every_labels_share_is_nearer_to_a_fifth_than_by_chance(seed: int) -> None:
    """As the paper measures it: the mean deviation of the labels' shares, over labels of very uneven frequency."""
    random = np.random.default_rng(seed)
    often = np.geomspace(0.5, 0.01, 30)
    lists = [np.flatnonzero(random.random(30) < often).tolist() for _ in range(1000)]
    images, labels = pairs(lists)

    def deviation(in_val: np.ndarray) -> float:
        shares = np.bincount(labels[in_val[images]], minlength=30) / np.bincount(labels, minlength=30)
        return float(np.abs(shares - 0.2).mean())

    found = stratified([str(k) for k in range(1000)], images, labels, seed)
    assert abs(found.mean() - 0.2) < 0.02
    chance = np.mean([deviation(random.permutation(found)) for _ in range(20)])
    assert deviation(found) < 0.25 * chance
