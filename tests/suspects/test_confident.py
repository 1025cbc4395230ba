"""Confident learning: a case by hand, against a loop that does what the paper says, and what is kept is enough."""

import numpy as np
import pytest
import torch
from torch import Tensor

from depthwise.suspects.confident import MOST_KEPT, Answers, doubted, joined, thresholds


def answers(probabilities: Tensor, given: Tensor) -> Answers:
    odds, likely = probabilities.sort(descending=True, stable=True)
    own = probabilities.gather(1, given[:, None])[:, 0]
    count = len(given)
    return Answers(
        torch.arange(count), given, own, likely[:, :MOST_KEPT], odds[:, :MOST_KEPT], torch.zeros(count)
    )


def test_a_case_by_hand() -> None:
    """cleanlab 2.9 names the same two, in the same order: filter_by="confident_learning", "normalized_margin"."""
    said = torch.tensor(
        [
            [0.8, 0.1, 0.1],
            [0.6, 0.3, 0.1],
            [0.1, 0.8, 0.1],  # is labelled 0
            [0.2, 0.7, 0.1],
            [0.1, 0.8, 0.1],
            [0.7, 0.2, 0.1],  # is labelled 1
            [0.1, 0.2, 0.7],
            [0.4, 0.1, 0.5],  # no class is as likely as on average
        ]
    )
    found = answers(said, torch.tensor([0, 0, 0, 1, 1, 1, 2, 2]))
    assert thresholds(found, 3).tolist() == pytest.approx([0.5, 0.5666667, 0.6])
    doubts = doubted(found, 3)
    assert doubts.rows.tolist() == [2, 5]
    assert doubts.suggested.tolist() == [1, 0]
    assert doubts.score.tolist() == pytest.approx([0.7, 0.5])
    assert doubts.odds.tolist() == pytest.approx([0.8, 0.7])


def in_a_loop(said: list[list[float]], given: list[int], num_classes: int) -> dict[int, int]:
    """The suggestions, by image."""
    mean = []
    for k in range(num_classes):
        own = [row[k] for row, label in zip(said, given, strict=True) if label == k]
        mean.append(sum(own) / len(own) if own else float("inf"))
    found = {}
    for number, (row, label) in enumerate(zip(said, given, strict=True)):
        reached = [k for k in range(num_classes) if row[k] >= mean[k] - 1e-6]
        if reached:
            best = max(reached, key=lambda k: row[k])
            if best != label and row[best] > row[label]:
                found[number] = best
    return found


@pytest.mark.parametrize("num_classes", [3, 12, 40])
def test_it_is_what_a_loop_over_images_and_classes_finds(num_classes: int, fuzz_seed: int) -> None:
    random = np.random.default_rng(fuzz_seed)
    true = random.integers(0, num_classes, 2000)
    scores = random.normal(0, 1, (2000, num_classes))
    scores[np.arange(2000), true] += random.gamma(3, 1.2, 2000)
    given = np.where(random.random(2000) < 0.1, random.integers(0, num_classes, 2000), true)
    given[given == num_classes - 1] = 0  # of one class nobody is labelled as: it is never suggested
    probabilities = torch.from_numpy(scores).softmax(1)
    found = doubted(answers(probabilities, torch.from_numpy(given)), num_classes)
    expected = in_a_loop(probabilities.tolist(), given.tolist(), num_classes)
    assert dict(zip(found.rows.tolist(), found.suggested.tolist(), strict=True)) == expected
    assert expected
    assert bool((found.score.diff() <= 0).all())
    assert num_classes - 1 not in found.suggested


def test_parts_make_the_whole() -> None:
    said, given = torch.rand(50, 4).softmax(1), torch.randint(0, 4, (50,))
    whole = answers(said, given)
    parts = joined([whole.at(torch.arange(20)), whole.at(torch.arange(20, 50))])
    assert torch.equal(doubted(parts, 4).rows, doubted(whole, 4).rows)
