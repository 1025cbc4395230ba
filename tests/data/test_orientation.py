"""Every way in which a file says which way up it is: read as Pillow's exif_transpose does, by path, bytes and image."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from pillow_heif import from_pillow

from depthwise.data.image import decode

RGB = np.random.default_rng(2).integers(0, 256, (14, 10, 3), np.uint8)
PICTURE = Image.fromarray(RGB)
SMOOTH = np.repeat(
    (np.arange(14)[:, None, None] * 12 + np.arange(10)[:, None] * 6).astype(np.uint8), 3, axis=2
)
XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"


def exif(orientation: int, order: str = "<") -> bytes:
    """A TIFF structure with that one tag, without the block's head."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return mark + struct.pack(f"{order}IH", 8, 1) + entry + struct.pack(f"{order}I", 0)


def xmp(orientation: int | None) -> bytes:
    said = "" if orientation is None else f' tiff:Orientation="{orientation}"'
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description{said}/></x:xmpmeta>'.encode()


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def saved(kind: str, picture: Image.Image = PICTURE, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def jpeg(*segments: bytes) -> bytes:
    """With these segments before all others."""
    data = saved("JPEG", quality=95)
    return data[:2] + b"".join(segments) + data[2:]


def heif(orientation: int) -> bytes:
    file = io.BytesIO()
    from_pillow(Image.fromarray(SMOOTH)).save(file, quality=-1, exif=b"Exif\0\0" + exif(orientation))
    return file.getvalue()


def tiff(orientation: int, **options: object) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return saved("TIFF", exif=tags, **options)


EXIF = b"Exif\0\0"
FILES = {
    "jpeg": lambda o: jpeg(segment(0xE1, EXIF + exif(o))),
    "jpeg, big-endian": lambda o: jpeg(segment(0xE1, EXIF + exif(o, ">"))),
    "jpeg, XMP before": lambda o: jpeg(
        segment(0xE1, XMP_HEAD + xmp(None)), segment(0xE1, EXIF + exif(o, ">"))
    ),
    "jpeg, XMP before, which says otherwise": lambda o: jpeg(
        segment(0xE1, XMP_HEAD + xmp(3)), segment(0xE1, EXIF + exif(o))
    ),
    "jpeg, XMP alone": lambda o: jpeg(segment(0xE1, XMP_HEAD + xmp(o))),
    "jpeg, something else before": lambda o: jpeg(
        segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"), segment(0xE1, b"FLIR\0"), segment(0xE1, EXIF + exif(o))
    ),
    "jpeg, progressive": lambda o: saved("JPEG", progressive=True, exif=EXIF + exif(o)),
    "jpeg, grey": lambda o: saved("JPEG", PICTURE.convert("L"), exif=EXIF + exif(o)),
    "jpeg, cmyk": lambda o: saved("JPEG", PICTURE.convert("CMYK"), exif=EXIF + exif(o)),
    "mpo": lambda o: saved("MPO", save_all=True, append_images=[PICTURE], exif=EXIF + exif(o)),
    "png": lambda o: saved("PNG", exif=EXIF + exif(o)),
    "png, big-endian": lambda o: saved("PNG", exif=EXIF + exif(o, ">")),
    "png, grey with alpha": lambda o: saved("PNG", PICTURE.convert("LA"), exif=EXIF + exif(o)),
    "webp": lambda o: saved("WEBP", lossless=True, exif=EXIF + exif(o)),
    "webp, XMP alone": lambda o: saved("WEBP", lossless=True, xmp=xmp(o)),
    "tiff": tiff,
    "tiff, big-endian": lambda o: tiff(o, big_endian=True),
    "tiff, compressed": lambda o: tiff(min(max(o, 1), 8), compression="tiff_lzw"),
    "avif": lambda o: saved("AVIF", exif=EXIF + exif(o)),
}


def expected(data: bytes) -> np.ndarray:
    seen = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    grey = seen.mode in ("L", "LA")
    return np.array(seen.convert("L" if grey else "RGB")).reshape(seen.height, seen.width, -1)


@pytest.mark.parametrize("name", FILES)
def test_all_orientations_are_pillows(name: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.bin"
    for orientation in range(10):  # 0 and 9 say nothing
        data = FILES[name](orientation)
        path.write_bytes(data)
        wanted = expected(data)
        if 5 <= orientation <= 8:
            assert wanted.shape[:2] == (10, 14)
        picture = Image.open(io.BytesIO(data))
        for source in (data, path, picture):
            assert np.array_equal(decode(source).permute(1, 2, 0).numpy(), wanted), (
                orientation,
                type(source),
            )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heif(orientation: int) -> None:
    """Its decoder turns the image itself."""
    plain = decode(heif(1)).permute(1, 2, 0).numpy()
    assert np.abs(plain.astype(int) - SMOOTH).max() < 8
    tags = Image.Exif()
    tags[0x0112] = orientation
    turned = expected(saved("PNG", Image.fromarray(plain), exif=tags))
    seen = decode(heif(orientation)).permute(1, 2, 0).numpy()
    assert seen.shape == turned.shape
    assert np.abs(seen.astype(int) - turned).max() < 8


def test_a_callers_image_stays_as_it_is() -> None:
    for data in (saved("PNG", exif=EXIF + exif(6)), jpeg(segment(0xE1, EXIF + exif(6)))):
        picture = Image.open(io.BytesIO(data))
        picture.load()
        before = picture.size, picture.mode, dict(picture.info), picture.tobytes(), picture.getexif()[0x0112]
        decode(picture)
        after = picture.size, picture.mode, dict(picture.info), picture.tobytes(), picture.getexif()[0x0112]
        assert after == before


def ifd(count: int, *entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, count) + body + struct.pack("<I", following)


BROKEN = {
    "nothing": b"",
    "garbage": b"garbage!!",
    "a head alone": b"II*\0",
    "a place beyond the end": b"II*\0\xff\xff\xff\xff",
    "cut off": exif(6)[:-9],
    "fewer entries than said": ifd(500, (0x0100, 3, 1, 7)),
    "a circle": ifd(1, (0x8769, 4, 1, 8), following=8),
    "a count too large": ifd(2, (0x0100, 3, 1, 7), (0x010E, 2, 0xFFFFFFFF, 8)),
    "an orientation that is text": ifd(1, (0x0112, 2, 4, 0x00414243)),
    "an orientation of many": ifd(1, (0x0112, 3, 0xFFFFFFF, 8)),
    "an unknown type": ifd(1, (0x0112, 99, 1, 6)),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("head", [EXIF, b""], ids=["head", "no head"])
def test_a_damaged_block_is_no_orientation_and_no_reason_to_refuse(name: str, head: bytes) -> None:
    block = head + BROKEN[name]
    lossless = {"lossless": True}
    files = {
        "jpeg": (jpeg(segment(0xE1, block)), saved("JPEG", quality=95)),
        "cmyk": (saved("JPEG", PICTURE.convert("CMYK"), exif=block), saved("JPEG", PICTURE.convert("CMYK"))),
        "png": (saved("PNG", exif=block), saved("PNG")),
        "webp": (saved("WEBP", exif=block, **lossless), saved("WEBP", **lossless)),
    }
    for kind, (broken, plain) in files.items():
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            seen = decode(broken)
        assert not warned, kind
        assert np.array_equal(seen, decode(plain)), kind
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own about what we open here
            picture = Image.open(io.BytesIO(broken))
        if kind in ("png", "webp"):
            assert np.array_equal(decode(picture), decode(plain)), kind
