"""`depthwise predict`: every way to name images, every form of the answer, the good ones beside the broken."""

import csv
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.processes import Forked, command, start

from depthwise.batch.pictures import each_of, find_pictures
from depthwise.cli.app import run
from depthwise.data import open_dataset
from depthwise.data.pack import pack
from depthwise.errors import UsageError
from depthwise.infer import Predictor
from depthwise.ship.load import load


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures with difficult names on two levels, and files that are none; the current directory is above."""
    random = np.random.default_rng(0)
    for name in ("a [red].png", "b.JPG", "ünïcödé 猫/c.png", "ünïcödé 猫/d.webp"):
        path = tmp_path / "pics" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, format={".JPG": "jpeg"}.get(path.suffix))
    (tmp_path / "pics" / "notes.txt").write_text("no picture")
    (tmp_path / "pics" / ".hidden.png").write_text("no picture")
    return tmp_path


def names(folder: Path, *arguments: str) -> list[str]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        return [picture.name for picture in each_of(find_pictures(arguments, note=print))]
    finally:
        os.chdir(before)


def test_a_folder_means_the_images_in_it_and_below(folder: Path) -> None:
    everything = ["pics/a [red].png", "pics/b.JPG", "pics/ünïcödé 猫/c.png", "pics/ünïcödé 猫/d.webp"]
    assert names(folder, "pics") == everything
    assert names(folder, "pics/") == everything
    assert names(folder, "p*") == everything


def test_a_pattern_means_the_files_it_matches(folder: Path) -> None:
    assert names(folder, "pics/*.png") == ["pics/a [red].png"]
    assert names(folder, "pics/**/*.png") == ["pics/a [red].png", "pics/ünïcödé 猫/c.png"]
    assert names(folder, "pics/?.*") == ["pics/b.JPG"]


def test_a_file_is_taken_at_its_word(folder: Path) -> None:
    assert names(folder, "pics/notes.txt") == ["pics/notes.txt"]
    assert names(folder, "pics/a [red].png") == ["pics/a [red].png"]
    assert names(folder, "missing.png", "pics/b.JPG") == ["missing.png", "pics/b.JPG"]


@pytest.mark.parametrize("argument", ["empty", "pics/*.gif"])
def test_what_holds_no_image_is_refused(folder: Path, argument: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no image"):
        names(folder, argument)


def test_shards_and_manifests_mean_their_images(
    tiny_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = sorted(str(path.relative_to(folder)) for path in folder.glob("pics/**/*.[pJ]*"))
    pictures = [name for name in pictures if ".hidden" not in name]
    (folder / "tags.csv").write_text(
        "path,label\n" + "".join(f"{name},{k}\n" for k, name in enumerate(pictures))
    )
    pack(open_dataset(folder / "tags.csv", whole=True), folder / "shards")
    answers = []
    for source in (["tags.csv"], ["shards"], pictures):
        assert run(["predict", str(tiny_bundle), *(str(folder / name) for name in source), "--json"]) == 0
        images = json.loads(capsys.readouterr().out)["images"]
        assert [image["image"].removeprefix(f"{folder}/") for image in images] == pictures
        answers.append([image["predictions"] for image in images])
    assert answers[0] == answers[1] == answers[2]
    (folder / "some.csv").write_text(f"path,label\n{pictures[0]},1\n{pictures[1]},\n{pictures[2]},\n")
    (folder / "none.csv").write_text("\n".join(["where", *pictures[:3]]))
    (folder / "odd.tsv").write_text("\n".join(["where\tby", *(f"{name}\tme" for name in pictures[:3])]))
    for unlabelled in (["some.csv"], ["none.csv"], ["odd.tsv", "--path-column", "where"]):
        assert run(["predict", str(tiny_bundle), str(folder / unlabelled[0]), *unlabelled[1:], "--json"]) == 0
        images = json.loads(capsys.readouterr().out)["images"]
        alike([image["predictions"] for image in images], answers[0][:3])
    assert run(["predict", str(tiny_bundle), str(folder / "odd.tsv")]) == 1
    assert "name it with --path-column" in capsys.readouterr().err
    with (folder / "tags.csv").open("a") as file:
        file.write("missing.png,9\n")
    assert run(["predict", str(tiny_bundle), str(folder / "tags.csv"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["images"][-1] == {
        "image": "missing.png",
        "error": "No such file or directory",
    }
    (shard,) = folder.glob("shards/*.arrow")
    data = bytearray(shard.read_bytes())
    data[data.index((folder / pictures[0]).read_bytes()) + 50] ^= 1
    shard.write_bytes(data)
    assert run(["predict", str(tiny_bundle), str(folder / "shards"), "--json"]) == 1
    damaged, *others = json.loads(capsys.readouterr().out)["images"]
    assert "error" in damaged
    alike([image["predictions"] for image in others], answers[0][1:])


def alike(found: list, expected: list) -> None:
    """Equal but for the last bits: the batches were others."""
    for answers, wanted in zip(found, expected, strict=True):
        assert [answer["class"] for answer in answers] == [answer["class"] for answer in wanted]
        probabilities = [answer["probability"] for answer in wanted]
        assert [answer["probability"] for answer in answers] == pytest.approx(probabilities, abs=1e-6)


def test_good_images_are_answered_beside_broken_ones_and_standard_input(
    tiny_bundle: Path, folder: Path
) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    latin1 = os.fsdecode(b"caf\xe9.png")
    (folder / latin1).write_bytes((folder / "pics" / "ünïcödé 猫" / "c.png").read_bytes())
    named = ["pics", "broken.png", "-", latin1, "missing.png"]
    done = command(
        *("predict", str(tiny_bundle), *named, "--json", "--topk", "2", "--batch-size", "2"),
        cwd=folder,
        stdin=(folder / "pics" / "b.JPG").read_bytes(),
    )
    assert done.returncode == 1
    assert done.stderr == "2 of 8 images could not be read\n"
    images = {image.pop("image"): image for image in json.loads(done.stdout)["images"]}
    in_order = ["pics/a [red].png", "pics/b.JPG", "pics/ünïcödé 猫/c.png", "pics/ünïcödé 猫/d.webp"]
    assert list(images) == [*in_order, "broken.png", "-", latin1, "missing.png"]
    assert images["missing.png"] == {"error": "No such file or directory"}
    assert images["broken.png"].keys() == {"error"}
    predictor = load(tiny_bundle)
    same = {"-": "pics/b.JPG", latin1: "pics/ünïcödé 猫/c.png", **{name: name for name in in_order}}
    for name, source in same.items():
        expected, answers = predictor(folder / source, topk=2), images[name]["predictions"]
        assert tuple(answer["class"] for answer in answers) == expected.classes
        assert tuple(answer["index"] for answer in answers) == expected.indices
        probabilities = [answer["probability"] for answer in answers]
        assert probabilities == pytest.approx(list(expected.probabilities), abs=1e-6)


SPECIAL = {
    "device.png": "a device, and only regular files are read",
    "itself.png": "Too many levels of symbolic links",
    "nowhere.png": "No such file or directory",
    "pipe.png": "a pipe, and only regular files are read",
}


@pytest.fixture
def special(folder: Path) -> Path:
    """The folder of pictures, with what is none but has a picture's name, and what systems leave behind."""
    pictures = folder / "pics"
    os.mkfifo(pictures / "pipe.png")
    for name, target in {"device": "/dev/zero", "itself": "itself.png", "nowhere": "missing"}.items():
        (pictures / f"{name}.png").symlink_to(target)
    good = pictures / "b.JPG"
    for place in (".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir", "$RECYCLE.BIN", "ünïcödé 猫/@eaDir"):
        (pictures / place).mkdir()
        (pictures / place / "copy.jpg").write_bytes(good.read_bytes())
    return folder


def predicted(
    bundle: Path, folder: Path, *arguments: str, stdin: bytes | Path = b""
) -> tuple[int, dict[str, str]]:
    """The exit code, and of each image the error ("" if there is none), from the real command with --json."""
    done = command("predict", str(bundle), *arguments, "--json", cwd=folder, stdin=stdin)
    images = json.loads(done.stdout)["images"]
    return done.returncode, {image["image"]: image.get("error", "") for image in images}


def test_special_files_in_a_folder_are_named_and_system_folders_passed_over(
    tiny_bundle: Path, special: Path
) -> None:
    code, errors = predicted(tiny_bundle, special, "pics")
    assert code == 1
    assert {name.removeprefix("pics/"): reason for name, reason in errors.items() if reason} == SPECIAL
    good = ["pics/a [red].png", "pics/b.JPG", "pics/ünïcödé 猫/c.png", "pics/ünïcödé 猫/d.webp"]
    assert [name for name, reason in errors.items() if not reason] == good
    assert names(special, "pics/**/*.[jJ]*") == ["pics/b.JPG"]
    assert names(special, "pics/__MACOSX/*") == names(special, "pics/__MACOSX") == ["pics/__MACOSX/copy.jpg"]


def test_special_files_named_singly_are_refused_one_by_one(tiny_bundle: Path, special: Path) -> None:
    arguments = [f"pics/{name}" for name in SPECIAL]
    code, errors = predicted(tiny_bundle, special, *arguments, "-", "pics/b.JPG", stdin=Path("/dev/zero"))
    assert code == 1
    assert errors == {
        **{f"pics/{name}": SPECIAL[name] for name in SPECIAL},
        "-": "over 1 GiB, more than is read",
        "pics/b.JPG": "",
    }


def test_the_table_names_every_image_and_every_reason(
    tiny_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = folder / "pics"
    (pictures / "z.png").write_bytes(b"")
    assert run(["predict", str(tiny_bundle), str(pictures), "--topk", "1"]) == 1
    captured = capsys.readouterr()
    lines = [line for line in captured.out.splitlines() if str(pictures) in line]
    assert len(lines) == 5
    assert str(pictures / "a [red].png") in lines[0]
    assert lines[0].rstrip().endswith("%")
    assert str(pictures / "z.png") in lines[2]
    assert "cannot be read: the file is empty (0 bytes)" in lines[2]
    assert captured.err == "1 of 5 images could not be read\n"


def test_csv_has_a_line_for_each_image_and_class(
    tiny_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, missing = str(folder / "pics" / "a [red].png"), str(folder / "a,b.png")
    assert run(["predict", str(tiny_bundle), good, missing, "--csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["image"], row["rank"]) for row in rows] == [
        (good, "1"),
        (good, "2"),
        (good, "3"),
        (missing, ""),
    ]
    assert rows[3]["error"] == "No such file or directory"
    expected = load(tiny_bundle)(good)
    assert tuple(row["class"] for row in rows[:3]) == expected.classes
    assert tuple(float(row["probability"]) for row in rows[:3]) == expected.probabilities


def test_all_images_read_is_success(
    tiny_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", str(tiny_bundle), str(folder / "pics")]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl"])
def test_answers_are_written_to_a_file_whole_or_not_at_all(
    tiny_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    out, missing = folder / "new" / f"answers{suffix}", str(folder / "missing.png")
    command = ["predict", str(tiny_bundle), str(folder / "pics"), missing, "--out", str(out)]
    assert run(command) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (f"5 images in {out}\n1 of 5 images could not be read, the reasons are in {out}\n")
    written = out.read_text()
    assert run([*command, "--json"]) == 1
    assert "exists and is not overwritten: choose another name or add --force" in capsys.readouterr().err
    assert out.read_text() == written
    printed = [*command[:-2], "--csv"] if suffix == ".csv" else [*command, "--force", "--json"]
    assert run(printed) == 1
    shown = capsys.readouterr().out
    if suffix == ".jsonl":
        images = [json.loads(line) for line in written.splitlines()]
        assert images == json.loads(shown)["images"]
        assert images[-1] == {"image": missing, "error": "No such file or directory"}
    else:
        assert shown == written
    assert [file.name for file in out.parent.iterdir()] == [out.name]


def test_an_unknown_suffix_is_refused_before_anything_is_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", str(folder / "no bundle"), "-", "--out", str(folder / "answers.txt")]) == 2
    assert (
        "ends in none of .csv, .json, .jsonl, .parquet, which are what is written: name it answers.csv"
        in (capsys.readouterr().err)
    )


def interrupted(*arguments: str) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    Predictor.prediction = interrupt  # type: ignore[method-assign]
    sys.exit(run(list(arguments)))


def test_a_file_is_not_there_if_the_answers_are_not(tiny_bundle: Path, folder: Path) -> None:
    out = folder / "answers.jsonl"
    arguments = ("predict", str(tiny_bundle), "pics", "--out", str(out))
    assert Forked(interrupted, *arguments, cwd=folder).wait().returncode == 130
    assert {file.name for file in folder.iterdir()} == {"pics"}


def test_a_threshold_leaves_classes_out_and_maybe_all(
    tiny_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(folder / "pics" / "b.JPG")
    expected = load(tiny_bundle)(image)
    between = (expected.probabilities[0] + expected.probabilities[1]) / 2

    def answered(threshold: float, *form: str) -> str:
        assert run(["predict", str(tiny_bundle), image, "--threshold", str(threshold), *form]) == 0
        return capsys.readouterr().out

    [one] = json.loads(answered(between, "--json"))["images"]
    assert [answer["class"] for answer in one["predictions"]] == [expected.classes[0]]
    assert json.loads(answered(1, "--json"))["images"] == [{"image": image, "predictions": []}]
    assert answered(1, "--csv").splitlines()[1:] == [f"{image},,,,,"]
    assert "none reaches 100.00%" in answered(1)
    assert len(json.loads(answered(0, "--json"))["images"][0]["predictions"]) == 3


@pytest.mark.parametrize("threshold", ["-0.1", "1.5", "nan", "50"])
def test_a_threshold_is_a_probability(
    tiny_bundle: Path, folder: Path, capsys: pytest.CaptureFixture[str], threshold: str
) -> None:
    command = ["predict", str(tiny_bundle), str(folder / "pics"), f"--threshold={threshold}"]
    assert run(command) == 2
    assert "must be at least 0 and at most 1" in capsys.readouterr().err


def test_ctrl_c_ends_it_at_once_with_images_being_read(tiny_bundle: Path, folder: Path) -> None:
    process = start("predict", str(tiny_bundle), *["pics"] * 400, *("--csv", "--batch-size", "2"), cwd=folder)
    process.wait_for(lambda: process.printed[0].count("\n") > 1)
    assert process.printed[0].startswith("image,")
    os.kill(process.pid, signal.SIGINT)
    done = process.wait(timeout=60)
    assert (done.returncode, done.stderr) == (
        130,
        "interrupted: nothing is half written, give the command again\n",
    )


def test_files_that_lack_pixels_and_large_ones_are_read_if_that_is_asked_for(
    folder: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "pics" / "b.JPG"
    path.write_bytes(path.read_bytes()[:-20])
    asked = ["predict", str(tiny_bundle), str(path), "--json"]
    for options, code, said in (
        ([], 1, "--allow-truncated"),
        (["--allow-truncated"], 0, "predictions"),
        (["--allow-truncated", "--max-pixels", "1999"], 1, "--max-pixels 2000"),
        (["--allow-truncated", "--max-pixels", "2000"], 0, "predictions"),
        (["--max-pixels", "0"], 2, ""),
    ):
        assert run([*asked, *options]) == code
        assert said in capsys.readouterr().out
