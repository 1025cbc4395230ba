"""Shards that lie elsewhere: fetched whole when they are first read, kept within bounds, compared on the way."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import depthwise
from depthwise.data import Batches, Preprocess, TooManyUnreadableError, open_dataset
from depthwise.data.check import check
from depthwise.data.dataset import all_targets
from depthwise.data.image import UnreadableImageError
from depthwise.data.pack import pack
from depthwise.data.sources import blocks, remote
from depthwise.data.transform import Augment
from depthwise.errors import DepthwiseError, UsageError
from depthwise.places import absolute, is_uri


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in 15 shards or so; not to be changed."""
    out = tmp_path_factory.mktemp("packed") / "shards"
    pack(open_dataset("digits"), out, shard_bytes=15_000)
    return out


@pytest.fixture
def place(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that is reached by file://, with nothing of it kept yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    blocks._opened.cache_clear()
    return Path(shutil.copytree(packed, tmp_path / "elsewhere"))


def kept(place: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in remote.kept_in(place.as_uri()).glob("*/*.arrow")}


def test_it_opens_by_its_manifest_and_fetches_what_is_read(place: Path) -> None:
    dataset, here = open_dataset(place.as_uri()), open_dataset(place)
    assert dataset.fingerprint == here.fingerprint
    assert dataset.name == "elsewhere"
    split = dataset.splits["train"]
    assert split.blocks == here.splits["train"].blocks
    assert kept(place) == {}
    assert torch.equal(split.image(0), here.splits["train"].image(0))
    assert list(kept(place)) == ["train-00000.arrow"]
    assert torch.equal(all_targets(split), all_targets(here.splits["train"]))
    assert len(kept(place)) == len(split.blocks)


def test_batches_are_those_of_the_folder_however_many_read(place: Path) -> None:
    made = []
    for spec, workers in ((place, 0), (place.as_uri(), 2)):
        batches = Batches(
            open_dataset(spec).splits["train"],
            Preprocess((8, 8), channels=1),
            batch_size=100,
            augment=Augment(crop="none"),
            workers=workers,
        )
        made.append([(batch.images, batch.indices) for batch in batches.epoch(0)])
        assert batches.bad == []
        batches.close()
    for (images, indices), (again, same) in zip(*made, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(indices, same)


def test_what_is_kept_stays_within_bounds(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 3 * max(path.stat().st_size for path in place.glob("*.arrow"))
    monkeypatch.setenv("DEPTHWISE_SHARD_CACHE", str(most))
    split = open_dataset(place.as_uri()).splits["train"]
    for index in range(0, len(split), 10):
        split.image(index)
        assert sum(kept(place).values()) <= most
    assert sorted(kept(place))[-1] == f"train-{len(split.blocks) - 1:05}.arrow"
    monkeypatch.setenv("DEPTHWISE_SHARD_CACHE", "much")
    with pytest.raises(UsageError, match=r"DEPTHWISE_SHARD_CACHE 'much' is no number of bytes"):
        remote.most_bytes()


def test_one_fetches_and_the_others_wait(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    copy = remote._copy
    monkeypatch.setattr(remote, "_copy", lambda *a: copied.append(a[1]) or copy(*a))
    shards = open_dataset(place.as_uri()).splits["train"].source
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: len(shards.open(0)), range(8)))
    assert len(set(found)) == 1
    assert copied == ["train-00000.arrow"]


def test_what_is_damaged_there_is_named_and_not_kept(place: Path) -> None:
    path = place / "train-00001.arrow"
    content = bytearray(path.read_bytes())
    content[-2000] ^= 1
    path.write_bytes(content)
    split = open_dataset(place.as_uri()).splits["train"]  # its size is as it was
    first = split.blocks[0]
    with pytest.raises(UnreadableImageError, match=r"train-00001\.arrow: it cannot be fetched .*SHA-256"):
        split.image(first)
    assert "train-00001.arrow" not in kept(place)
    assert [image.path for image in check(place.as_uri()).unreadable] == ["train-00001.arrow"]
    path.write_bytes(content[:-1])
    with pytest.raises(
        TooManyUnreadableError, match=r"images in file:///.*train-00001\.arrow.*data check file:///"
    ):
        open_dataset(place.as_uri())
    path.unlink()
    assert len(open_dataset(place.as_uri(), max_bad=1.0).splits["train"]) == len(split) - split.blocks[1]


def test_another_set_at_the_same_place_is_another(place: Path) -> None:
    before = open_dataset(place.as_uri())
    before.splits["train"].image(0)
    pack(open_dataset("digits", channels=3), place, shard_bytes=30_000, force=True)
    blocks._opened.cache_clear()
    again = open_dataset(place.as_uri())
    assert again.channels == 3
    assert again.splits["train"].image(0).shape == (3, 8, 8)
    assert open_dataset(place.as_uri()).fingerprint == open_dataset(place).fingerprint


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("file:///nowhere/at/all", r"has no manifest\.json: sets that lie elsewhere"),
        ("nobody://bucket/set", r"cannot be read \(.*give file://, s3://"),
    ],
)
def test_what_is_not_there_is_said(spec: str, said: str) -> None:
    assert is_uri(spec)
    assert absolute(spec) == spec
    with pytest.raises(DepthwiseError, match=said):
        open_dataset(spec)


def test_it_is_trained_on_and_gone_on_with(place: Path, tmp_path: Path) -> None:
    run = depthwise.train(
        place.as_uri(),
        out=tmp_path / "run",
        model="mobilenet_v1",
        width=0.1,
        size=16,
        epochs=0.1,
        schedule="constant",
        batch_size=32,
        workers=0,
        precision="float32",
    )
    os.rename(remote.kept_in(place.as_uri()), tmp_path / "gone")
    assert run.resume(epochs=0.2).result.step > run.result.step
