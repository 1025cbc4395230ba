"""Copies of a picture: hash, pairs and groups, each against what is dumb and clear; and real resaved files."""

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from depthwise.data.dataset import ArraySplit, FileSplit
from depthwise.suspects.copies import MOST_DIFFERENT, SIDE, Small, alike, close_pairs, hashed, made_small


def test_the_hash_is_the_sign_of_the_lowest_frequencies() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE)).astype(np.float32)
    for image, found in zip(images, hashed(images).tolist(), strict=True):
        lowest = dctn(image.astype(np.float64), norm=None)[:8, :8].reshape(-1)[1:]
        # The transform here is unscaled; what scales all frequencies alike moves none above the median.
        bits = lowest > np.median(lowest)
        assert found == sum(1 << place for place, bit in enumerate(bits) if bit)


def test_every_close_pair_is_found(fuzz_seed: int) -> None:
    random = np.random.default_rng(fuzz_seed)
    seeds = random.integers(0, 2**63, 60, dtype=np.uint64)
    near = [
        seed ^ np.bitwise_or.reduce(np.uint64(1) << random.integers(0, 64, size, dtype=np.uint64))
        for seed in seeds
        for size in range(1, 7)
    ]
    hashes = np.unique(np.append(seeds, np.array(near, np.uint64)))
    first, second = close_pairs(hashes)
    expected = {
        (a, b)
        for a, b in combinations(range(len(hashes)), 2)
        if int(hashes[a] ^ hashes[b]).bit_count() <= MOST_DIFFERENT
    }
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected
    assert len(expected) > 100


def test_many_hashes_that_share_half_of_their_bits_end_in_time() -> None:
    crowded = np.arange(10_000, dtype=np.uint64) << np.uint64(40)
    first, second = close_pairs(crowded)
    assert (np.bitwise_xor(crowded[first], crowded[second]) != 0).all()


def photo(seed: int, side: int = 64) -> NDArray[np.uint8]:
    """Smooth colours, as photographs are to a hash."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def resaved(pixels: NDArray[np.uint8], kind: str) -> Image.Image:
    image = Image.fromarray(pixels)
    if kind == "jpeg":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=60)
        return Image.open(file).convert("RGB")
    if kind == "smaller":
        return image.resize((40, 40), Image.Resampling.LANCZOS)
    return image.point([min(255, round(value * 0.9) + 10) for value in range(256)] * 3)


def small(paths: list[Path], workers: int = 0) -> Small:
    split = FileSplit([str(path) for path in paths], torch.zeros(len(paths), dtype=torch.int64), 3)
    return made_small(
        {"train": split}, 3, 65535, paths[0].parent, workers=workers, progress=lambda done, total: None
    )


def test_what_was_resaved_resized_or_made_brighter_is_one_picture(tmp_path: Path) -> None:
    paths = []
    for number in range(20):
        for kind in ("jpeg", "smaller", "brighter"):
            paths.append(tmp_path / f"{number} {kind}.png")
            resaved(photo(number), kind).save(paths[-1])
    for number in range(20, 60):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(photo(number)).save(paths[-1])
    paths += [tmp_path / "white.png", tmp_path / "grey.png", tmp_path / "broken.png"]
    Image.new("RGB", (30, 30), "white").save(paths[-3])
    Image.new("RGB", (30, 30), "grey").save(paths[-2])
    paths[-1].write_bytes(b"no picture")
    made = small(paths, workers=1)
    found = alike(made)
    names = [{paths[k].name.split()[0] for k in members} for members, _ in found.groups]
    assert all(len(name) == 1 for name in names)  # of one picture each
    # A hash of a copy may differ in more bits than are looked for: two of three are found nearly always.
    assert len(set().union(*names)) >= 19
    assert sum(len(members) for members, _ in found.groups) >= 50
    assert all(likeness > 0.99 for _, likeness in found.groups)
    assert [paths[k].name for k in found.blank] == ["white.png", "grey.png"]
    for members, _ in found.groups:
        assert len(set(found.together[members])) == 1
    assert found.together[-3] == found.together[-2]
    assert len(set(found.together[60:])) == 40 + 1 + 1
    assert made.deviation[-1] == -1
    assert [*tmp_path.glob("*.tmp")] == []


def test_colours_tell_pictures_apart(tmp_path: Path) -> None:
    grey = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)) * 120
    red, blue = (torch.zeros(3, 16, 16) for _ in range(2))
    red[0], blue[2] = grey[0] + 100, grey[0] + 100
    images = torch.stack([red, blue]).to(torch.uint8)
    split = ArraySplit(images, torch.zeros(2, dtype=torch.int64))
    made = made_small({"all": split}, 3, 65535, tmp_path, workers=0, progress=lambda *_: None)
    assert alike(made).groups == ()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_are_no_special_case(count: int, tmp_path: Path) -> None:
    images = torch.from_numpy(np.stack([photo(7)] * max(count, 1))).permute(0, 3, 1, 2)[:count]
    split = ArraySplit(images, torch.zeros(count, dtype=torch.int64))
    parts = {"train": split} if count else {}
    made = made_small(parts, 3, 65535, tmp_path, workers=0, progress=lambda *_: None)
    assert [members.tolist() for members, _ in alike(made).groups] == ([[0, 1]] if count == 2 else [])
