"""What train, eval and the data commands say about a folder: which it is, what is left out, what is the matter."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from depthwise.bundle import BundleConfig, read_bundle, write_bundle
from depthwise.cli.app import run
from depthwise.data import Preprocess, open_dataset
from depthwise.models import create_model

TINY = {"stem": "small", "width": 0.05, "entry": [128], "middle": [128], "exit": [128, 256]}
SETTINGS = ["--set", "width=0.05", "middle=(8,)", "size=16", "epochs=1", "batch_size=10"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def fill(root: Path, counts: dict[str, int]) -> Path:
    for number, (place, count) in enumerate(counts.items()):
        (root / place).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng(1000 * number + i).integers(0, 256, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(root / place / f"{i}.png")
    return root


def bundle(path: Path, classes: tuple[str, ...], training: dict[str, Any] | None = None) -> Path:
    torch.manual_seed(0)
    module = create_model("xception", num_classes=len(classes), in_channels=3, **TINY)
    config = BundleConfig(
        "xception", classes, Preprocess((16, 16), channels=3), TINY, training=training or {}
    )
    write_bundle(path, config, module.state_dict())
    return path


def said(capsys: pytest.CaptureFixture[str], tokens: list[str], code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert run(tokens) == code
    out, err = capsys.readouterr()
    return out, err


# One name, two things


def test_a_built_in_sets_name_means_that_set_everywhere_and_the_note_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(Path("digits"), {"x": 10, "y": 10})
    note = "digits is the built-in set here; the folder of that name is ./digits\n"
    first = str(bundle(Path("first"), tuple("0123456789")))
    train = ["train", "--workers", "0", *SETTINGS[:-2], "epochs=0.1", "--out"]
    for tokens in (
        ["data", "stats", "digits"],
        ["data", "export", "digits", "--limit", "1", "--out", "files"],
        ["eval", first, "--data", "digits"],
        ["compile", first, "--data", "digits", "--out", "fast"],
        ["export", first, "--format", "torch", "--data", "digits", "--out", "first.pt2"],
        [*train, "run", "--data", "digits"],
    ):
        out, err = said(capsys, tokens)
        assert note in err or note in out, tokens
    assert f"note: {note}" in said(capsys, ["data", "check", "digits"])[0]
    assert os.listdir("files/train") == ["0"]
    assert json.loads(Path("run/run.json").read_text())["data"]["spec"] == "digits"
    for spec in ("./digits", "digits/", str(Path("digits").resolve())):
        out, err = said(capsys, ["data", "check", spec])
        assert note not in out + err
        assert "format  20 PNG RGB" in out
    said(capsys, [*train, "other", "--data", "./digits"])
    assert read_bundle("other").config.classes == ("x", "y")
    assert open_dataset("digits").classes == tuple("0123456789")
    assert open_dataset(Path("digits")).classes == ("x", "y")


# Evaluation


def test_a_held_out_folder_is_measured_whole(capsys: pytest.CaptureFixture[str]) -> None:
    first = str(bundle(Path("first"), ("ant", "bee", "cat")))
    fill(Path("heldout"), {"ant": 10, "bee": 10, "cat": 10})
    out, err = said(capsys, ["eval", first, "--data", "heldout"])
    assert err == "heldout is not divided: all of it is measured, 30 images\n"
    assert "heldout, all of it" in out
    out, _ = said(capsys, ["eval", first, "--data", "heldout", "--split", "all", "--json"])
    told = json.loads(out)
    assert (told["images"], told["split"], told["split_source"]) == (30, "all", "not divided")
    assert (told["trained_on"], told["left_out"]) == (False, {})
    assert said(capsys, ["eval", first, "--data", "heldout", "--split", "test"], 2)[1] == (
        "error: heldout is not divided and has no test part: leave --split out to measure all its images\n"
    )


def test_unknown_classes_are_refused_or_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    first = str(bundle(Path("first"), ("ant", "bee")))
    fill(Path("more"), {"ant": 3, "wasp": 2})
    for command in (["eval", first, "--data", "more"], ["compile", first, "--data", "more", "--out", "fast"]):
        _, err = said(capsys, command, 1)
        assert "the network knows no class 'wasp' (2 images): 2 of 5 images; it knows 'ant', 'bee'" in err
        assert "--ignore-unknown" in err
        _, err = said(capsys, [*command, "--ignore-unknown"])
        assert "2 images of 5 left out, of classes that the network does not know: 'wasp' (2 images)" in err
    out, _ = said(
        capsys, ["eval", first, "--data", "more", "--ignore-unknown", "--json", "--report", "r.html"]
    )
    told = json.loads(out)
    assert (told["images"], told["left_out"]) == (3, {"wasp": 2})


def test_int8_is_calibrated_on_pictures_of_anything(capsys: pytest.CaptureFixture[str]) -> None:
    first = str(bundle(Path("first"), ("ant", "bee")))
    fill(Path("any"), {"zebra": 4})
    fill(Path("heldout"), {"ant": 3, "bee": 3})
    int8 = ["compile", first, "--precision", "int8", "--data", "heldout", "--allow-drop"]
    note = "int8 is calibrated on the images that it is then measured on: --calibrate takes others"
    assert note in said(capsys, [*int8, "--out", "fast"])[1]
    assert note not in said(capsys, [*int8, "--out", "faster", "--calibrate", "any"])[1]


# Training


def test_train_says_what_it_ignores_and_keeps_it(capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(Path("photos"), {"cat": 10, "dog": 10, "dog/old": 1, "test/unknown": 0})
    shutil.rmtree(root / "test")
    for i in range(3):
        (root / f"cat/{i}.mov").write_bytes(b"moving pictures")
    _, err = said(capsys, ["train", "--data", "photos", "--out", "run", "--workers", "0", *SETTINGS])
    ignored = [
        "3 .mov files (cat/0.mov, ...)",
        "1 image in 1 folder inside a class (dog/old/: --nested makes a class of each folder with images)",
    ]
    assert f"ignored: {', '.join(ignored)}\n" in err
    assert json.loads(Path("run/run.json").read_text())["data"]["ignored"] == ignored
    assert f"<dt>Ignored</dt><dd>{', '.join(ignored)}</dd>" in Path("run/report.html").read_text()


def test_train_repeats_what_the_check_calls_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(Path("photos"), {"train/cat": 10, "train/dog": 10, "val/cat": 3, "val/dog": 3})
    copies = {
        "train/cat/0.png": ["train/dog/also.png"],  # in two classes
        "train/cat/1.png": ["val/cat/also.png"],  # in two parts
        "train/cat/2.png": ["val/cat/too.png", "train/cat/again.png"],
        "train/cat/3.png": ["train/dog/and.png", "val/cat/and.png", "val/dog/and.png"],  # in both
        "train/dog/4.png": ["train/dog/harmless.png"],
    }
    for name, others in copies.items():
        for other in others:
            shutil.copy(root / name, root / other)
    found, _ = said(capsys, ["data", "check", "photos"], 1)
    _, err = said(capsys, ["train", "--data", "photos", "--out", "run", "--workers", "0", *SETTINGS])
    look = f"`depthwise data check {root.resolve()}`"
    problems = [
        f"1 image is in two classes, train/cat/0.png = train/dog/also.png: see {look}",
        f"1 image is in two classes and two parts, train/cat/3.png = val/dog/and.png: see {look}",
        f"2 images are in two parts, train/cat/1.png = val/cat/also.png for one: see {look}",
    ]
    assert [line for line in err.splitlines() if "problem" in line] == [
        f"problem: {text}" for text in problems
    ]
    assert [line.split(":")[1] for line in found.splitlines() if line.startswith("problem")] == [
        f" {text.split(',')[0]}" for text in problems
    ]
    assert json.loads(Path("run/run.json").read_text())["data"]["repeated"] == problems
    assert f"<dt>Problems</dt><dd>{'; '.join(problems)}</dd>" in Path("run/report.html").read_text()


def test_unlabelled_pictures_do_not_stop_a_training(capsys: pytest.CaptureFixture[str]) -> None:
    fill(Path("photos"), {"train/cat": 10, "train/dog": 10, "test/unknown": 4})
    _, err = said(capsys, ["train", "--data", "photos", "--out", "run", "--workers", "0", *SETTINGS])
    assert "test has 4 images of unknown, which train has not: left out" in err
    assert json.loads(Path("run/evaluation.json").read_text())["split"] == "val"


def test_nested_classes_are_trained_resumed_and_measured(capsys: pytest.CaptureFixture[str]) -> None:
    fill(Path("nested"), {"animals/cat": 10, "animals/dog": 10, "plants/rose": 10})
    time.sleep(0.06)  # younger files are not remembered
    train = ["train", "--workers", "0", "--out", "run"]
    said(capsys, [*train, "--data", "nested", "--nested", *SETTINGS])
    _, err = said(capsys, [*train, "--resume", "--force", "--set", "epochs=2"])
    assert "`depthwise data check " in err
    assert " --nested` reads every one" in err
    assert read_bundle("run").config.classes == ("animals/cat", "animals/dog", "plants/rose")
    out, err = said(capsys, ["eval", "run", "--data", "nested", "--json"])
    assert (json.loads(out)["images"], json.loads(out)["trained_on"]) == (6, True)
    assert "nested is what the network was trained on" in err
    said(capsys, ["data", "export", "nested", "--nested", "--split", "val", "--out", "val"])
    assert open_dataset("val", nested=True, whole=True).classes == read_bundle("run").config.classes


def test_a_file_changed_in_place_is_seen_by_resume_and_check(capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(Path("photos"), {"cat": 10, "dog": 10})
    train = ["train", "--workers", "0", "--out", "run"]
    said(capsys, [*train, "--data", "photos", *SETTINGS])
    before = json.loads(said(capsys, ["data", "check", "photos", "--json"])[0])["fingerprint"]
    path = root / "cat/3.png"
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (
        "this has changed: data.fingerprint" in said(capsys, [*train, "--resume", "--set", "epochs=2"], 1)[1]
    )
    assert json.loads(said(capsys, ["data", "check", "photos", "--json"])[0])["fingerprint"] != before


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (
            {"cat": 1, "dog": 1},
            "photos has only train: evaluation needs a part called val or test, add a second",
        ),
        ({"cat": 5}, "photos has one class, cat: telling classes apart takes two"),
        ({"test/cat": 5, "test/dog": 5}, "photos has no train part, only test: add a folder train/"),
        ({"train/cat": 5, "val/cat": 1, "val/dog": 1}, "photos has one class, cat"),
    ],
    ids=str,
)
def test_what_train_refuses_the_check_calls_a_problem(
    capsys: pytest.CaptureFixture[str], counts: dict[str, int], sentence: str
) -> None:
    fill(Path("photos"), counts)
    out, _ = said(capsys, ["data", "check", "photos"], 1)
    assert f"problem: {sentence}" in out
    assert "ready to train on" not in out
    _, err = said(capsys, ["train", "--data", "photos", "--out", "run"], 1)
    assert sentence in err
    assert not Path("run").exists()


def test_the_check_speaks_of_an_imbalance(capsys: pytest.CaptureFixture[str]) -> None:
    fill(Path("photos"), {"cat": 33, "dog": 3})
    assert (
        "note: cat has 11 times the images of dog, 33 and 3: --set class_weights=balanced lets every class count alike"
        in said(capsys, ["data", "check", "photos"])[0]
    )
    shutil.rmtree("photos/cat")
    fill(Path("photos"), {"cat": 30})
    assert "class_weights" not in said(capsys, ["data", "check", "photos"])[0]


def test_of_several_labels_the_check_names_the_rare_ones(capsys: pytest.CaptureFixture[str]) -> None:
    fill(Path("photos"), {"all": 60})
    rows = [f"photos/all/{k}.png,{'cat;dog' if k == 0 else 'cat;owl'}" for k in range(60)]
    Path("tags.csv").write_text("\n".join(["path,tags", *rows]))
    out, _ = said(capsys, ["data", "check", "tags.csv"])
    assert (
        "note: 1 label of under 10 training images (dog (1 image)): --min-count 10 leaves such labels out"
        in out
    )
    assert "class_weights" not in out
    assert "leaves such" not in said(capsys, ["data", "check", "tags.csv", "--min-count", "10"])[0]


def test_lines_of_findings_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    root = fill(Path("photos"), {"cat": 30, "dog": 30})
    for i in range(30):
        for copy in range(9):
            shutil.copy(root / f"cat/{i}.png", root / f"cat/{'long name ' * 12}{i} {copy}.png")
    for i in range(20):
        (root / f"dog/{'broken ' * 20}{i}.png").write_bytes(b"no image")
    out, _ = said(capsys, ["data", "check", "photos"], 1)
    assert "note: 30 images are there more than once: cat/0.png = " in out
    assert "and 6 more" in out
    assert "more, which --json lists" in out
    assert max(map(len, out.splitlines())) < 400


def test_classes_are_shown_as_people_count(capsys: pytest.CaptureFixture[str]) -> None:
    fill(Path("photos"), {str(label): 2 for label in range(1, 12)})
    rows = [
        line.split()[0] for line in said(capsys, ["data", "stats", "photos"])[0].splitlines() if line.split()
    ]
    at = rows.index("1")
    assert rows[at : at + 11] == [str(label) for label in range(1, 12)]
    assert open_dataset("photos").classes[:3] == ("1", "10", "11")
