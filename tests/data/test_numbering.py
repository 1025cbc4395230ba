"""A run goes on with the classes it was started with, in their order and spelling."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from depthwise.data import open_dataset
from depthwise.data.dataset import all_targets
from depthwise.data.numbering import as_before
from depthwise.errors import DepthwiseError

MakeFolder = Callable[[dict[str, int]], Path]

NFD = unicodedata.normalize("NFD", "café")


def test_an_older_runs_order_and_spelling_are_kept(make_folder: MakeFolder) -> None:
    # Decomposed, as older versions took it from the disk, café comes before cafz; composed after it.
    root = make_folder({f"{part}/{label}": 3 for part in ("train", "val") for label in (NFD, "cafz", "tea")})
    dataset = open_dataset(root)
    assert dataset.classes == ("cafz", "café", "tea")
    before = {"classes": [NFD, "cafz", "tea"], "fingerprint": dataset.earlier_fingerprint}
    again = as_before(dataset, before)
    assert again.classes == (NFD, "cafz", "tea")
    assert again.fingerprint == dataset.earlier_fingerprint != dataset.fingerprint
    for part, split in again.splits.items():
        assert all_targets(split).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert [split.name(i).split("/")[1] for i in range(9)] == [NFD] * 3 + ["cafz"] * 3 + ["tea"] * 3
        images = {dataset.splits[part].name(i): dataset.splits[part].image(i) for i in range(9)}
        assert all(split.image(i).equal(images[split.name(i)]) for i in range(9))


def test_a_run_on_the_same_classes_changes_nothing(make_folder: MakeFolder) -> None:
    dataset = open_dataset(make_folder({"a": 3, "b": 3}))
    before = {"classes": ["a", "b"], "fingerprint": dataset.fingerprint}
    again = as_before(dataset, before)
    assert (again.classes, again.fingerprint) == (dataset.classes, dataset.fingerprint)
    assert torch.equal(all_targets(again.splits["train"]), all_targets(dataset.splits["train"]))


def test_other_classes_are_named(make_folder: MakeFolder) -> None:
    dataset = open_dataset(make_folder({"a": 3, "b": 3}))
    with pytest.raises(DepthwiseError) as error:
        as_before(dataset, {"classes": ["a", "b", "c"]})
    assert str(error.value) == (
        "the run has 3 classes (a, b, c), and set now has 2 classes (a, b): put the folders back as they were, or "
        "start a new run"
    )


@pytest.mark.parametrize(
    "before", [None, [], {}, {"classes": None}, {"classes": [1, 2]}, {"fingerprint": []}]
)
def test_what_an_older_run_does_not_say_is_left_as_it_is(make_folder: MakeFolder, before: object) -> None:
    dataset = open_dataset(make_folder({"a": 3, "b": 3}))
    assert as_before(dataset, before) is dataset
