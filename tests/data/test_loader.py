"""Batch k of epoch e is a function of (seed, e, k) and of nothing else, whoever makes it, wherever one starts."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from depthwise.data import ArraySplit, Augment, Batch, Batches, FileSplit, Preprocess, Split
from depthwise.data.dataset import Reader
from depthwise.data.numbering import joined
from depthwise.data.pool import _shared
from depthwise.errors import DepthwiseError
from depthwise.tasks.single_label import SingleLabel

Open = Callable[..., Batches]
EVERYTHING = Augment(color=0.3, randaugment=1, erase=0.5, mixup=0.4, cutmix=1.0)
NUM_FILES = 23


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileSplit:
    """JPEG and PNG of several sizes."""
    root = tmp_path_factory.mktemp("files")
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    names = []
    for index in range(NUM_FILES):
        names.append(f"{index}.{'png' if index % 5 == 0 else 'jpg'}")
        photograph.crop((9 * index, 7 * index, 9 * index + 60, 7 * index + 50 + index)).save(root / names[-1])
    labels = torch.arange(NUM_FILES) % 3
    return FileSplit(tuple(names), labels, 3, str(root))


@pytest.fixture
def arrays() -> ArraySplit:
    images = torch.randint(
        0, 256, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return ArraySplit(images, torch.arange(50) % 3)


@pytest.fixture
def batches() -> Iterator[Open]:
    opened: list[Batches] = []

    def open_batches(split: Split, augment: Augment | None, batch_size: int = 5, **options: Any) -> Batches:
        channels = 1 if isinstance(split, ArraySplit) else 3
        preprocess = Preprocess((24, 24), channels)
        opened.append(Batches(split, preprocess, batch_size=batch_size, augment=augment, **options))
        return opened[-1]

    yield open_batches
    for one in opened:
        one.close()


def children() -> set[int]:
    """This process's children, those that other tests have left among them."""
    return {process.pid or 0 for process in multiprocessing.active_children()}


def same(some: list[Batch], others: list[Batch]) -> bool:
    return len(some) == len(others) and all(
        torch.equal(a, b)
        for one, other in zip(some, others, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(
    "augment", [None, EVERYTHING, Augment()], ids=["evaluation", "everything", "resized"]
)
def test_files_give_bit_identical_batches_whatever_the_workers_and_the_start(
    files: FileSplit, augment: Augment | None, batches: Open
) -> None:
    expected = list(batches(files, augment).epoch(1))
    for workers in (1, 3):
        with_workers = batches(files, augment, workers=workers)
        assert same(list(with_workers.epoch(1)), expected)
        for start in (1, len(expected) - 1, len(expected)):
            assert same(list(with_workers.epoch(1, start)), expected[start:])
    assert same(list(batches(files, augment).epoch(1, 2)), expected[2:])


@pytest.mark.parametrize(
    "augment",
    [None, Augment(crop="shift", shift=2, erase=0.5), Augment(crop="none", cutmix=1.0), Augment()],
    ids=["evaluation", "shift", "cutmix", "resized"],
)
def test_arrays_give_bit_identical_batches_whatever_the_workers_and_the_start(
    arrays: ArraySplit, augment: Augment | None, batches: Open
) -> None:
    expected = list(batches(arrays, augment).epoch(2))
    assert same(list(batches(arrays, augment, workers=2).epoch(2)), expected)
    assert same(list(batches(arrays, augment).epoch(2, 3)), expected[3:])


def test_arrays_are_what_their_images_are_one_by_one(arrays: ArraySplit, batches: Open) -> None:
    preprocess = Preprocess((24, 24), 1)
    for batch in batches(arrays, None).epoch(0):
        for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
            assert torch.equal(image, preprocess(arrays.image(index)))


def test_evaluation_shows_every_image_once_in_order_with_its_label(files: FileSplit, batches: Open) -> None:
    preprocess = Preprocess((24, 24), 3)
    found = list(batches(files, None, workers=1).epoch(0))
    assert [len(batch.indices) for batch in found] == [5, 5, 5, 5, 3]
    assert torch.cat([batch.indices for batch in found]).tolist() == list(range(NUM_FILES))
    for batch in found:
        assert torch.equal(batch.targets, files.labels[batch.indices])
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
            assert torch.equal(image, preprocess(files.image(index)))


def test_training_shuffles_anew_each_epoch_and_drops_what_is_no_full_batch(
    arrays: ArraySplit, batches: Open
) -> None:
    training = batches(arrays, Augment(crop="none"), batch_size=8)
    assert len(training) == 6
    epochs = [torch.cat([batch.indices for batch in training.epoch(epoch)]).tolist() for epoch in range(3)]
    for order in epochs:
        assert len(order) == len(set(order)) == 48
        assert order != sorted(order)
    assert epochs[0] != epochs[1] != epochs[2]
    other_seed = batches(arrays, Augment(crop="none"), batch_size=8, seed=1)
    assert torch.cat([batch.indices for batch in other_seed.epoch(0)]).tolist() != epochs[0]


def test_the_only_batch_is_kept_though_not_full(arrays: ArraySplit, batches: Open) -> None:
    training = batches(arrays, Augment(crop="none"), batch_size=64)
    assert len(training) == 1
    assert [len(batch.indices) for batch in training.epoch(0)] == [50]


def test_an_image_is_augmented_anew_each_epoch(arrays: ArraySplit, batches: Open) -> None:
    training = batches(arrays, Augment(crop="shift", shift=3), batch_size=50)
    first, second = (next(training.epoch(epoch)) for epoch in (0, 1))
    assert not torch.equal(first.images[first.indices.argsort()], second.images[second.indices.argsort()])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generators_neither_matter_nor_change(
    files: FileSplit, batches: Open, workers: int
) -> None:
    training = batches(files, EVERYTHING, workers=workers)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = list(training.epoch(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    torch.manual_seed(2)
    assert same(list(training.epoch(0)), first)


def test_the_number_of_threads_is_left_as_it_was(arrays: ArraySplit, batches: Open) -> None:
    threads = torch.get_num_threads()
    for _ in batches(arrays, Augment(crop="shift", shift=1)).epoch(0):
        assert torch.get_num_threads() == threads


@pytest.mark.parametrize("change", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixing_gives_shares_of_classes_that_add_up_to_one(
    arrays: ArraySplit, batches: Open, change: dict[str, float]
) -> None:
    augment = replace(Augment(crop="none"), **change)  # type: ignore[arg-type]
    training = batches(arrays, augment, batch_size=10, prepare=SingleLabel(3).prepare(augment))
    mixed = list(training.epoch(0))
    for batch in mixed:
        assert batch.targets.shape == (10, 3)
        assert batch.targets.dtype == torch.float32
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(10))
        own = batch.targets.gather(1, arrays.labels[batch.indices][:, None])
        assert (own > 0).any()
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert any((batch.targets % 1 != 0).any() for batch in mixed)


def copied(files: FileSplit, root: Path) -> FileSplit:
    for name in files.paths:
        (root / name).write_bytes((Path(files.root) / name).read_bytes())
    return FileSplit(files.paths, files.labels, files.channels, str(root))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [None, Augment()], ids=["evaluation", "training"])
def test_a_file_that_is_lost_during_a_run_is_left_out_and_named_not_replaced(
    files: FileSplit, tmp_path: Path, batches: Open, augment: Augment | None, workers: int
) -> None:
    split = copied(files, tmp_path)
    whole = batches(split, augment, workers=workers)
    before = [batch.indices.tolist() for batch in whole.epoch(0)]
    (tmp_path / files.paths[7]).unlink()
    (tmp_path / files.paths[8]).write_bytes(b"\xff\xd8\xff nothing more")
    for _ in range(2):
        after = [batch.indices.tolist() for batch in whole.epoch(0)]
        assert after == [[index for index in batch if index not in (7, 8)] for batch in before]
    seen = {index for batch in before for index in batch}
    assert sorted(image.path for image in whole.bad) == sorted(files.paths[i] for i in (7, 8) if i in seen)
    assert all(image.reason for image in whole.bad)


def test_a_batch_without_a_readable_file_is_empty_in_training_and_skipped_in_evaluation(
    files: FileSplit, tmp_path: Path, batches: Open
) -> None:
    split = copied(files, tmp_path)
    for name in files.paths[:5]:
        (tmp_path / name).unlink()
    assert [len(batch.indices) for batch in batches(split, None).epoch(0)] == [5, 5, 5, 3]
    for name in files.paths[5:]:
        (tmp_path / name).unlink()
    empty = list(batches(split, replace(EVERYTHING, crop="none")).epoch(0))
    assert [tuple(batch.images.shape) for batch in empty] == [(0, 3, 24, 24)] * 4


def test_nothing_of_the_length_of_a_set_is_sent_to_a_worker() -> None:
    n = 100_000
    paths = tuple(f"class-{index // 1000}/picture-{index}.jpg" for index in range(n))
    files = FileSplit(paths, torch.zeros(n, dtype=torch.int64), 3, "/nowhere")
    chosen = joined([files, files])
    arrays = ArraySplit(torch.zeros(n, 1, 8, 8, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64))
    for split in (files, chosen, arrays):
        batches = Batches(split, Preprocess((8, 8), 3), batch_size=32, augment=Augment(), workers=2)
        assert len(ForkingPickler.dumps(batches._filler)) < 4_000
        task = next(batches._tasks([(0, 1)]))
        assert len(ForkingPickler.dumps(task)) < 4_000


def test_a_run_of_the_pool_takes_tasks_as_it_has_room_for_them(files: FileSplit, batches: Open) -> None:
    training = batches(files, Augment(), batch_size=1, workers=2)
    taken = []
    places = [(0, k) for k in range(len(training))]
    tasks = (taken.append(task[1]) or task for task in training._tasks(places))  # type: ignore[func-returns-value]
    running = training._run_in_pool(tasks)
    for _ in range(3):
        next(running)
    assert len(taken) == 3 + 4  # of 23: two waiting for each of two workers


def test_an_epoch_that_was_broken_off_leaves_nothing_behind(files: FileSplit, batches: Open) -> None:
    expected = list(batches(files, Augment()).epoch(4))
    training = batches(files, Augment(), workers=2)
    broken_off = training.epoch(3)
    next(broken_off)
    assert same(list(training.epoch(4)), expected)
    broken_off = training.epoch(3)
    next(broken_off)
    broken_off.close()
    assert same(list(training.epoch(4)), expected)


def test_workers_live_on_between_epochs_and_end_with_close(files: FileSplit, batches: Open) -> None:
    others = children()
    training = batches(files, Augment(), workers=2)
    list(training.epoch(0))
    first = children() - others
    list(training.epoch(1))
    assert children() - others == first
    training.close()
    assert not first & children()
    training.close()
    assert len(list(training.epoch(2))) == len(training)


def test_a_worker_that_is_killed_is_one_sentence_and_the_next_epoch_works(
    files: FileSplit, batches: Open
) -> None:
    expected = list(batches(files, Augment(), batch_size=1).epoch(0))
    others = children()
    training = batches(files, Augment(), batch_size=1, workers=2)
    running = training.epoch(0)
    next(running)
    for pid in children() - others:
        os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(
        DepthwiseError, match=r"data worker \d+ died \(killed by signal 9 \(SIGKILL\)\).*fewer workers"
    ):
        list(running)
    assert time.monotonic() - started < 20
    assert same(list(training.epoch(0)), expected)


SCRIPT = """
import torch
from depthwise.data import Batches, FileSplit, Preprocess
class Own(FileSplit):
    @property
    def reader(self):
        return self.read
    def read(self, key):
        return super().reader(key)
split = {kind}({paths!r}, torch.zeros({count}, dtype=torch.int64), 3, {root!r})
print(len(list(Batches(split, Preprocess((9, 9), 3), batch_size=5, workers=1).epoch(0))))
"""


def run_script(files: FileSplit, folder: Path, kind: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT.format(kind=kind, paths=files.paths, count=NUM_FILES, root=files.root))
    return subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)


def test_a_script_needs_no_main_guard(files: FileSplit, tmp_path: Path) -> None:
    done = run_script(files, tmp_path, "FileSplit")
    assert (done.returncode, done.stdout) == (0, f"{-(-NUM_FILES // 5)}\n"), done.stderr


def test_a_script_whose_own_class_is_sent_to_workers_is_told_that_it_needs_one(
    files: FileSplit, tmp_path: Path
) -> None:
    """Each worker runs the script again, up to where it would start workers itself."""
    done = run_script(files, tmp_path, "Own")
    assert done.returncode == 1
    assert "if __name__ == '__main__':" in done.stderr.splitlines()[-1]


def test_ctrl_c_does_not_reach_the_workers(files: FileSplit, batches: Open) -> None:
    expected, others = list(batches(files, Augment()).epoch(0)), children()
    training = batches(files, Augment(), workers=2)
    list(training.epoch(0))
    for pid in children() - others:
        os.kill(pid, signal.SIGINT)
    assert same(list(training.epoch(0)), expected)


class Raising:
    """A split with a fault in its code, which is no fault of a file."""

    blocks = (4,)

    @property
    def reader(self) -> Reader:
        return self.image

    def __len__(self) -> int:
        return 4

    def key(self, index: int) -> int:
        return index

    def targets(self, indices: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(indices)

    def image(self, index: int) -> torch.Tensor:
        if index == 2:
            raise ZeroDivisionError("a fault")
        return torch.zeros(3, 9, 9, dtype=torch.uint8)

    def name(self, index: int) -> str:
        return str(index)


def test_a_fault_in_a_worker_is_raised_with_its_traceback(batches: Open) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)in a data worker.*ZeroDivisionError: a fault"):
        list(batches(Raising(), None, batch_size=1, workers=1).epoch(0))


def test_too_little_shared_memory_is_told_before_it_is_used() -> None:
    with pytest.raises(DepthwiseError, match=r"/dev/shm has .*--shm-size"):
        _shared((4, 1 << 50))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size 0"), ({"workers": -1}, "workers -1")],
)
def test_wrong_options_are_refused(
    files: FileSplit, batches: Open, options: dict[str, int], message: str
) -> None:
    with pytest.raises(DepthwiseError, match=message):
        batches(files, None, **options)


def test_colour_changes_need_colours() -> None:
    split = ArraySplit(torch.zeros(2, 4, 9, 9, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DepthwiseError, match="not 4"):
        Batches(split, Preprocess((9, 9), 4), batch_size=1, augment=Augment(color=0.1))
