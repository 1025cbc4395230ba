"""Folds: of every class alike, the same each time, and what is one picture on one side."""

import numpy as np
import torch

from depthwise.data.dataset import ArraySplit, Dataset
from depthwise.suspects.folds import divide


def made(given: torch.Tensor) -> Dataset:
    images = torch.arange(len(given)).remainder(256).to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    split = ArraySplit(images, given, "image")
    return Dataset("made", ("a", "b", "c"), {"train": split, "test": split}, 1, "f", "s")


def test_folds_have_as_many_of_every_class_and_part_no_picture() -> None:
    random = np.random.default_rng(0)
    given = torch.from_numpy(np.sort(random.choice(3, 1000, p=[0.7, 0.25, 0.05])))
    together = np.where(random.random(1000) < 0.3, random.integers(0, 200, 1000), np.arange(1000, 2000))
    dataset = made(given)
    folds = divide(dataset, given, together, 4, 7)
    assert torch.cat([fold.held_out for fold in folds]).sort().values.tolist() == [*range(1000)]
    for fold in folds:
        assert not {*together[fold.held_out]} & {*together[fold.learned]}
        assert len(fold.held_out) + len(fold.learned) == 1000
        for name, places in (("val", fold.held_out), ("train", fold.learned)):
            split = fold.dataset.splits[name]
            assert torch.equal(split.targets(torch.arange(len(split))), given[places])
            assert torch.equal(split.image(3), dataset.splits["train"].image(int(places[3])))
    sizes = [given[fold.held_out].bincount(minlength=3) for fold in folds]
    spread = torch.stack(sizes).amax(0) - torch.stack(sizes).amin(0)
    assert spread.tolist() < [8, 8, 8]
    assert max(map(len, (fold.held_out for fold in folds))) < 270


def test_the_division_follows_from_what_it_is_given() -> None:
    given, together = torch.arange(60) % 3, np.arange(60)
    one, same, other = (divide(made(given), given, together, 3, seed) for seed in (1, 1, 2))
    for fold, again, else_ in zip(one, same, other, strict=True):
        assert torch.equal(fold.held_out, again.held_out)
        assert fold.dataset.fingerprint == again.dataset.fingerprint
        assert not torch.equal(fold.held_out, else_.held_out)
        assert fold.dataset.fingerprint != else_.dataset.fingerprint
    assert len({fold.dataset.fingerprint for fold in one}) == 3
