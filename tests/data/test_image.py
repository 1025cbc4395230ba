"""Every way in which people store an image, decoded to pixels that were computed without the decoder."""

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn.datasets import load_sample_image

from depthwise.data.image import MAX_PIXELS, Decoding, UnreadableImageError, decode, examine, to_channels
from depthwise.errors import DepthwiseError, UsageError
from depthwise.words import spoken

HEIGHT, WIDTH = 7, 5


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


GREY = noise(1, HEIGHT, WIDTH)
RGB = noise(2, HEIGHT, WIDTH, 3)
RGBA = noise(3, HEIGHT, WIDTH, 4)
DEEP = np.random.default_rng(4).integers(0, 65536, (HEIGHT, WIDTH), np.uint16)
DEEP_RGB = np.random.default_rng(5).integers(0, 65536, (HEIGHT, WIDTH, 3), np.uint16)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:] / 255
    return np.round(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def pixels(image: torch.Tensor) -> np.ndarray:
    """As [H, W, C], or [H, W] if grey."""
    array = image.permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[2] == 1 else array


def png(depth: int, colour: int, rows: list[bytes], width: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by the book (ISO 15948), for what Pillow reads but does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    extra = b"".join(chunk(kind, content) for kind, content in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + extra + body + chunk(b"IEND", b"")


def palette_picture() -> tuple[Image.Image, np.ndarray]:
    colours, places = noise(6, 256, 3), noise(7, HEIGHT, WIDTH)
    picture = Image.fromarray(places, "P")
    picture.putpalette(colours.tobytes())
    return picture, colours[places]


def palette_with_transparency() -> tuple[bytes, np.ndarray]:
    picture, colours = palette_picture()
    alpha = noise(8, 256)
    rgba = np.concatenate([colours, alpha[np.array(picture)][..., None]], axis=2)
    return encoded(picture, "PNG", transparency=alpha.tobytes()), on_white(rgba)


def grey_with_key() -> tuple[bytes, np.ndarray]:
    """Grey 8-bit PNG in which the one level of the first pixel is transparent."""
    key = int(GREY[0, 0])
    data = png(8, 0, [row.tobytes() for row in GREY], WIDTH, (b"tRNS", struct.pack(">H", key)))
    return data, np.where(key == GREY, 255, GREY).astype(np.uint8)


def animated(kind: str, **options: object) -> bytes:
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    return encoded(first, kind, save_all=True, append_images=[second], **options)


def cmyk_jpeg() -> tuple[bytes, np.ndarray]:
    """A flat colour, which JPEG keeps to a level or two. Pillow writes it inverted and says so, as Adobe does."""
    ink = np.array([30, 120, 200, 40], np.uint8)
    data = encoded(Image.fromarray(np.tile(ink, (16, 16, 1)), "CMYK"), "JPEG", quality=100)
    rgb = (255.0 - ink[:3]) * (255 - ink[3]) / 255
    return data, np.tile(np.round(rgb).astype(np.uint8), (16, 16, 1))


def gif_colours(data: bytes) -> np.ndarray:
    """A GIF has 256 colours: what its first frame's palette made of the picture."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


BIT = GREY > 127
BIT_ROWS = [np.packbits(row).tobytes() for row in BIT]
LA = np.stack([GREY, noise(9, HEIGHT, WIDTH)], axis=2)

LOSSLESS: dict[str, tuple[bytes, np.ndarray]] = {
    "grey png": (encoded(Image.fromarray(GREY), "PNG"), GREY),
    "rgb png": (encoded(Image.fromarray(RGB), "PNG"), RGB),
    "rgba png": (encoded(Image.fromarray(RGBA), "PNG"), on_white(RGBA)),
    "grey and alpha png": (
        encoded(Image.fromarray(LA, "LA"), "PNG"),
        on_white(np.concatenate([np.repeat(LA[..., :1], 3, axis=2), LA[..., 1:]], axis=2))[..., 0],
    ),
    "palette png": (encoded(palette_picture()[0], "PNG"), palette_picture()[1]),
    "palette png with transparency": palette_with_transparency(),
    "grey png with a transparent level": grey_with_key(),
    "1-bit png": (png(1, 0, BIT_ROWS, WIDTH), (BIT * 255).astype(np.uint8)),
    "16-bit grey png": (encoded(Image.fromarray(DEEP), "PNG"), (DEEP // 256).astype(np.uint8)),
    "16-bit rgb png": (
        png(16, 2, [row.astype(">u2").tobytes() for row in DEEP_RGB], WIDTH),
        (DEEP_RGB // 256).astype(np.uint8),
    ),
    "16-bit tiff": (encoded(Image.fromarray(DEEP), "TIFF"), (DEEP // 256).astype(np.uint8)),
    "16-bit big-endian tiff": (
        encoded(Image.frombytes("I;16B", (WIDTH, HEIGHT), DEEP.astype(">u2").tobytes()), "TIFF"),
        (DEEP // 256).astype(np.uint8),
    ),
    "tiff": (encoded(Image.fromarray(RGB), "TIFF"), RGB),
    "compressed tiff": (encoded(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"), RGB),
    "bmp": (encoded(Image.fromarray(RGB), "BMP"), RGB),
    "ppm": (encoded(Image.fromarray(RGB), "PPM"), RGB),
    "webp": (encoded(Image.fromarray(RGB), "WEBP", lossless=True), RGB),
    "webp with alpha": (encoded(Image.fromarray(RGBA), "WEBP", lossless=True, exact=True), on_white(RGBA)),
    "animated webp": (animated("WEBP", lossless=True), RGB),
    "animated png": (animated("PNG"), RGB),
    "animated gif": (animated("GIF"), gif_colours(animated("GIF"))),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_decode_to_exactly_their_pixels(name: str) -> None:
    data, expected = LOSSLESS[name]
    assert np.array_equal(pixels(decode(data)), expected)


@pytest.mark.parametrize("name", LOSSLESS)
def test_channels_are_what_is_asked_for(name: str) -> None:
    data, expected = LOSSLESS[name]
    colour = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
    assert np.array_equal(pixels(decode(data, 3)), colour)
    grey = np.array(Image.fromarray(expected).convert("L"))
    assert np.array_equal(pixels(decode(data, 1)), grey)
    assert decode(data, 4).shape == (4, HEIGHT, WIDTH)


def test_four_channels_keep_transparency_and_opaque_images_get_it() -> None:
    assert np.array_equal(pixels(decode(LOSSLESS["rgba png"][0], 4)), RGBA)
    opaque = np.concatenate([RGB, np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=2)
    assert np.array_equal(pixels(decode(LOSSLESS["rgb png"][0], 4)), opaque)


def test_cmyk_jpeg() -> None:
    data, expected = cmyk_jpeg()
    assert np.abs(pixels(decode(data)).astype(int) - expected).max() <= 3


def test_cmyk_jpeg_is_taken_for_inverted_without_adobes_marker_too() -> None:
    """As every program does that reads them; the marker's other meaning, YCCK, is in the header besides."""
    data, expected = cmyk_jpeg()
    at = data.index(b"\xff\xee")
    assert data[at + 4 : at + 9] == b"Adobe"
    unmarked = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]
    assert np.abs(pixels(decode(unmarked)).astype(int) - expected).max() <= 3


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}, {"optimize": True}],
    ids=["plain", "progressive", "4:4:4", "coarse", "optimised"],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_fast_jpeg_path_gives_pillows_pixels(options: dict[str, object], mode: str) -> None:
    photograph = Image.fromarray(load_sample_image("china.jpg")).resize((161, 107)).convert(mode)
    data = encoded(photograph, "JPEG", **options)
    assert np.array_equal(pixels(decode(data)), np.array(Image.open(io.BytesIO(data))))


def test_jpeg_is_read_alike_by_pillow_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(RGB), "JPEG")
    expected = decode(data)
    monkeypatch.setattr("depthwise.data.jpeg.simplejpeg", None)
    assert torch.equal(decode(data), expected)


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    plain = pixels(decode(encoded(Image.fromarray(RGB), kind, **options)))
    turned = pixels(decode(encoded(Image.fromarray(RGB), kind, exif=exif, **options)))
    assert np.array_equal(turned, UPRIGHT[orientation](plain))


def test_a_broken_exif_block_is_no_reason_to_refuse() -> None:
    data = encoded(Image.fromarray(RGB), "JPEG")
    block = b"Exif\0\0II*\0\xff\xff\xff\xff"
    broken = data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    assert torch.equal(decode(broken), decode(data))


@settings(deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]))),
    st.sampled_from([None, 1, 3, 4]),
)
def test_file_array_tensor_and_pillow_image_are_one(array: np.ndarray, channels: int | None) -> None:
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    expected = decode(array, channels)
    assert expected.dtype == torch.uint8
    assert torch.equal(decode(encoded(picture, "PNG"), channels), expected)
    assert torch.equal(decode(picture, channels), expected)
    assert torch.equal(decode(torch.from_numpy(array).permute(2, 0, 1), channels), expected)
    if array.shape[2] == 4 and channels == 3:
        assert np.array_equal(expected.permute(1, 2, 0).numpy(), on_white(array))


def test_views_of_arrays_are_accepted() -> None:
    assert np.array_equal(pixels(decode(RGB[:, ::-1])), RGB[:, ::-1])
    frozen = RGB.copy()
    frozen.flags.writeable = False
    assert np.array_equal(pixels(decode(frozen)), RGB)
    assert np.array_equal(pixels(decode(DEEP)), DEEP // 256)


def test_a_batch_of_images_changes_channels_as_one_does() -> None:
    batch = torch.from_numpy(noise(0, 2, 3, HEIGHT, WIDTH))
    assert torch.equal(to_channels(batch, 1), torch.stack([to_channels(image, 1) for image in batch]))


def test_odd_names(tmp_path: Path) -> None:
    for name in ("a b.png", "neu\nline.png", "снег ❄.png", "no suffix", os.fsdecode(b"\xff\xfe.png")):
        path = tmp_path / name
        path.write_bytes(LOSSLESS["rgb png"][0])
        assert np.array_equal(pixels(decode(path)), RGB)
        assert np.array_equal(pixels(decode(str(path))), RGB)


def jpeg_of_size(height: int, width: int) -> bytes:
    """A JPEG whose header claims a size."""
    data = bytearray(encoded(Image.fromarray(RGB), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


FULL_JPEG = encoded(Image.fromarray(load_sample_image("china.jpg")), "JPEG")
FLOAT_TIFF = encoded(Image.fromarray(np.linspace(0, 1, 35, dtype=np.float32).reshape(HEIGHT, WIDTH)), "TIFF")
DEEPER_TIFF = encoded(Image.fromarray(np.full((HEIGHT, WIDTH), 70000, np.int32)), "TIFF")

UNREADABLE = {
    "empty": (b"", "empty"),
    "text": (b"These are not the pixels you are looking for.\n", "not an image"),
    "truncated jpeg": (FULL_JPEG[: len(FULL_JPEG) // 2], "truncated"),
    "jpeg without its last bytes": (FULL_JPEG[:-3], "truncated"),
    "half a jpeg with an end": (FULL_JPEG[: len(FULL_JPEG) // 2] + b"\xff\xd9", "truncated"),
    "only a jpeg's start": (FULL_JPEG[:100], "."),
    "truncated png": (LOSSLESS["rgb png"][0][:-40], "."),
    "png bomb": (png(8, 2, [b""] * 30000, 30000), "bomb"),
    "jpeg bomb": (jpeg_of_size(30000, 30000), "bomb"),
    "float tiff": (FLOAT_TIFF, "32-bit float"),
    "32-bit tiff": (DEEPER_TIFF, "32-bit integer"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_decoded_is_told_with_its_name_and_reason(name: str, tmp_path: Path) -> None:
    data, reason = UNREADABLE[name]
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError, match=reason) as error:
        decode(path)
    assert str(error.value) == spoken(f"{path}: {error.value.reason}")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_half_a_file_is_no_image(kind: str, part: float) -> None:
    data = encoded(Image.fromarray(noise(0, 40, 50, 3)), kind)
    with pytest.raises(UnreadableImageError):
        decode(data[: int(len(data) * part)])


@settings(deadline=None)
@given(st.binary(max_size=60), st.sampled_from(sorted(LOSSLESS)), st.integers(0, 2000))
def test_damage_is_survived_or_told(noise_bytes: bytes, name: str, at: int) -> None:
    data = LOSSLESS[name][0]
    at %= len(data)
    with contextlib.suppress(UnreadableImageError):
        assert decode(data[:at] + noise_bytes + data[at + len(noise_bytes) :]).dtype == torch.uint8


def test_the_limit_is_pillows_own() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert 2 * Image.MAX_IMAGE_PIXELS == MAX_PIXELS


def test_what_cannot_be_opened_is_told_with_the_systems_reason(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="No such file"):
        decode(tmp_path / "missing.png")
    with pytest.raises(UnreadableImageError, match="only regular files are read"):
        decode(tmp_path)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UnreadableImageError, match="No such file"):
        decode(tmp_path / "dangling.png")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "int is no image"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\)"),
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"\(8, 8, 3\)"),
        (torch.zeros(3, 8, 8), "float32"),
    ],
)
def test_what_is_no_image_is_refused_with_the_rule(source: object, message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        decode(source)  # type: ignore[arg-type]


def test_channels_are_1_3_or_4() -> None:
    with pytest.raises(DepthwiseError, match="2 channels"):
        decode(RGB, 2)


PNG = encoded(Image.fromarray(noise(0, 40, 50, 3)), "PNG")
JPEGS = {
    "baseline": FULL_JPEG,
    "progressive": encoded(Image.fromarray(load_sample_image("china.jpg")), "JPEG", progressive=True),
    "restarts": encoded(Image.fromarray(RGB).resize((90, 70)), "JPEG", restart_marker_blocks=2),
    "grey": encoded(Image.fromarray(load_sample_image("china.jpg")).convert("L"), "JPEG"),
    "cmyk": encoded(Image.fromarray(load_sample_image("china.jpg")).convert("CMYK"), "JPEG"),
}
TAKEN = Decoding(allow_truncated=True)


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_lacks_its_end_marker_alone_lacks_no_pixel(name: str) -> None:
    whole = JPEGS[name]
    for data in (whole[:-1], whole[:-2]):
        assert torch.equal(decode(data), decode(whole))


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"], ids=["no end", "end"])
def test_a_jpeg_that_lacks_more_is_named_and_read_only_if_allowed(
    name: str, end: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = JPEGS[name]
    for kept in (-3, -40, len(whole) * 9 // 10, len(whole) // 2):
        data = whole[:kept] + end
        with pytest.raises(UnreadableImageError, match=r"pixels are missing .* allow_truncated=True"):
            decode(data)
        assert decode(data, decoding=TAKEN).shape == decode(whole).shape
    half = decode(whole[: len(whole) // 2] + end, decoding=TAKEN)
    if name in ("baseline", "grey"):
        rows = half.shape[1] // 3
        assert torch.equal(half[:, :rows], decode(whole)[:, :rows])
    assert capfd.readouterr().err == ""


def test_a_progressive_jpeg_cut_between_two_scans_lacks_pixels() -> None:
    data = JPEGS["progressive"]
    scan = data.rindex(b"\xff\xda")
    tables = data.rfind(b"\xff\xc4", 0, scan)
    for at in (scan, tables):
        with pytest.raises(UnreadableImageError, match="pixels are missing"):
            decode(data[:at])


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_anywhere_is_whole_or_named(progressive: bool) -> None:
    picture = Image.fromarray(load_sample_image("china.jpg")).resize((40, 30))
    whole = encoded(picture, "JPEG", progressive=progressive)
    expected = decode(whole)
    for kept in range(whole.index(b"\xff\xda"), len(whole)):
        try:
            seen = decode(whole[:kept])
        except UnreadableImageError:
            continue
        assert torch.equal(seen, expected), f"the first {kept} of {len(whole)} bytes"


def test_a_harmless_oddity_does_not_hide_that_a_jpeg_is_cut() -> None:
    picture = Image.fromarray(load_sample_image("china.jpg")).resize((40, 30))
    whole = encoded(picture, "JPEG", progressive=True)
    tables = whole.index(b"\xff\xc4", whole.index(b"\xff\xda"))  # of the second scan
    odd = whole[:tables] + bytes(7) + whole[tables:]
    assert torch.equal(decode(odd), decode(whole))
    with pytest.raises(UnreadableImageError, match="pixels are missing"):
        decode(odd[: len(odd) * 2 // 3])


def with_tag(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of one of its numbers."""
    fields = (struct.pack("<HHI", tag, kind, 1) for kind in (3, 4))
    at = next(data.index(field) for field in fields if field in data) + 8
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}], ids=["raw", "lzw"])
@pytest.mark.parametrize("tag", [256, 257], ids=["width", "height"])
def test_a_tiff_whose_strips_do_not_cover_it_lacks_pixels(tag: int, options: dict[str, str]) -> None:
    whole = encoded(Image.fromarray(noise(0, 40, 50, 3)), "TIFF", **options)
    data = with_tag(whole, tag, 400)
    with pytest.raises(UnreadableImageError, match="allow_truncated=True"):
        decode(data)
    seen = decode(data, decoding=TAKEN)
    assert seen.shape == ((3, 40, 400) if tag == 256 else (3, 400, 50))
    if tag == 257:
        assert torch.equal(seen[:, :40], decode(whole))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "PPM", "TIFF"])
def test_other_formats_follow_the_same_rule(kind: str) -> None:
    whole = encoded(Image.fromarray(noise(0, 40, 50, 3)), kind)
    data = whole[: len(whole) * 3 // 5] if kind != "TIFF" else whole[:-500]
    with pytest.raises(UnreadableImageError, match="allow_truncated=True"):
        decode(data)
    seen, expected = decode(data, decoding=TAKEN), decode(whole)
    assert seen.shape == expected.shape
    if kind not in ("BMP", "GIF"):  # whose first rows are the lowest, or not one after the other
        assert torch.equal(seen[:, :15], expected[:, :15])
    if kind == "PNG":
        assert torch.equal(decode(whole[:-12]), expected)  # without IEND


# From 16 bits to 8 by a white level: value, white level, result.
WHITES = [
    (0, 4095, 0),
    (15, 4095, 0),
    (16, 4095, 1),
    (4095, 4095, 255),
    (60000, 4095, 255),
    (2048, 4095, 128),
]
WHITES += [
    (255, 65535, 0),
    (256, 65535, 1),
    (65535, 65535, 255),
    (100, 255, 100),
    (256, 255, 255),
    (1000, 1500, 170),
]


@pytest.mark.parametrize(("value", "white", "expected"), WHITES)
def test_a_white_level_scales_16_bits_and_cuts_off_above(value: int, white: int, expected: int) -> None:
    assert expected == min(value, white) * 256 // (white + 1)
    grey = np.full((HEIGHT, WIDTH), value, np.uint16)
    rows = [np.full((WIDTH, 3), value).astype(">u2").tobytes()] * HEIGHT
    sources = {
        "png": encoded(Image.fromarray(grey), "PNG"),
        "tiff": encoded(Image.fromarray(grey), "TIFF"),
        "array": grey,
        "tensor": torch.from_numpy(grey),
        "pillow": Image.fromarray(grey),
        "rgb png": png(16, 2, rows, WIDTH),
        "rgb array": np.repeat(grey[..., None], 3, axis=2),
    }
    for name, source in sources.items():
        seen = decode(source, decoding=Decoding(white_level=white))  # type: ignore[arg-type]
        assert seen.unique().tolist() == [expected], name


def test_opacity_is_a_part_of_the_whole_range_whatever_white_is() -> None:
    rgba = np.full((HEIGHT, WIDTH, 4), 4095, np.uint16)
    rgba[..., 3] = 65535
    grey = [rgba[row, :, 2:].astype(">u2").tobytes() for row in range(HEIGHT)]
    rows = [rgba[row].astype(">u2").tobytes() for row in range(HEIGHT)]
    bright = Decoding(white_level=4095)
    for source in (rgba, png(16, 6, rows, WIDTH), png(16, 4, grey, WIDTH)):
        assert decode(source, 4, bright).unique().tolist() == [255]
        assert decode(source, 3).unique().tolist() == [15]


def test_colours_of_16_bits_keep_all_their_steps() -> None:
    rows = [row.astype(">u2").tobytes() for row in DEEP_RGB >> 4]
    expected = (DEEP_RGB >> 8).astype(np.uint8)
    assert np.array_equal(
        pixels(decode(png(16, 2, rows, WIDTH), decoding=Decoding(white_level=4095))), expected
    )
    for planar in (1, 2):
        for packed in (False, True):
            for order in "<>":
                data = deep_tiff(DEEP_RGB >> 4, order, planar=planar, packed=packed)
                seen = examine(data, decoding=Decoding(white_level=4095))
                assert np.array_equal(pixels(seen.pixels), expected)
                assert seen.values == (DEEP_RGB.min() >> 4, DEEP_RGB.max() >> 4)
                assert np.array_equal(pixels(decode(data)), expected >> 4)


def deep_tiff(
    array: np.ndarray, order: str, *, planar: int = 1, packed: bool = False, photo: int = 2
) -> bytes:
    """A TIFF 6.0 of 16 bits a sample, [H, W, C], its bands apart if `planar` is 2."""
    height, width, count = array.shape
    bands = [array] if planar == 1 else [array[..., k] for k in range(count)]
    strips = [band.astype(f"{order}u2").tobytes() for band in bands]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    places = [8 + sum(map(len, strips[:k])) for k in range(len(strips))]
    tags = {256: [width], 257: [height], 258: [16] * count, 259: [8 if packed else 1], 262: [photo]}
    tags |= {273: places, 277: [count], 278: [height], 279: [*map(len, strips)], 284: [planar]}
    body = b"".join(strips) + bytes(sum(map(len, strips)) % 2)
    entries, arrays = b"", b""
    for tag, values in tags.items():
        value = struct.pack(f"{order}{len(values)}I", *values)
        if len(value) > 4:
            arrays, value = arrays + value, struct.pack(f"{order}I", 8 + len(body) + len(arrays))
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + value
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(body) + len(arrays))
    return head + body + arrays + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def test_where_low_bytes_cannot_be_had_a_white_level_is_refused() -> None:
    cmyk = np.full((HEIGHT, WIDTH, 4), 4095, np.uint16)
    ppm = f"P6 {WIDTH} {HEIGHT} 65535\n".encode() + cmyk[..., :3].astype(">u2").tobytes()
    for data in (deep_tiff(cmyk, "<", photo=5), ppm):
        decode(data)
        with pytest.raises(UnreadableImageError, match="white_level=4095 takes all: save it as an RGB"):
            decode(data, decoding=Decoding(white_level=4095))


def test_the_range_of_16_bits_is_told() -> None:
    assert examine(encoded(Image.fromarray(DEEP >> 4), "PNG")).values == (DEEP.min() >> 4, DEEP.max() >> 4)
    rows = [row.astype(">u2").tobytes() for row in DEEP_RGB >> 4]
    assert examine(png(16, 2, rows, WIDTH)).values == (DEEP_RGB.min() >> 4, DEEP_RGB.max() >> 4)
    assert examine(PNG).values is None


@pytest.mark.parametrize("white", [0, 254, 65536, 4095.5, "4095", True])
def test_a_white_level_has_bounds(white: object) -> None:
    with pytest.raises(UsageError, match="white_level"):
        Decoding(white_level=white)  # type: ignore[arg-type]


@pytest.mark.parametrize("white", [65535, 4095])
def test_a_16_bit_tiff_in_which_0_is_white(white: int) -> None:
    grey = (np.arange(12, dtype=np.uint16) * (white // 12)).reshape(3, 4)
    decoding = Decoding(white_level=white)
    plain = encoded(Image.fromarray(grey), "TIFF")
    data = with_tag(plain, 262, 0)
    assert torch.equal(decode(data, decoding=decoding), 255 - decode(plain, decoding=decoding))
    eight = encoded(Image.fromarray((grey >> 8).astype(np.uint8)), "TIFF")
    assert torch.equal(decode(with_tag(eight, 262, 0)), 255 - decode(eight))
