"""Answers written piece by piece: equal in every form, gone on from after a stop, never those of another question."""

import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from depthwise.batch import run as batch
from depthwise.batch.pictures import Pictures, find_pictures
from depthwise.batch.pieces import Piece, cut, pictures_of
from depthwise.batch.work import Asked, answered, asked_of, predictor_of
from depthwise.cli.app import run
from depthwise.data import Decoding, open_dataset
from depthwise.data.pack import pack

NUM = 40


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, one of them broken, the whole ones as shards, as parquet and as tars."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for k in range(NUM):
        path = folder / "set" / f"{k % 2}" / f"{k:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    dataset = open_dataset(folder / "set", whole=True)
    pack(dataset, folder / "shards", shard_bytes=60_000)
    pack(dataset, folder / "hub", format="parquet", shard_bytes=60_000)
    (folder / "set" / "1" / "zzz.png").write_bytes(b"no picture")
    return folder


def lines(*files: Path) -> list[dict]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_shard_has_a_file_and_all_forms_say_the_same(
    tiny_bundle: Path, place: Path, tmp_path: Path
) -> None:
    asked = ["predict", str(tiny_bundle), str(place / "shards"), "--topk", "2", "--out"]
    for out, *options in ([str(tmp_path / "lines")], [str(tmp_path / "columns"), "--form", "parquet"]):
        assert run([*asked, out, *options]) == 0
    shards = sorted(file.stem for file in (place / "shards").glob("*.arrow"))
    assert len(shards) > 2
    of_lines, columns = (sorted((tmp_path / name).glob("[!q]*.*")) for name in ("lines", "columns"))
    assert [file.stem for file in of_lines] == [file.stem for file in columns] == shards
    rows = [row for file in columns for row in pq.read_table(file).to_pylist()]
    assert all(row.pop("error") is None for row in rows)
    assert rows == lines(*of_lines)
    for suffix in (".jsonl", ".parquet"):
        assert run([*asked, str(tmp_path / f"all{suffix}")]) == 0
    assert lines(tmp_path / "all.jsonl") == rows
    assert [file.name for file in tmp_path.glob(".*")] == []
    table = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert [{**row, "error": None} for row in rows] == table
    assert len({row["image"] for row in rows}) == NUM


def test_what_lies_in_larger_files_is_cut_by_them_and_all_else_by_arithmetic(place: Path) -> None:
    hub = find_pictures([str(place / "hub")], note=print)
    assert [piece.name for piece in cut(hub)] == sorted(
        file.stem for file in (place / "hub").glob("*.parquet")
    )
    found = find_pictures([str(place / "set"), str(place / "shards"), str(place / "shards")], note=print)
    pieces = cut(found, 16)
    assert [(piece.name, len(piece)) for piece in pieces[:3]] == [
        ("images-00000", 16),
        ("images-00001", 16),
        ("images-00002", 9),
    ]
    assert [piece.name for piece in pieces[3:5]] == ["all-00000", "all-00001"]
    assert pieces[-1].name == f"{pieces[2 + (len(pieces) - 3) // 2].name}-2"
    assert sum(map(len, pieces)) == 3 * NUM + 1


class Stopped(BaseException):
    pass


def stopping_after(number: int, done: list[str]) -> batch.Carry:
    """A `Carry` that stops after so many pieces."""

    def carry(asked: Asked, pieces: Sequence[Piece], found: Sequence[Pictures]) -> batch.Results:
        for piece, result in here(asked, pieces, found):
            done.append(piece.name)
            yield piece, result
            if len(done) == number:
                raise Stopped

    here = batch.here
    return carry


@pytest.mark.parametrize("out", ["answers", "answers.csv"])
def test_what_was_answered_before_a_stop_is_not_answered_again(
    tiny_bundle: Path,
    place: Path,
    tmp_path: Path,
    out: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["predict", str(tiny_bundle), str(place / "shards"), str(place / "set" / "1"), "--out"]
    assert run([*asked, str(tmp_path / "whole" / out)]) == 1
    done: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(batch, "here", stopping_after(2, done))
        with pytest.raises(Stopped):
            run([*asked, str(tmp_path / out)])
    kept = tmp_path / (out if out == "answers" else f".{out}.pieces")
    before = {file.name: file.stat().st_mtime_ns for file in kept.glob("all-*")}
    assert [Path(name).stem for name in sorted(before)] == done
    capsys.readouterr()
    if out == "answers":
        assert run([*asked, str(tmp_path / out), "--topk", "1"]) == 1
        assert "answers to another question (another topk)" in capsys.readouterr().err
    assert run([*asked, str(tmp_path / out), "--json"]) == 1
    said = capsys.readouterr()
    assert "2 of " in said.err
    assert "1 of 61 images could not be read, the reasons are in" in said.err
    if out == "answers":
        assert json.loads(said.out)["unreadable"] == 1
        assert before.items() <= {file.name: file.stat().st_mtime_ns for file in kept.iterdir()}.items()
        whole, again = (
            {f.name: f.read_bytes() for f in (top / out).iterdir()} for top in (tmp_path / "whole", tmp_path)
        )
        assert whole == again
        assert run([*asked, str(tmp_path / out)]) == 1  # all done, and the broken one is still said
        assert run([*asked, str(tmp_path / out), "--topk", "1", "--force"]) == 1
        assert all(len(each.get("predictions", [1])) == 1 for each in lines(*kept.glob("all-*")))
    else:
        assert (tmp_path / out).read_bytes() == (tmp_path / "whole" / out).read_bytes()
        assert not kept.exists()


def test_a_changed_picture_or_another_bundle_is_another_question(
    tiny_bundle: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes((place / "set" / "0" / "000.png").read_bytes())
    asked = ["predict", str(tiny_bundle), str(picture), "--out", str(tmp_path / "out")]
    assert run(asked) == run(asked) == 0
    os.utime(picture, ns=(0, 0))
    capsys.readouterr()
    assert run(asked) == 1
    assert "another images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--ray", "auto"], "--ray answers into files: name them with --out"),
        (["--jobs", "2"], "name the cluster with --ray"),
        (["--form", "csv"], "--form is for a folder of answers"),
        (["--form", "csv", "--out", "a.csv"], "--form is for a folder of answers"),
        (["--out", "set"], "set is no folder of answers, and is left as it is"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tiny_bundle: Path,
    place: Path,
    options: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    assert run(["predict", str(tiny_bundle), "set/0/000.png", *options]) in (1, 2)
    assert sentence in capsys.readouterr().err


def test_images_are_answered_alike_in_any_order_of_pieces(tiny_bundle: Path, place: Path) -> None:
    """A process that has answered other images before gives the same bits."""
    found = find_pictures([str(place / "set")], note=print)
    asked, pieces = asked_of(str(tiny_bundle), NUM + 1, decoding=Decoding()), cut(found, 8)

    def contents(order: Sequence[Piece]) -> dict[str, bytes]:
        predictor = predictor_of(asked)
        return {piece.name: answered(asked, predictor, pictures_of(piece, found)).content for piece in order}

    assert contents(pieces) == contents(pieces[::-1])


@pytest.mark.parametrize("kind", ["set", "shards", "hub", "names.csv"])
def test_a_piece_that_was_sent_elsewhere_is_answered_alike(tiny_bundle: Path, place: Path, kind: str) -> None:
    names = sorted(str(file.relative_to(place)) for file in place.glob("set/*/*.png"))
    (place / "names.csv").write_text("\n".join(["path", *names]))
    found = find_pictures([str(place / kind)], note=print)
    asked = asked_of(str(tiny_bundle), NUM, decoding=Decoding())
    predictor = predictor_of(asked)
    for piece in cut(found, 16):
        pictures = pictures_of(piece, found)
        sent = pickle.dumps(pictures)
        assert len(sent) < 20_000
        assert answered(asked, predictor, pickle.loads(sent)) == answered(asked, predictor, pictures)
