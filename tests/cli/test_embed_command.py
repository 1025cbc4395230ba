"""`depthwise embed`, `similar` and `predict --cam`: what they leave, whole or not at all, for images of any source."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import Browser
from tests.cli.test_predict_command import _own_signals, folder

from depthwise.bundle import read_bundle, write_bundle
from depthwise.cli.app import run
from depthwise.data import BadImage, open_dataset
from depthwise.data.pack import pack
from depthwise.embeddings.files import read, write
from depthwise.embeddings.nearest import nearest
from depthwise.errors import DepthwiseError
from depthwise.ship.load import load

__all__ = ["_own_signals", "folder"]


@pytest.fixture
def embedded(tiny_bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pictures' features in e.parquet, and a file that is no picture among them."""
    monkeypatch.chdir(folder)
    (folder / "pics" / "broken.png").write_bytes(b"no picture")
    assert run(["embed", str(tiny_bundle), "pics", "--out", "e.parquet"]) == 1
    return folder


def test_both_forms_keep_names_and_features(
    tiny_bundle: Path, embedded: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["embed", str(tiny_bundle), "pics", "--out", "e.npy", "--batch-size", "2", "--json"]) == 1
    printed = capfd.readouterr()
    assert "pics/broken.png cannot be read: " in printed.err
    said = json.loads(printed.out)
    assert (said["images"], [bad["image"] for bad in said["unreadable"]]) == (4, ["pics/broken.png"])
    names = ["pics/a [red].png", "pics/b.JPG", "pics/ünïcödé 猫/c.png", "pics/ünïcödé 猫/d.webp"]
    records, table = np.load("e.npy"), pq.read_table("e.parquet")
    assert records["image"].tolist() == table["image"].to_pylist() == names
    expected = load(tiny_bundle).features(names)
    np.testing.assert_allclose(records["features"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.array(table["features"].to_pylist()), expected, rtol=1e-5, atol=1e-6)
    for file in ("e.npy", "e.parquet"):
        (block,) = read(Path(file)).blocks()
        assert list(block[0]) == names
    assert run(["embed", str(tiny_bundle), "pics", "--out", "e.npy"]) == 1
    assert "e.npy exists and is not overwritten" in capfd.readouterr().err
    assert run(["embed", str(tiny_bundle), "pics/broken.png", "--out", "none.parquet"]) == 1
    assert "none of the 1 images can be read" in capfd.readouterr().err
    assert run(["embed", str(tiny_bundle), "pics", "--out", "e.txt"]) == 2
    assert sorted(each.name for each in embedded.iterdir()) == ["e.npy", "e.parquet", "pics"]


def test_similar_names_the_nearest_and_shows_them(
    tiny_bundle: Path, embedded: Path, browser: Browser, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ["similar", "e.parquet", "pics/b.JPG", "pics/broken.png", "--bundle", str(tiny_bundle)]
    assert run([*asked, "--topk", "2", "--json", "--out", "page.html"]) == 1
    found, broken = json.loads(capfd.readouterr().out)["images"]
    assert "error" in broken
    table = pq.read_table("e.parquet")
    names, features = table["image"].to_pylist(), np.array(table["features"].to_pylist())
    own = features[names.index("pics/b.JPG")]
    cosines = features @ own / np.linalg.norm(features, axis=1) / np.linalg.norm(own)
    order = [names[i] for i in np.argsort(-cosines) if names[i] != "pics/b.JPG"]
    assert [each["image"] for each in found["similar"]] == order[:2]
    likeness = [each["likeness"] for each in found["similar"]]
    assert likeness == pytest.approx(sorted(cosines, reverse=True)[1:3], abs=1e-5)
    page = browser.new_page()
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.goto((embedded / "page.html").as_uri())
    assert page.locator(".gallery .card").count() == 2
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert page.locator(".gallery .file").first.get_attribute("title") == order[0]
    page.close()
    assert trouble == []
    assert run(asked) == 1
    assert "cannot be read" in capfd.readouterr().out


def test_images_of_shards_are_embedded_and_found_for_the_page(
    tiny_bundle: Path, embedded: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        path = embedded / "set" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (40 * number, 90, 10)).save(path)
    pack(open_dataset("set"), Path("shards"))
    assert run(["embed", str(tiny_bundle), "shards", "--out", "s.npy"]) == 0
    asked = [
        "similar",
        "s.npy",
        "set/a/0.png",
        "--bundle",
        str(tiny_bundle),
        "--topk",
        "3",
        "--out",
        "page.html",
    ]
    assert run(asked) == 0
    assert "no file of this name can be read" in Path("page.html").read_text()
    assert run([*asked, "--force", "--source", "shards"]) == 0
    assert "no file of this name can be read" not in Path("page.html").read_text()


def test_features_of_two_networks_are_not_compared(
    tiny_bundle: Path, embedded: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = read_bundle(tiny_bundle)
    other = {name: tensor * 1.01 for name, tensor in bundle.weights.items() if tensor.is_floating_point()}
    write_bundle(Path("other"), bundle.config, {**bundle.weights, **other})
    assert run(["similar", "e.parquet", "pics/b.JPG", "--bundle", "other"]) == 1
    assert "was made by other weights than this bundle's" in capfd.readouterr().err
    write(Path("narrow.npy"), ["a"], [np.ones(3, np.float32)])
    with pytest.raises(DepthwiseError, match="has 3 features of each image and this network makes 4"):
        nearest(read(Path("narrow.npy")), ["b"], np.ones((1, 4), np.float32), 1)
    for name, content in (("not.npy", b"no array"), ("not.parquet", b"PAR1"), ("plain.npy", None)):
        if content is None:
            np.save(name, np.zeros((2, 3), np.float32))
        else:
            Path(name).write_bytes(content)
        with pytest.raises(DepthwiseError, match="depthwise embed"):
            read(Path(name))


def test_nearest_goes_through_blocks_as_through_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    names = [f"{number}.png" for number in range(50)]
    for suffix in ("npy", "parquet"):
        file = tmp_path / f"e.{suffix}"
        write(file, names, iter(rows))
        whole = nearest(read(file), names[:3], rows[:3], 5)
        monkeypatch.setattr("depthwise.embeddings.files.BLOCK", 7)
        write(file, names, iter(rows))
        assert len(list(read(file).blocks())) == 8
        parts = nearest(read(file), names[:3], rows[:3], 5)
        assert [[each.name for each in found] for found in parts] == [
            [each.name for each in found] for found in whole
        ]
        monkeypatch.undo()
        assert write(file, ["a", "b"], [BadImage("image 0", "gone"), rows[0]]) == [BadImage("a", "gone")]


def test_overlays_are_one_a_picture_and_replace_nothing(
    tiny_bundle: Path, embedded: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (embedded / "pics" / "sub").mkdir()
    Image.new("RGB", (70, 30)).save(embedded / "pics" / "sub" / "b.png")
    assert run(["predict", str(tiny_bundle), "pics", "--cam", "cams", "--json"]) == 1
    images = json.loads(capfd.readouterr().out)["images"]
    expected = ["1-a_red_.png", "2-b.png", "4-b.png", "5-c.png", "6-d.png"]  # 3 is broken
    assert sorted(each.name for each in Path("cams").iterdir()) == expected
    for each, file in zip([image for image in images if "error" not in image], expected, strict=True):
        with Image.open(each["image"]) as picture, Image.open(Path("cams") / file) as overlay:
            assert (overlay.size, overlay.mode) == (picture.size, "RGB")
    assert run(["predict", str(tiny_bundle), "pics", "--cam", "cams"]) == 1
    assert "cams holds files already: choose another folder or add --force" in capfd.readouterr().err
    assert run(["predict", str(tiny_bundle), "pics", "--cam", "cams", "--force"]) == 1
