"""Parts of JPEG files: the pixels of the whole, whatever the file is, and nothing at all of one that is damaged."""

import io
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from depthwise.data import Augment, Preprocess, jpeg, region, transform
from depthwise.data.cropping import open_jpeg
from depthwise.data.image import DEFAULT, Decoding, File, UnreadableImageError, decode_bytes
from depthwise.data.region import Box

PHOTOGRAPH = Image.fromarray(load_sample_images().images[0])
PREPROCESS = Preprocess((64, 64), 3)


@pytest.fixture(params=["native", "simplejpeg"], autouse=True)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both that decode parts; the native one is built wherever the tests' Debian packages are."""
    if request.param == "native":
        assert region.library is not None, (
            "native/jpeg was not built: install libjpeg-dev and the package again"
        )
    else:
        monkeypatch.setattr(region, "library", None)
    return request.param


def as_jpeg(picture: Image.Image, **settings: object) -> bytes:
    with tempfile.TemporaryFile() as file:  # Pillow's encoder cannot write some small pictures into memory
        picture.save(file, "JPEG", **settings)
        file.seek(0)
        return file.read()


KINDS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "4:1:1": {"subsampling": "4:1:1"},
    "restarts": {"restart_marker_blocks": 3},
    "progressive": {"progressive": True},
    "quality-100": {"quality": 100},
    "grey": {},
}


def sizes() -> Iterator[tuple[int, int]]:
    yield from [(1, 1), (16, 16), (17, 7), (61, 130), (200, 163)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_has_the_pixels_of_the_whole(kind: str) -> None:
    rng = random.Random(kind)
    for width, height in sizes():
        picture = PHOTOGRAPH.resize((width, height)).convert("L" if kind == "grey" else "RGB")
        data = as_jpeg(picture, **KINDS[kind])
        frame = jpeg.read_frame(data)
        assert frame is not None
        for eighths in region.EIGHTHS:
            whole = jpeg.decode_scaled(data, frame, eighths)
            assert whole is not None
            assert whole.shape[:2] == (-(-height * eighths // 8), -(-width * eighths // 8))
            if eighths == 8:
                np.testing.assert_array_equal(whole, jpeg.decode(data, frame)[0])
            for _ in range(6):
                rows, columns = (rng.randint(1, side) for side in whole.shape[:2])
                top, left = rng.randint(0, whole.shape[0] - rows), rng.randint(0, whole.shape[1] - columns)
                part = region.decode(data, frame, eighths, Box(top, left, rows, columns))
                assert part is not None
                np.testing.assert_array_equal(part, whole[top : top + rows, left : left + columns])


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_rectangle_between_pixels_is_resized_as_pillow_does(cubic: bool, channels: int) -> None:
    image = np.array(PHOTOGRAPH.resize((97, 83)))[..., :channels].copy()
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    kind = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    for box, size in (
        (Box(0, 0, 83, 97), (64, 31)),
        (Box(0.375, 0.5, 82.25, 96.125), (40, 90)),
        (Box(0.5, 0.25, 82.5, 96.75), (130, 7)),
    ):
        corners = (box.left, box.top, box.left + box.width, box.top + box.height)
        want = np.array(picture.resize(size[::-1], kind, corners)).reshape(*size, channels)
        got = region.resize(image, box, size, cubic=cubic)
        assert np.abs(got.astype(int) - want).max() <= 2  # Pillow rounds between its two passes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_cut_lies_where_it_is_seen(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = File(as_jpeg(PHOTOGRAPH.resize((90, 61)), exif=exif), 3, "photo", DEFAULT)
    picture, whole = open_jpeg(file), decode_bytes(*file)
    assert picture is not None
    assert picture.size == whole.shape[1:]
    found = picture.cut(Box(7, 20, 31, 33), (40, 40), "bilinear")
    assert found is not None
    assert not found[1]
    assert torch.equal(found[0], whole[:, 7:38, 20:53])


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_at_a_scale_are_near_those_of_the_whole_image(
    orientation: int, interpolation: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = as_jpeg(PHOTOGRAPH, quality=90, exif=exif)
    file = File(data, channels, "photo", DEFAULT)
    preprocess = Preprocess((64, 48), channels, interpolation=interpolation)
    for seed in range(12):
        torch.manual_seed(seed)
        got = Augment().image(file, preprocess)
        state = torch.default_generator.get_state()
        with monkeypatch.context() as patch:
            patch.setattr(transform, "open_jpeg", lambda file: None)
            torch.manual_seed(seed)
            want = Augment().image(file, preprocess)
        assert got.shape == want.shape == (channels, 64, 48)
        assert torch.equal(torch.default_generator.get_state(), state)  # the same draws
        off = (got.int() - want.int()).abs().float()
        assert off.mean() < 3
        assert off.quantile(0.999) < 32


def test_a_crop_at_full_scale_is_the_same_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    file = File(as_jpeg(PHOTOGRAPH.resize((120, 110))), 3, "photo", DEFAULT)
    for interpolation in ("bilinear", "bicubic", "nearest"):
        preprocess = Preprocess((100, 100), 3, interpolation=interpolation)
        cuts = []
        for whole in (False, True):
            with monkeypatch.context() as patch:
                if whole:
                    patch.setattr(transform, "open_jpeg", lambda file: None)
                torch.manual_seed(3)
                cuts.append(torch.stack([Augment().image(file, preprocess) for _ in range(8)]))
        assert torch.equal(*cuts)


def test_what_is_no_whole_grey_or_colour_jpeg_is_left_to_the_judge() -> None:
    data = as_jpeg(PHOTOGRAPH.resize((80, 60)))
    png = io.BytesIO()
    PHOTOGRAPH.save(png, "PNG")
    cmyk = as_jpeg(PHOTOGRAPH.convert("CMYK").resize((80, 60)))
    for other in (png.getvalue(), cmyk, data[: len(data) // 2], b"", b"\xff\xd8\xff"):
        assert open_jpeg(File(other, 3, "photo", DEFAULT)) is None
    with pytest.raises(UnreadableImageError, match="over the limit"):
        open_jpeg(File(data, 3, "photo", Decoding(max_pixels=100)))


def test_a_damaged_file_is_judged_as_a_whole_and_draws_nothing() -> None:
    data = bytearray(as_jpeg(PHOTOGRAPH.resize((200, 150))))
    data[len(data) // 3 : len(data) // 3 + 40] = b"\xff" * 40
    file = File(bytes(data), 3, "photo", DEFAULT)
    torch.manual_seed(0)
    state = torch.default_generator.get_state()
    with pytest.raises(UnreadableImageError, match="photo: truncated or damaged"):
        Augment(scale=(0.99, 1.0)).image(file, PREPROCESS)
    assert torch.equal(torch.default_generator.get_state(), state)
    kept = Augment(scale=(0.99, 1.0)).image(
        file._replace(decoding=Decoding(allow_truncated=True)), PREPROCESS
    )
    assert kept.shape == (3, 64, 64)


def test_files_with_flipped_bytes_give_pixels_or_nothing(fuzz_seed: int) -> None:
    rng = random.Random(fuzz_seed)
    files = [
        as_jpeg(PHOTOGRAPH.resize((90, 70)).convert("L" if kind == "grey" else "RGB"), **settings)
        for kind, settings in KINDS.items()
    ]
    found = {True: 0, False: 0}
    for _ in range(600):
        data = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(2, len(data))] = rng.choice((0, 0xFF, rng.randrange(256)))
        if rng.random() < 0.2:
            del data[rng.randrange(2, len(data)) :]
        frame = jpeg.read_frame(bytes(data))
        if frame is None or frame.components not in (1, 3) or frame.width * frame.height > 10**6:
            continue
        eighths = rng.choice(region.EIGHTHS)
        height, width = (-(-side * eighths // 8) for side in (frame.height, frame.width))
        if not (height and width):
            continue
        top, left = rng.randrange(height), rng.randrange(width)
        box = Box(top, left, rng.randint(1, height - top), rng.randint(1, width - left))
        part = region.decode(bytes(data), frame, eighths, box)
        found[part is not None] += 1
        assert part is None or part.shape[:2] == (box.height, box.width)
    assert min(found.values()) > 20


def test_what_decodes_is_said(decoder: str) -> None:
    starts = {"native": "regions by libjpeg-turbo ", "simplejpeg": "whole files by simplejpeg "}
    assert region.status().startswith(starts[decoder])


def test_the_structs_are_those_of_the_library(
    decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTHWISE_KERNELS", str(tmp_path))
    assert region._load() is None  # nothing was built there
    (tmp_path / "_jpeg.so").write_bytes(b"no library")
    assert region._load() is None
