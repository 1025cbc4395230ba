"""The commands one after another, as a person uses them: export a data set, check it, train, measure, predict."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.processes import Forked
from torch import Tensor

from depthwise.bundle import read_bundle, write_bundle
from depthwise.cli.app import run
from depthwise.data import Preprocess, export, open_dataset
from depthwise.writing import leftover_of

SMALL = ["width=0.05", "middle=(8,)", "size=16", "epochs=2", "batch_size=20"]


@pytest.fixture(autouse=True, scope="module")
def _own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few digits as a folder of PNG files with train/ and test/."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    assert run(["data", "export", "digits", "--limit", "100", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    command = ["train", "--data", str(digits), "--model", "xception", "--out", str(out), "--workers", "0"]
    assert run([*command, "--set", *SMALL]) == 0
    return out


def document(capsys: pytest.CaptureFixture[str], tokens: list[str], code: int = 0) -> Any:
    """The JSON that is the whole of standard output."""
    capsys.readouterr()
    assert run([*tokens, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_what_was_exported_is_the_data_set_itself(digits: Path) -> None:
    exported, original = open_dataset(str(digits)), open_dataset("digits")
    assert exported.classes == original.classes
    for part, split in exported.splits.items():
        assert len(split) == 100
        for i in range(len(split)):
            place = int(Path(split.name(i)).stem.removeprefix(f"{part}-"))
            assert split.image(i).equal(original.splits[part].image(place))
            assert split.labels[i] == original.splits[part].labels[place]


def test_one_part_is_exported_without_a_folder_of_its_own(tmp_path: Path) -> None:
    assert run(["data", "export", "digits", "--split", "test", "--limit", "8", "--out", str(tmp_path)]) == 0
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png"))
    assert len(written) == 8
    assert all(path.name.startswith("test-") and path.parent.name in "0123456789" for path in written)


def killed_at_the_21st_image(*arguments: str) -> None:
    real, count = export.to_pil_image, iter(range(20))

    def write(image: Tensor) -> Image.Image:
        if next(count, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(image)

    export.to_pil_image = write
    run(list(arguments))


def test_an_export_that_is_killed_leaves_nothing_under_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pictures"
    command = ["data", "export", "digits", "--limit", "20", "--out", str(out)]
    killed = Forked(killed_at_the_21st_image, *command).wait()
    assert killed.returncode == -signal.SIGKILL
    assert {leftover_of(name) for name in os.listdir(tmp_path)} == {"pictures"}
    assert len(list(tmp_path.rglob("*.png"))) == 20
    assert run(command) == 0
    assert os.listdir(tmp_path) == ["pictures"]
    assert run(command) == 1
    assert f"{out} exists: choose another folder" in capsys.readouterr().err
    (out / "notes.txt").touch()
    assert run([*command, "--force"]) == 0
    assert sorted(os.listdir(out)) == ["notes.txt", "test", "train"]
    assert len(list(out.rglob("*.png"))) == 40


def test_a_sound_data_set_passes_the_check(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked = document(capsys, ["data", "check", str(digits)])
    assert checked["ok"] is True
    assert sum(checked["counts"]["train"].values()) == 100
    assert run(["data", "check", str(digits)]) == 0
    assert "ready to train on" in capsys.readouterr().out


def test_a_broken_image_fails_the_check_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(4):
        path = tmp_path / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), 20 * i).save(path)
    (tmp_path / "class0" / "broken.png").write_bytes(b"no picture")
    checked = document(capsys, ["data", "check", str(tmp_path)], code=1)
    assert checked["ok"] is False
    assert [image["path"] for image in checked["unreadable"]] == ["class0/broken.png"]
    assert run(["data", "check", str(tmp_path)]) == 1
    assert "problem: 1 image cannot be read: class0/broken.png (" in capsys.readouterr().out


def test_what_the_check_has_found_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, place in enumerate(("train/a", "train/b", "val/a", "val/b")):
        (tmp_path / place).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (8, 8), 10 * (5 * number + i)).save(tmp_path / place / f"{i}.png")
    copies = {
        "train/a/0.png": "train/a/again.png",
        "train/a/1.png": "train/b/again.png",
        "train/a/2.png": "val/a/again.png",
        "train/a/3.png": "val/b/again.png",
    }
    for original, copy in copies.items():
        shutil.copy(tmp_path / original, tmp_path / copy)
    (tmp_path / "train/a/broken.png").write_bytes(b"no picture")
    assert run(["data", "check", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    for name in (*copies, *copies.values(), "train/a/broken.png"):
        assert told.count(name) == 1, told
    assert "note: 1 image is there more than once: train/a/0.png = train/a/again.png" in told
    assert "problem: 1 image is in two classes: train/a/1.png = train/b/again.png" in told
    assert "problem: 1 image is in two parts: train/a/2.png = val/a/again.png" in told
    assert "problem: 1 image is in two classes and two parts: train/a/3.png = val/b/again.png" in told
    assert "problem: over 1% of the 25 images cannot be read, which stops a training: mend" in told


def test_statistics_and_a_contact_sheet(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = document(capsys, ["data", "stats", str(digits), "--sheet", str(tmp_path / "sheet.png")])
    assert numbers["channels"] == 1
    sheet = tmp_path / "sheet.png"
    assert Image.open(sheet).format == "PNG"
    before = sheet.read_bytes()
    sheet.write_bytes(b"mine")
    command = ["data", "stats", str(digits), "--sheet"]
    for place, said in (
        (sheet, "exists and is not overwritten: choose another name or add --force"),
        (sheet / "x.png", "cannot be written (Not a directory): choose another place for it"),
        (Path("/proc/x.png"), "cannot be written (No such file or directory): choose another place for it"),
        (tmp_path / "sheet.foo", "does not end as a picture does: name it sheet.png"),
    ):
        assert run([*command, str(place)]) in (1, 2)
        assert said in capsys.readouterr().err
    assert sheet.read_bytes() == b"mine"
    assert run([*command, str(sheet), "--force"]) == 0
    assert sheet.read_bytes() == before
    capsys.readouterr()
    assert run(["data", "stats", str(digits)]) == 0
    assert "8 to 8 pixels, median 8" in capsys.readouterr().out


def test_models_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {model["name"]: model for model in document(capsys, ["models"])}
    assert listed["xception"]["parameters"] == 22_855_952
    shown = document(capsys, ["models", "xception"])
    assert shown["arguments"]["width"] == 1.0
    assert run(["models"]) == 0
    assert "22,855,952" in capsys.readouterr().out
    assert run(["models", "xception"]) == 0
    assert "(128, 256, 728)" in capsys.readouterr().out


def test_a_run_is_measured_as_its_training_measured_it(
    trained: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.html"
    measured = document(capsys, ["eval", str(trained), "--data", str(digits), "--report", str(report)])
    final = json.loads((trained / "evaluation.json").read_text())
    assert (measured["split"], measured["images"]) == ("test", 100)
    assert measured["confusion"] == final["confusion"]
    assert measured["loss"] == pytest.approx(final["loss"], rel=1e-5)
    assert "<!doctype html>" in report.read_text()[:100].lower()
    page = report.read_bytes()
    report.write_text("mine")
    again = ["eval", str(trained), "--data", str(digits), "--report", str(report)]
    assert run(again) == 1
    assert "report.html exists and is not overwritten: choose another name or add --force" in (
        capsys.readouterr().err
    )
    assert report.read_text() == "mine"
    assert run([*again, "--force"]) == 0
    assert report.read_bytes() == page
    taken = tmp_path / "report.html" / "again.html"
    assert run(["eval", str(trained), "--data", str(digits), "--report", str(taken)]) == 1
    assert f"error: {taken} cannot be written (" in capsys.readouterr().err
    assert (
        document(capsys, ["eval", str(trained), "--data", str(digits), "--split", "train"])["split"]
        == "train"
    )
    assert run(["eval", str(trained), "--data", str(digits)]) == 0
    assert f"{measured['top1']:.2%}" in capsys.readouterr().out
    assert run(["eval", str(trained), "--data", str(digits), "--split", "val"]) == 2
    assert "has no val part: it has train, test" in capsys.readouterr().err


def test_classes_are_matched_by_name(
    trained: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = tmp_path / "some"
    for part in ("train", "test"):
        for label in "73":
            (some / part / label).parent.mkdir(parents=True, exist_ok=True)
            (some / part / label).symlink_to(digits / part / label)
    measured = document(capsys, ["eval", str(trained), "--data", str(some)])
    support = measured["per_class"]["support"]
    assert {place for place, count in enumerate(support) if count} == {3, 7}
    for part in ("train", "test"):
        (some / part / "3").rename(some / part / "three")
    assert run(["eval", str(trained), "--data", str(some)]) == 1
    assert "the network knows no class 'three'" in capsys.readouterr().err


def test_a_run_predicts_with_the_preprocessing_it_was_trained_with(
    trained: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered = document(capsys, ["predict", str(trained), str(digits / "test"), "--topk", "1"])["images"]
    right = sum(Path(image["image"]).parent.name == image["predictions"][0]["class"] for image in answered)
    assert len(answered) == 100
    assert right / 100 == json.loads((trained / "evaluation.json").read_text())["top1"]


def test_a_new_training_starts_from_a_bundle(
    trained: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--data", str(digits), "--init", str(trained), "--out", str(tmp_path / "tuned")]
    tuned = document(capsys, [*command, "--freeze", "--workers", "0", "--set", *SMALL[2:]])
    assert tuned["out"] == str(tmp_path / "tuned")
    before, after = read_bundle(trained, raw=True), read_bundle(tmp_path / "tuned", raw=True)
    assert after.config.model_args == before.config.model_args
    bundle = read_bundle(trained)
    changed = {name for name, tensor in after.weights.items() if not tensor.equal(bundle.weights[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_a_new_training_keeps_the_preprocessing_of_the_bundle(
    trained: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = read_bundle(trained)
    channels = bundle.config.preprocess.channels
    preprocess = Preprocess((18, 20), channels, 1.0, "nearest", (0.4,) * channels, (0.2,) * channels, True)
    config = replace(bundle.config, preprocess=preprocess)
    write_bundle(tmp_path / "foreign", config, bundle.weights)
    command = ["train", "--data", str(digits), "--init", str(tmp_path / "foreign"), "--workers", "0"]
    document(capsys, [*command, "--out", str(tmp_path / "tuned"), "--set", "epochs=1", "batch_size=20"])
    assert read_bundle(tmp_path / "tuned").config.preprocess == preprocess


@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        (["--freeze"], 2, "add --init BUNDLE"),
        (["--init", "nowhere"], 1, "nowhere does not exist"),
        (
            ["--init", "TRAINED", "--model", "inception_v3"],
            2,
            "holds weights of xception, not of inception_v3",
        ),
    ],
    ids=str,
)
def test_a_start_that_makes_no_sense_is_refused(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    code: int,
    sentence: str,
) -> None:
    more = [str(trained) if token == "TRAINED" else token for token in more]
    assert run(["train", "--data", "digits", "--out", str(tmp_path / "run"), *more]) == code
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
