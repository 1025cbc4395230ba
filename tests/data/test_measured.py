"""Which images a network is measured on, and what is said about it."""

import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from depthwise.data import open_dataset
from depthwise.data.measured import Measured, Network, open_measured
from depthwise.data.targets import class_counts
from depthwise.errors import DepthwiseError, UsageError

MakeFolder = Callable[[dict[str, int]], Path]

HELDOUT = {"ant": 10, "bee": 10, "cat": 10}
NETWORK = Network(("ant", "bee", "cat"))


def names(measured: Measured) -> set[str]:
    return {measured.split.name(i) for i in range(len(measured.split))}


def support(measured: Measured) -> list[int]:
    return class_counts(measured.split, len(measured.dataset.classes)).tolist()


def trained_on(root: Path, *, seed: int = 0, nested: bool = False) -> Network:
    """A network that was trained on the folder, as its bundle tells of it."""
    dataset = open_dataset(root, seed=seed, nested=nested)
    training = {"fingerprint": dataset.fingerprint, "seed": dataset.seed, "nested": dataset.nested}
    return Network.of(dataset.classes, training)


def test_a_folder_that_is_not_divided_is_measured_whole(make_folder: MakeFolder) -> None:
    measured = open_measured(str(make_folder(HELDOUT)), NETWORK)
    assert measured.part == "all"
    assert support(measured) == [10, 10, 10]
    assert measured.said == ("set is not divided: all of it is measured, 30 images",)
    assert measured.dataset.split_source == "not divided"
    assert not measured.trained_on
    assert not measured.left_out


def test_so_is_one_with_a_train_part_alone(make_folder: MakeFolder) -> None:
    root = make_folder({f"train/{label}": count for label, count in HELDOUT.items()})
    measured = open_measured(str(root), NETWORK)
    assert (measured.part, len(measured.split)) == ("train", 30)
    assert measured.said == ("set is not divided: all of it is measured, 30 images",)
    assert measured.dataset.split_source == "not divided, all in train/"


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("place", ["", "train/"])
def test_the_folder_of_the_training_is_divided_as_it_was_wherever_it_lies(
    make_folder: MakeFolder, tmp_path: Path, seed: int, place: str
) -> None:
    root = make_folder({f"{place}{label}": count for label, count in HELDOUT.items()})
    network, kept = trained_on(root, seed=seed), open_dataset(root, seed=seed).splits["val"]
    moved = root.rename(tmp_path / "moved")
    measured = open_measured(str(moved), network)
    assert measured.part == "val"
    assert measured.trained_on
    assert names(measured) == {kept.name(i) for i in range(len(kept))}
    assert measured.said == (
        f"moved is what the network was trained on, and is divided as its training divided it (seed {seed}): the val "
        "part is measured, 6 images that it did not learn from",
    )
    whole = open_measured(str(moved), network, "all")
    assert support(whole) == [10, 10, 10]
    assert whole.said == ("the network learned from 24 images of these: on others it is less often right",)


def test_a_part_of_that_folder_is_another_folder(make_folder: MakeFolder) -> None:
    root = make_folder(HELDOUT)
    network = trained_on(root)
    (root / "ant/003.png").unlink()
    measured = open_measured(str(root), network)
    assert (measured.part, len(measured.split), measured.trained_on) == ("all", 29, False)


def test_a_divided_folder_is_measured_on_its_test_part_or_val(make_folder: MakeFolder) -> None:
    counts = {f"{part}/{label}": 2 for part in ("train", "val", "test") for label in HELDOUT}
    root = make_folder(counts)
    for network in (NETWORK, trained_on(root)):
        measured = open_measured(str(root), network)
        assert measured.part == "test"
        assert measured.said == ("set has the parts train, val, test: test is measured, 6 images",)
        assert len(open_measured(str(root), network, "all").split) == 18
        assert len(names(open_measured(str(root), network, "all"))) == 18
    shutil.rmtree(root / "test")
    assert open_measured(str(root), NETWORK).part == "val"


def test_a_part_that_is_not_there_is_named_with_those_that_are(make_folder: MakeFolder) -> None:
    root = make_folder(HELDOUT)
    with pytest.raises(UsageError, match=r"^set is not divided and has no test part: leave split out to"):
        open_measured(str(root), NETWORK, "test")
    with pytest.raises(
        UsageError, match=r"^set has no test part: it has train, val, and split='all' takes all of it$"
    ):
        open_measured(str(root), trained_on(root), "test")


def test_built_in_sets_have_their_parts() -> None:
    network = Network(tuple("0123456789"))
    measured = open_measured("digits", network)
    assert (measured.part, len(measured.split)) == ("test", 360)
    assert measured.said == ("digits has the parts train, test: test is measured, 360 images",)
    whole = open_measured("digits", network, "all")
    assert len(whole.split) == 1797
    assert [whole.split.name(i) for i in (0, 1436, 1437, 1796)] == [
        *("digits/train/0", "digits/train/1436"),
        *("digits/test/0", "digits/test/359"),
    ]
    assert whole.split.image(1437).equal(measured.split.image(0))
    known = replace(network, fingerprint=open_dataset("digits").fingerprint)
    assert open_measured("digits", known, "train").said == (
        "the network learned from 1,437 images of these: on others it is less often right",
    )


# Classes


def test_one_class_and_some_of_the_classes_can_be_measured(make_folder: MakeFolder) -> None:
    root = make_folder({"bee": 4})
    measured = open_measured(str(root), NETWORK)
    assert support(measured) == [0, 4, 0]
    assert measured.said[-1] == "of the network's 3 classes there is no image of ant, cat"


def test_unknown_classes_are_named_and_counted(make_folder: MakeFolder) -> None:
    root = make_folder({"ant": 5, "dog": 3, "emu": 1})
    with pytest.raises(DepthwiseError) as error:
        open_measured(str(root), NETWORK)
    assert str(error.value) == (
        "the network knows no class 'dog' (3 images), 'emu' (1 image): 4 of 9 images; it knows 'ant', 'bee', 'cat': "
        "call the folders as it does, or leave these images out with ignore_unknown=True"
    )
    measured = open_measured(str(root), NETWORK, ignore_unknown=True)
    assert measured.left_out == {"dog": 3, "emu": 1}
    assert support(measured) == [5, 0, 0]
    assert names(measured) == {f"ant/{i:03}.png" for i in range(5)}
    assert all(measured.split.image(i).shape[0] == 3 for i in range(5))
    assert (
        "4 images of 9 left out, of classes that the network does not know: 'dog' (3 images), 'emu' (1 image)"
        in measured.said
    )


def test_only_the_classes_of_the_part_that_is_measured_matter(make_folder: MakeFolder) -> None:
    root = make_folder({"train/ant": 2, "train/dog": 2, "test/ant": 2, "test/bee": 1})
    assert support(open_measured(str(root), NETWORK)) == [2, 1, 0]
    with pytest.raises(DepthwiseError, match=r"no class 'dog' \(2 images\): 2 of 7 images"):
        open_measured(str(root), NETWORK, "all")


def test_with_no_class_in_common_there_is_nothing_to_measure(make_folder: MakeFolder) -> None:
    root = make_folder({"dog": 3, "emu": 1})
    for ignore in (False, True):
        with pytest.raises(DepthwiseError, match=r"knows no class of set, 'dog' .*trained for, 'ant', 'bee'"):
            open_measured(str(root), NETWORK, ignore_unknown=ignore)


def test_spellings_of_one_name_are_one_class(make_folder: MakeFolder) -> None:
    split_up = unicodedata.normalize("NFD", "café")
    root = make_folder({split_up: 3, "tea": 3})
    assert support(open_measured(str(root), Network(("café", "tea")))) == [3, 3]
    assert support(open_measured(str(root), Network(("tea", split_up)))) == [3, 3]


def test_a_folder_copied_by_a_mac_is_still_the_folder_of_the_training(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    root = make_folder({"café": 10, "tea": 10})
    network = trained_on(root)
    for name in ("café/000.png", "tea/000.png"):
        (root / name).rename(root / name.replace("000", "é"))
    network = trained_on(root)
    copy = tmp_path / "copy"
    for path in root.rglob("*.png"):
        target = copy / unicodedata.normalize("NFD", str(path.relative_to(root)))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    measured = open_measured(str(copy), network)
    assert (measured.trained_on, measured.part, len(measured.split)) == (True, "val", 4)


def test_nested_classes_are_read_as_they_were_learned(make_folder: MakeFolder) -> None:
    root = make_folder({"animals/cat": 5, "animals/dog": 5, "plants/rose": 5})
    network = trained_on(root, nested=True)
    assert network.classes == ("animals/cat", "animals/dog", "plants/rose")
    assert network.nested
    assert support(open_measured(str(root), network)) == [1, 1, 1]


@pytest.mark.parametrize("value", [None, 3, [], {}, "", "0" * 64, True])
def test_a_bundle_may_say_anything_of_its_training(make_folder: MakeFolder, value: object) -> None:
    training = {"fingerprint": value, "seed": value, "nested": value if value is not True else None}
    training["columns"] = value
    measured = open_measured(str(make_folder(HELDOUT)), Network.of(NETWORK.classes, training))
    assert len(measured.split) == 30
