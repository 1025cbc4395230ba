"""One training on any number of processes, to the same bits: real processes, real signals, real loss of one."""

import csv
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from tests import processes
from tests.train.shared_runs import MANY_LABELS, ONE_LABEL, begin, finish, go_on, left
from torch import nn

from depthwise.data.dataset import ArraySplit, BadImage, Dataset
from depthwise.data.transform import Augment, Preprocess
from depthwise.errors import UsageError
from depthwise.evaluate.meters import run_meters
from depthwise.models import create_model
from depthwise.train.launch import started
from depthwise.train.loop import Trainer, for_evaluation
from depthwise.train.recipe import Recipe
from depthwise.train.together import all_bad_images, follow, measure
from depthwise.train.world import ALONE, World


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Path:
    """The same with labels: the digit, whether it is even, and whether it is above 4."""
    table = folder.parent / "digits.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "labels"])
        for image in sorted(folder.rglob("*.png")):
            digit = int(image.parent.name)
            labels = [str(digit), *["even"] * (digit % 2 == 0), *["high"] * (digit > 4)]
            rows.writerow([image, ";".join(labels)])
    return table


@pytest.mark.parametrize("size", [3, 4])
def test_any_number_of_processes_gives_the_same_bits(
    folder: Path, unbroken: Path, tmp_path: Path, size: int
) -> None:
    """Class weights, accumulation, mixup, dropout, clipping and batch norm; 3 hold 2, 1 and 1 of the 4 shards.

    On 2 it is stopped below, and ends in the same bits.
    """
    finish(begin(folder, tmp_path / "run", ONE_LABEL, "--processes", str(size)))
    assert left(tmp_path / "run") == left(unbroken)


def test_the_same_bits_for_any_number_of_labels(manifest: Path, tmp_path: Path) -> None:
    for size in (1, 2):
        finish(begin(manifest, tmp_path / str(size), MANY_LABELS, "--processes", str(size)))
    assert left(tmp_path / "1") == left(tmp_path / "2")


def others(process: processes.Forked) -> list[int]:
    """The processes that follow, in no order."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != process.pid:
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == process.pid and int(fields[11]) > 0:  # of its session, and at work
                found.append((int(fields[11]), int(entry.name)))
    return [pid for _, pid in sorted(found, reverse=True)]


def stopped(words: list[str], out: Path, number: int, *, whom: str) -> processes.Forked:
    """Start, wait for some new lines of metrics, and send the signal to the leader, another process, or all."""

    def lines() -> int:
        return (out / "metrics.jsonl").read_bytes().count(b"\n") if (out / "metrics.jsonl").exists() else 0

    before = lines()
    process = processes.start(*words, OMP_NUM_THREADS="1")
    process.wait_for(lambda: lines() > before + 2)
    assert not process.ended, process.printed
    if whom == "all":
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid if whom == "leader" else others(process)[0], number)
    return process


def test_killed_and_resumed_on_other_numbers_of_processes(
    folder: Path, unbroken: Path, tmp_path: Path
) -> None:
    """Begun on 1, killed; on 2, of which one is killed; on 4, of which the leader is killed; ended on 3."""
    out = tmp_path / "run"
    words = begin(folder, out, ONE_LABEL, "--checkpoint-steps", "3")
    assert stopped(words, out, signal.SIGKILL, whom="leader").code() == -signal.SIGKILL
    process = stopped(go_on(out, 2, "--checkpoint-steps", "3"), out, signal.SIGKILL, whom="another")
    assert process.code() == 1
    assert "process 1 was killed by signal 9 (SIGKILL); nothing of the " in process.printed[1]
    assert f"go on with: depthwise train --out {out} --resume" in process.printed[1]
    process = stopped(go_on(out, 4, "--checkpoint-steps", "3"), out, signal.SIGKILL, whom="leader")
    assert process.code() == -signal.SIGKILL
    finish(go_on(out, 3))
    assert left(out) == left(unbroken)


def test_stopped_by_a_signal_to_one_or_to_all(folder: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = begin(folder, out, ONE_LABEL, "--processes", "2")
    for number, whom in ((signal.SIGTERM, "another"), (signal.SIGTERM, "all"), (signal.SIGINT, "all")):
        process = stopped(words, out, number, whom=whom)
        assert process.code() == 130
        assert "nothing is lost; go on with: depthwise train --out" in process.printed[1]
        assert "error: " not in process.printed[1]  # of those that follow: the leader has said it
        assert "Traceback" not in process.printed[1]
        words = go_on(out, 2)
    finish(words)
    assert left(out) == left(unbroken)


def test_a_process_that_hangs_is_given_up(folder: Path, unbroken: Path, tmp_path: Path) -> None:
    """One that pauses for less than the patience is waited for."""
    out = tmp_path / "run"
    words = begin(folder, out, ONE_LABEL, "--processes", "2", "--patience", "60")
    process = stopped(words, out, signal.SIGSTOP, whom="another")
    time.sleep(0.5)
    os.kill(others(process)[0], signal.SIGCONT)
    os.kill(process.pid, signal.SIGTERM)
    assert process.code() == 130
    began = time.monotonic()
    process = stopped(go_on(out, 2, "--patience", "3"), out, signal.SIGSTOP, whom="another")
    assert process.code() == 1
    assert "another of the 2 processes said nothing for 3 s (" in process.printed[1]
    assert time.monotonic() - began < 60
    finish(go_on(out, 1))
    assert left(out) == left(unbroken)


def made_up(images: int, classes: int = 10) -> Dataset:
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 1, 8, 8), dtype=torch.uint8, generator=drawn)
    split = ArraySplit(pixels, torch.randint(0, classes, (images,), generator=drawn))
    names = tuple(map(str, range(classes)))
    return Dataset("made up", names, {"train": split, "test": split}, 1, "", "given")


def small_trainer(
    world: World, module: nn.Module | None = None, images: int = 10_001, **fields: int
) -> Trainer:
    still = Augment(crop="shift", shift=0, flip=False)  # what is drawn depends on the shard
    recipe = Recipe("test", preprocess=Preprocess((8, 8)), augment=still, precision="float32", **fields)
    torch.manual_seed(0)
    module = module or nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return Trainer(recipe, module, made_up(images), device=torch.device("cpu"), world=world)


def answer_for_the_leader(world: World) -> None:
    follow(small_trainer(world, virtual_shards=4), made_up(10_001), workers=0)


def test_three_processes_evaluate_as_one() -> None:
    """Each image once: 41 batches in 14 rounds, of which the last has one for two of the processes only."""
    with started(3, answer_for_the_leader, patience=60) as world:
        trainer = small_trainer(world, virtual_shards=4)
        data, task = made_up(10_001), trainer.task
        together = measure(
            trainer,
            data,
            data.splits["test"],
            trainer.module,
            task.meters(),
            precision="float32",
            workers=0,
            progress=lambda: None,
        )
        world.lead("end")
    batches = for_evaluation(trainer.recipe, data, task, data.splits["test"], 0)
    alone = run_meters(trainer.module, batches, task.meters())
    assert together.num_images == 10_001
    assert together.to_json() == alone.to_json()
    assert together.probability.equal(alone.probability)


def find_one_bad(world: World) -> None:
    trainer = small_trainer(world, virtual_shards=4)
    trainer.batches.bad = [BadImage("b.jpg", "it is cut off"), BadImage("a.jpg", "it is cut off")]
    follow(trainer, made_up(10_001), workers=0)


def test_images_that_any_process_could_not_read_are_named() -> None:
    with started(2, find_one_bad, patience=60) as world:
        trainer = small_trainer(world, virtual_shards=4)
        trainer.batches.bad = [BadImage("a.jpg", "it is cut off")]
        found = all_bad_images(trainer)
        world.lead("end")
    assert found == [BadImage("a.jpg", "it is cut off"), BadImage("b.jpg", "it is cut off")]


def test_minutes_are_filled_by_all(folder: Path, tmp_path: Path) -> None:
    """An all-reduce is said, and parts of few images."""
    words = begin(folder, tmp_path / "run", ["size=8", "width=0.1", "reduction=all-reduce"])
    done = processes.command(*words, "--processes", "2", "--minutes", "0.2", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "epochs fit" in done.stderr
    assert "all-reduce: the bits depend on the number of processes" in done.stderr


def test_shards_without_batch_norm_are_the_plain_loop() -> None:
    """By rounding alone: the same gradient, added in another order."""
    both = []
    for virtual_shards in (1, 8):
        torch.manual_seed(0)
        module = create_model("nin", num_classes=10, in_channels=1, width=0.1, dropout=0.0, stem="small")
        trainer = small_trainer(
            ALONE, module, images=96, batch_size=24, accumulate=2, virtual_shards=virtual_shards
        )
        for _ in range(4):
            trainer.update()
        both.append((trainer.take_window().loss, [value.clone() for value in module.parameters()]))
        trainer.close()
    (loss, weights), (sharded_loss, sharded) = both
    assert sharded_loss == pytest.approx(loss, abs=1e-5)
    for one, other in zip(weights, sharded, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_batch_norm_takes_the_mean_of_the_shards() -> None:
    """Its running statistics after one update are the mean of what each shard alone would have made of them."""
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    trainer = small_trainer(ALONE, module, images=64, batch_size=64, virtual_shards=4)
    shards = [batch.images.flatten(1) for batch in trainer.batches.epoch(0)]
    norm = module[1]
    expected = torch.stack([shard.mean(0) for shard in shards]).mean(0) * norm.momentum
    trainer.update()
    torch.testing.assert_close(norm.running_mean, expected)
    assert norm.num_batches_tracked == 1


def test_the_module_is_left_without_hooks() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    trainer = small_trainer(ALONE, module, images=64, virtual_shards=2)
    trainer.update()
    trainer.close()
    assert not any(parameter._post_accumulate_grad_hooks for parameter in module.parameters())


def test_too_many_processes_are_refused(folder: Path, tmp_path: Path) -> None:
    done = processes.command(*begin(folder, tmp_path / "run", ONE_LABEL, "--processes", "8"))
    assert done.returncode == 2
    assert "8 processes have 4 shards of each update between them" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"virtual_shards": 3}, "virtual_shards=3 is no power of two: take 4"),
        ({"virtual_shards": 64, "batch_size": 32}, "virtual_shards=64 cut a batch of 32 images"),
    ],
)
def test_shards_that_cannot_be_are_refused(fields: dict[str, int], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        small_trainer(ALONE, **fields)
