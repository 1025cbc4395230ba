"""Targets of one class an image and of any number, against lists in Python."""

import random
from collections import Counter

import pytest
import torch
from torch import Tensor

from depthwise.data import ArraySplit
from depthwise.data.dataset import all_targets
from depthwise.data.numbering import joined, numbered
from depthwise.data.targets import LabelLists, class_counts, denials, memberships, renumbered, stacked

NUM_CLASSES = 7


def lists(n: int, seed: int = 0) -> list[list[int]]:
    """Of each image some classes that it shows, and some that it was looked at for and does not show."""
    draw = random.Random(seed)
    rows = []
    for _ in range(n):
        classes = draw.sample(range(NUM_CLASSES), draw.randint(0, 4))
        shown = draw.randint(0, len(classes))
        rows.append([*classes[:shown], *(-(k + 2) for k in classes[shown:])])
    return rows


def split_of(rows: list[list[int]]) -> ArraySplit:
    return ArraySplit(torch.arange(len(rows)).reshape(-1, 1, 1, 1).to(torch.uint8), LabelLists.of(rows))


def as_lists(targets: Tensor) -> list[list[int]]:
    return [[k for k in row if k != -1] for row in targets.tolist()]


def test_a_batch_of_label_lists_is_as_wide_as_its_longest() -> None:
    rows = lists(50)
    kept = LabelLists.of(rows)
    assert len(kept) == 50
    for indices in ([3], [7, 1, 1, 49], list(range(50))):
        targets = kept[torch.tensor(indices)]
        assert targets.dtype == torch.int64
        assert targets.shape == (len(indices), max(1, *(len(rows[i]) for i in indices), 0))
        assert as_lists(targets) == [rows[i] for i in indices]
    assert kept[torch.tensor([], dtype=torch.int64)].shape == (0, 1)


def test_memberships_and_denials_are_those_of_the_rows() -> None:
    rows = lists(50)
    targets = all_targets(split_of(rows))
    shown = [(i, k) for i, row in enumerate(rows) for k in row if k >= 0]
    denied = [(i, -k - 2) for i, row in enumerate(rows) for k in row if k < 0]
    assert list(zip(*(values.tolist() for values in memberships(targets)), strict=True)) == shown
    assert list(zip(*(values.tolist() for values in denials(targets)), strict=True)) == denied
    counts = Counter(k for _, k in shown)
    assert class_counts(split_of(rows), NUM_CLASSES).tolist() == [counts[k] for k in range(NUM_CLASSES)]


def test_of_one_class_an_image_both_are_what_they_say() -> None:
    labels = torch.tensor([2, 0, 2])
    assert [values.tolist() for values in memberships(labels)] == [[0, 1, 2], [2, 0, 2]]
    assert [len(values) for values in denials(labels)] == [0, 0]
    assert class_counts(ArraySplit(torch.zeros(3, 1, 1, 1, dtype=torch.uint8), labels), 3).tolist() == [
        1,
        0,
        2,
    ]


def test_other_numbers_move_labels_and_take_unknown_ones_away() -> None:
    numbers = torch.tensor([4, -1, 0, 3, -1, 1, 2])
    rows = lists(50)

    def moved(k: int) -> int:
        return int(numbers[k]) if k >= 0 else -(int(numbers[-k - 2]) + 2)

    wanted = [[j for k in row if (j := moved(k)) != -1] for row in rows]
    assert as_lists(renumbered(all_targets(split_of(rows)), numbers)) == wanted
    split = numbered(split_of(rows), numbers)
    assert len(split) == 50, "an image whose labels are all unknown is of no class, and stays"
    assert as_lists(all_targets(split)) == wanted


@pytest.mark.parametrize("several", [False, True])
def test_joined_splits_keep_targets_and_order(several: bool) -> None:
    rows = [*lists(20, 1), [0, 1, 2, 3, 4, 5]]
    first, second = split_of(rows), split_of(lists(5, 2))
    if not several:
        first, second = (
            ArraySplit(torch.zeros(n, 1, 1, 1, dtype=torch.uint8), torch.arange(n) % 3) for n in (21, 5)
        )
    whole = joined([first, second])
    assert len(whole) == 26
    if several:
        assert as_lists(all_targets(whole)) == [*rows, *lists(5, 2)]
        mixed = whole.targets(torch.tensor([25, 0, 20]))
        assert as_lists(mixed) == [lists(5, 2)[4], rows[0], rows[20]]
    else:
        assert all_targets(whole).tolist() == [*(k % 3 for k in range(21)), *(k % 3 for k in range(5))]
        assert whole.targets(torch.tensor([25, 0, 20])).tolist() == [1, 0, 2]


def test_stacked_fills_rows_up() -> None:
    found = stacked([torch.tensor([[1, 2], [0, -1]]), torch.tensor([[3]]), torch.tensor([5])])
    assert found.tolist() == [[1, 2], [0, -1], [3, -1], [5, -1]]


def test_counts_that_a_split_knows_are_of_as_many_classes_as_asked_for() -> None:
    class Known(ArraySplit):
        def class_counts(self) -> Tensor:
            return torch.tensor([3, 4])

    split = Known(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    assert class_counts(split, 3).tolist() == [3, 4, 0]
    assert class_counts(split, 1).tolist() == [3]
