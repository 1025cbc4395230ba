"""Manifests by the commands: the options, what is said, and what is written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from depthwise.cli.app import run
from depthwise.data import open_dataset


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(f"{number:02}.png")
    lines = [f"{k:02}.png,{'cat' if k % 2 else 'hound'}, {'red' if k % 4 else 'tmp'}" for k in range(20)]
    Path("set.csv").write_text("\n".join(["where,what,colour", *lines]))
    Path("aliases.csv").write_text("hound,dog\n")


OPTIONS = ["--path-column", "where", "--label-column", "what", "--aliases", "aliases.csv"]


def output(capsys: pytest.CaptureFixture[str], tokens: list[str], code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert run(tokens) == code
    out, err = capsys.readouterr()
    return out, err


def test_train_eval_and_resume_know_the_columns(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--workers", "0", "--set", "width=0.05", "middle=(8,)", "size=16", "epochs=1", "batch_size=5"]
    _, err = output(capsys, ["train", "--data", "set.csv", *OPTIONS, "--out", "run", *settings])
    assert "set.csv: an image has one label, from what, its path from where\n" in err
    Path("aliases.csv").unlink()  # its contents are in run.json
    output(capsys, ["train", "--out", "run", "--resume", "--force", "--workers", "0", "--set", "epochs=2"])
    out, _ = output(capsys, ["eval", "run", "--data", "set.csv", "--workers", "0", "--json"])
    assert json.loads(out)["classes"] == ["cat", "dog"]
    assert json.loads(out)["trained_on"]


def test_check_and_stats_take_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = output(capsys, ["data", "check", "set.csv", *OPTIONS, "--json"])
    found = json.loads(out)
    assert found["counts"] == {"train": {"cat": 8, "dog": 8}, "val": {"cat": 2, "dog": 2}}
    assert found["images"] == {"train": 16, "val": 4}
    out, _ = output(capsys, ["data", "stats", "set.csv", *OPTIONS])
    assert "all 2" in out
    _, err = output(capsys, ["data", "check", "set.csv"], 1)
    assert "no column that is known to hold paths of images, only where, what, colour" in err


def test_labels_that_are_ignored_are_words_or_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("classes.txt").write_text("\nred\nblue\n")
    Path("ignored.txt").write_text("hound\ncat\n")
    tokens = ["data", "check", "set.csv", "--path-column", "where", "--label-column", "colour", "--json"]
    out, _ = output(capsys, [*tokens, "--ignore", "tmp", "ignored.txt", "--classes", "classes.txt"])
    assert json.loads(out)["counts"] == {"train": {"red": 12}, "val": {"red": 3}}
    Path("aliases.csv").write_text("a,b\nonly one\n")
    _, err = output(capsys, [*tokens, "--aliases", "aliases.csv"], 1)
    assert "line 2 of aliases.csv is no pair: write another name, a comma, and the class that it means" in err


def test_a_count_of_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = output(capsys, ["data", "check", "set.csv", *OPTIONS, "--min-count", "0"], 2)
    assert "min_count=0 must be at least 1" in err


def test_a_network_of_one_class_each_refuses_images_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--workers", "0", "--set", "width=0.05", "middle=(8,)", "size=16", "epochs=1", "batch_size=5"]
    output(capsys, ["train", "--data", "set.csv", *OPTIONS, "--out", "run", *settings])
    Path("many.csv").write_text("path,tags\n00.png,cat;dog\n01.png,dog\n")
    columns = ["--path-column", "path", "--label-column", "tags"]
    _, err = output(capsys, ["eval", "run", "--data", "many.csv", *columns, "--workers", "0"], 1)
    assert "many.csv has images of any number of labels (multi-label), and the network tells one class" in err
    output(capsys, ["export", "run", "--format", "torch", "--data", "set.csv", "--out", "run.pt2"])
    assert Path("run.pt2").exists()


def test_several_labels_are_exported_as_images_and_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{k:02}.png,{'cat;pet' if k % 2 else 'stone'},{'pet' if k % 4 == 0 else ''}" for k in range(20)]
    Path("many.csv").write_text("\n".join(["path,tags,negatives", *lines]))
    output(capsys, ["data", "export", "many.csv", "--out", "out"])
    assert {path.name for path in Path("out").iterdir()} == {"images", "train.jsonl", "val.jsonl"}
    first, again = open_dataset("many.csv"), open_dataset("out")
    assert (again.task, again.classes) == (first.task, first.classes)
    for part, split in first.splits.items():
        back = again.splits[part]
        assert back.targets(torch.arange(len(back))).equal(split.targets(torch.arange(len(split))))
        assert all(back.image(k).equal(split.image(k)) for k in range(len(split)))
    output(capsys, ["data", "export", "many.csv", "--split", "val", "--limit", "2", "--out", "few"])
    assert len(Path("few/val.jsonl").read_text().splitlines()) == len(list(Path("few/images").iterdir())) == 2
