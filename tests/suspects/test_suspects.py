"""`depthwise data suspects` on a run with planted faults: what it finds, what it writes, and how it goes on."""

import csv
import io
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser
from tests.processes import command, start

import depthwise
from depthwise.cli.app import run as cli
from depthwise.data.dataset import ArraySplit, Dataset
from depthwise.errors import DepthwiseError
from depthwise.suspects.finding import suspects
from depthwise.suspects.found import Image as Place
from depthwise.suspects.found import Suspects, WrongLabel
from depthwise.suspects.written import write

SETTINGS = [
    "epochs=8",
    "batch_size=32",
    "averaging=0",
    "precision=float32",
    "width=0.2",
    "size=16",
    "eval_every=100",
]
EVIL = "=1+1 <b>.png"
FLIPPED = 35


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as files: 35 of 700 under another class's name, ten resaved in the other part, one of them elsewhere."""
    root = tmp_path_factory.mktemp("suspects") / "photos"
    random, digits = np.random.default_rng(0), depthwise.open_dataset("digits")
    wrong = {*random.choice(700, FLIPPED, replace=False).tolist()}
    for part, count in (("train", 700), ("test", 150)):
        split = digits.splits[part]
        for number in range(count):
            label = int(split.targets(torch.tensor([number])))
            flipped = part == "train" and number in wrong
            shown = (label + int(random.integers(1, 10))) % 10 if flipped else label
            folder = root / part / str(shown)
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{'wrong' if flipped else 'right'}-{number}.png"
            picture = Image.fromarray(split.image(number)[0].numpy())
            picture.save(folder / (EVIL if part == "test" and number == 149 else name))
            if part == "test" and number < 10:
                again = root / "train" / str((shown + (number == 0)) % 10) / f"again-{number}.png"
                picture.point([round(value * 0.9) for value in range(256)]).save(again)
    Image.new("L", (8, 8), 255).save(root / "train/3/white.png")
    return root


@pytest.fixture(scope="module")
def trained(photos: Path) -> Path:
    out = photos.parent / "run"
    assert cli(["train", "--data", str(photos), "--out", str(out), "--workers", "0", "--set", *SETTINGS]) == 0
    return out


@pytest.fixture(scope="module")
def looked(trained: Path) -> Path:
    """Where a run with two folds, never stopped, left what it found. A process of its own, for bits depend on the
    number of threads, which other tests set in this one."""
    out = trained.parent / "found"
    done = command("data", "suspects", str(trained), "--out", str(out), "--folds", "2", "--workers", "0")
    assert done.returncode == 0, done.stderr
    return out


def lines(out: Path) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO((out / "suspects.csv").read_text()))]


def test_flipped_labels_are_found(looked: Path) -> None:
    found = [row for row in lines(looked) if row["kind"] == "label" and row["part"] == "train"]
    first = [row["image"].rpartition("/")[2].startswith("wrong") for row in found[:FLIPPED]]
    assert sum(first) >= 0.5 * FLIPPED
    scores = [float(row["score"]) for row in found]
    assert scores == sorted(scores, reverse=True)
    for row in found:
        assert row["label"] != row["suggested"]
        assert row["image"].split("/")[-2] == row["label"]


def test_copies_and_blank_images_are_found(looked: Path) -> None:
    rows = [row for row in lines(looked) if row["kind"] == "copy"]
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    found = [group for group in groups.values() if any("again" in row["image"] for row in group)]
    assert len(found) >= 9
    for group in found:
        assert {row["part"] for row in group} == {"train", "test"}
    assert [row["image"] for row in lines(looked) if row["kind"] == "blank"] == ["train/3/white.png"]
    # The one in two classes and two parts comes first.
    assert {row["image"].rpartition("/")[2] for row in groups["1"]} == {"again-0.png", "right-0.png"}
    assert len({row["label"] for row in groups["1"]}) == 2


def test_at_once_it_judges_what_the_network_did_not_learn_from_and_says_the_rest(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    assert (
        cli(["data", "suspects", str(trained), "--out", str(tmp_path / "s"), "--workers", "0", "--json"]) == 0
    )
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["judged"] == {"test": 150}
    assert told["images"] == {"train": 711, "test": 150}
    assert {found["part"] for found in told["labels"]} <= {"test"}
    assert "the labels of the train part (711 images) were not judged" in err
    assert "--folds=3 trains three networks on two thirds of it each, about " in err
    assert "copies: 1 image is in two classes and two parts" in err
    assert "copies: 9 images are in two parts" in err
    assert sorted(os.listdir(tmp_path / "s")) == ["suspects.csv", "suspects.html"]
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_nothing_is_overwritten_unasked(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "suspects.csv").write_text("mine")
    tokens = ["data", "suspects", str(trained), "--out", str(tmp_path), "--workers", "0"]
    assert cli(tokens) == 1
    assert "suspects.csv exists and is not overwritten" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["suspects.csv"]
    assert cli([*tokens, "--force"]) == 0
    assert (tmp_path / "suspects.csv").read_text().startswith("kind,image,part,label,suggested,score,group\n")


def test_killed_it_goes_on_and_finds_the_same(trained: Path, looked: Path, tmp_path: Path) -> None:
    """A real process and SIGKILL, in the second of two folds."""
    out = tmp_path / "found"
    tokens = ["data", "suspects", str(trained), "--out", str(out), "--folds", "2", "--workers", "0"]
    killed = start(*tokens)
    killed.wait_for((out / "folds/2/run.json").exists)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.code() == -signal.SIGKILL
    assert not (out / "suspects.csv").exists()
    first = (out / "folds/1/report.html").stat().st_mtime_ns
    ended = command(*tokens)
    assert ended.returncode == 0, ended.stderr
    assert (out / "folds/1/report.html").stat().st_mtime_ns == first
    assert (out / "suspects.csv").read_bytes() == (looked / "suspects.csv").read_bytes()


def test_stopped_it_says_how_to_go_on(trained: Path, tmp_path: Path) -> None:
    # A run of many epochs, by its run.json: a stop in its last moments would find nothing left to stop.
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    values = json.loads((run / "run.json").read_text())
    values["recipe"]["epochs"] = 2000
    (run / "run.json").write_text(json.dumps(values))
    out = tmp_path / "found"
    stopped = start("data", "suspects", str(run), "--out", str(out), "--folds", "2", "--workers", "0")
    stopped.wait_for((out / "folds/1/metrics.jsonl").exists)
    os.kill(stopped.pid, signal.SIGTERM)
    assert stopped.code() == 130
    told = "fold 1 of 2 is at its last checkpoint: give the command again, and it goes on there"
    assert told in stopped.printed[1]
    assert (out / "folds/1/checkpoints/last.safetensors").is_file()
    assert not (out / "suspects.csv").exists()


def test_folds_of_another_number_are_named(
    trained: Path, looked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found"
    shutil.copytree(looked / "folds", out / "folds")
    assert cli(["data", "suspects", str(trained), "--out", str(out), "--folds", "3", "--workers", "0"]) == 1
    err = capsys.readouterr().err
    assert f"{out}/folds/1 is a fold of another division, run or number of folds" in err
    assert "--force" in err


def test_what_cannot_be_looked_over_is_a_sentence(
    trained: Path, photos: Path, tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*tokens: str) -> str:
        assert cli(["data", "suspects", *tokens, "--out", str(tmp_path / "s"), "--workers", "0"]) in (1, 2)
        return capsys.readouterr().err

    assert f"give the directory of its run, {trained}" in refused(str(trained / "bundle"))
    assert "is a bundle, which does not say what images it was trained on" in refused(str(tiny_bundle))
    assert "does not exist" in refused(str(tmp_path / "nothing"))
    assert "--folds=1 would leave nothing to learn from" in refused(str(trained), "--folds", "1")
    assert f"digits is not what {trained} was trained on" in refused(str(trained), "--data", "digits")
    run = tmp_path / "moved"
    shutil.copytree(trained, run)
    values = json.loads((run / "bundle/config.json").read_text())
    (run / "bundle/config.json").write_text(json.dumps({**values, "task": "multi-label"}))
    assert "only images of one label each are looked over so far" in refused(str(run))


def test_where_the_images_lie_now_can_be_said(trained: Path, photos: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(photos, moved)
    found = suspects(trained, tmp_path / "s", data=moved, workers=0)
    assert found.judged == {"test": 150}


def test_a_set_without_val_and_test_takes_folds(trained: Path, tmp_path: Path) -> None:
    """Which train divides for itself; a Dataset of one's own may lose them."""
    whole = depthwise.open_dataset(trained.parent / "photos", channels=1)
    known = json.loads((trained / "run.json").read_text())["data"]["fingerprint"]
    assert known in whole.fingerprints
    alone = Dataset("mine", whole.classes, {"train": whole.splits["train"]}, 1, known, "s")
    with pytest.raises(DepthwiseError, match=r"mine has no val or test part.*folds=3"):
        suspects(trained, tmp_path, data=alone, workers=0)


def test_a_class_of_one_image_is_not_judged(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (61, 1, 16, 16), np.uint8))
    given = torch.tensor([0, 1] * 30 + [2])
    splits = {
        "train": ArraySplit(pixels, given, "train"),
        "test": ArraySplit(pixels[:2] // 2, given[:2], "test"),
    }
    dataset = Dataset("mine", ("a", "b", "c"), splits, 1, "f", "s")
    settings: dict[str, Any] = {"model": "mobilenet_v1", "width": 0.1, "size": 16, "precision": "float32"}
    depthwise.train(dataset, out=tmp_path / "run", epochs=1, workers=0, **settings)
    found = suspects(tmp_path / "run", tmp_path / "s", folds=2, data=dataset, workers=0)
    assert found.judged == {"train": 60, "test": 2}
    assert any("1 training image is the only one of a class" in text for text in found.said)


@pytest.fixture
def trouble() -> Iterator[list[str]]:
    found: list[str] = []
    yield found
    assert found == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_page_opens_offline_on_any_screen(
    looked: Path, browser: Browser, trouble: list[str], scheme: Any, width: int
) -> None:
    page = looked / "suspects.html"
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    shown = context.new_page()
    own = page.as_uri()
    shown.on("request", lambda r: trouble.append(r.url) if not r.url.startswith((own, "data:")) else None)
    shown.on("console", lambda message: trouble.append(message.text))
    shown.on("pageerror", lambda error: trouble.append(str(error)))
    shown.goto(own)
    assert shown.locator("#wrong > li").count() == len([r for r in lines(looked) if r["kind"] == "label"])
    assert shown.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    pictures = shown.locator("img")
    assert pictures.count() > 30
    assert shown.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert "different classes" in shown.locator("#copies li").first.inner_text()
    assert "711 images, labels judged of 711" in shown.locator("#about").inner_text()
    context.close()


def test_a_name_is_no_formula_and_no_markup(trained: Path, tmp_path: Path) -> None:
    found = suspects(trained, tmp_path / "s", workers=0)
    split = found.splits["test"]
    place = next(k for k in range(len(split)) if split.name(k).endswith(EVIL))
    doubt = WrongLabel(Place("test", place, EVIL, "=2"), "<i>x", 0.9, 0.1)
    made = Suspects(**{**vars(found), "wrong_labels": [doubt], "confused": [("=2", "<i>x", 1)]})
    write(made, tmp_path / "t", ())
    row = lines(tmp_path / "t")[0]
    assert (row["image"], row["label"]) == (f"'{EVIL}", "'=2")
    text = (tmp_path / "t/suspects.html").read_text()
    assert "<i>x" not in text
    assert "&lt;i&gt;x" in text
    assert "<b>.png" not in text
