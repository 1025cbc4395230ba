"""How much memory an image takes: bounded before it is decoded, and by a few bytes a pixel while it is."""

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthwise.data.image import Decoding, UnreadableImageError, decode
from depthwise.errors import UsageError

SIDE = 3000
CONSTANT = 48 << 20  # the file itself, the rows in work, libraries


def palette(transparent: bool) -> Image.Image:
    picture = Image.new("P", (SIDE, SIDE))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    if transparent:
        picture.info["transparency"] = b"\x10\xff"
    return picture


def flat(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (SIDE, SIDE), colour)  # type: ignore[arg-type]


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = 6
    return tags


# The picture, how it is saved, and how many channels a pixel of the file has.
KINDS = {
    "1-bit palette with transparency": (lambda: palette(True), {"format": "PNG", "bits": 1}, 4),
    "1-bit palette": (lambda: palette(False), {"format": "PNG", "bits": 1}, 3),
    "RGBA": (lambda: flat("RGBA", (1, 2, 3, 4)), {"format": "PNG"}, 4),
    "RGBA, turned": (lambda: flat("RGBA", (1, 2, 3, 4)), {"format": "PNG", "exif": exif()}, 4),
    "RGBA, in one row": (
        lambda: Image.new("RGBA", (SIDE * SIDE, 1), (1, 2, 3, 4)),
        {"format": "PNG", "exif": exif()},
        4,
    ),
    "LA": (lambda: flat("LA", (1, 2)), {"format": "PNG"}, 2),
    "16-bit grey": (lambda: flat("I;16", 4000), {"format": "PNG"}, 1),
    "32-bit grey": (lambda: flat("I", 4000), {"format": "TIFF"}, 2),
    "RGB": (lambda: flat("RGB", (1, 2, 3)), {"format": "BMP"}, 3),
    "jpeg": (lambda: flat("RGB", (1, 2, 3)), {"format": "JPEG"}, 3),
    "jpeg, turned": (lambda: flat("RGB", (1, 2, 3)), {"format": "JPEG", "exif": exif()}, 3),
    "jpeg, progressive": (
        lambda: flat("RGB", (1, 2, 3)),
        {"format": "JPEG", "progressive": True, "subsampling": 0},
        3,
    ),
    "jpeg, grey, progressive": (lambda: flat("L", 3), {"format": "JPEG", "progressive": True}, 1),
    "jpeg, CMYK": (lambda: flat("CMYK", (1, 2, 3, 4)), {"format": "JPEG"}, 4),
    "gif": (lambda: palette(False), {"format": "GIF"}, 3),
    "tiff": (lambda: flat("RGB", (1, 2, 3)), {"format": "TIFF", "compression": "tiff_lzw"}, 3),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int, int]]:
    """Bytes, channels and pixels of each kind."""
    folder = tmp_path_factory.mktemp("large")
    paths = {}
    for number, (name, (make, options, _)) in enumerate(KINDS.items()):
        paths[name] = folder / f"{number}.bin"
        make().save(paths[name], **options)
    small = folder / "small.png"
    Image.new("RGB", (8, 8)).save(small)
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("memory_worker.py"), small, *paths.values()],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    return dict(zip(paths, lines, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", KINDS)
def test_decoding_takes_under_four_bytes_a_channel_and_pixel(
    name: str, measured: dict[str, tuple[int, int, int]]
) -> None:
    grown, _, pixels = measured[name]
    assert pixels == SIDE * SIDE
    assert grown < 4 * KINDS[name][2] * pixels + CONSTANT, f"{grown / pixels:.1f} bytes a pixel"


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


SMALL = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))


@pytest.mark.parametrize(
    ("kind", "options", "counted"),
    [
        ("PNG", {}, 2000),
        ("JPEG", {}, 2000),
        ("JPEG", {"progressive": True}, 2250),
        ("WEBP", {}, 4250),
        ("AVIF", {}, 4000),
        ("JPEG2000", {}, 5125),
    ],
)
def test_the_limit_counts_what_decoding_takes_and_the_sentence_says_how_to_raise_it(
    kind: str, options: dict[str, object], counted: int
) -> None:
    data = encoded(SMALL, kind, **options)
    with pytest.raises(UnreadableImageError, match=rf"50 x 40 pixels .* max_pixels={counted}$"):
        decode(data, decoding=Decoding(max_pixels=counted - 1))
    assert decode(data, decoding=Decoding(max_pixels=counted)).shape == (3, 40, 50)


def test_rows_of_a_pixel_count_for_what_pillow_keeps_of_a_row() -> None:
    data = encoded(Image.new("L", (1, 1000)), "PNG")
    with pytest.raises(UnreadableImageError, match=r"max_pixels=1750$"):
        decode(data, decoding=Decoding(max_pixels=1000))


def test_a_tile_larger_than_its_image_counts() -> None:
    """A TIFF by hand: 10 x 10 grey pixels, compressed, in one tile of 65536 x 65536."""
    tags = {256: 10, 257: 10, 258: 8, 259: 5, 262: 1, 277: 1, 322: 65536, 323: 65536, 324: 8, 325: 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 8
    with pytest.raises(UnreadableImageError, match=r"10 x 10 pixels of TIFF, which take 34.36 GB to decode"):
        decode(data)


def test_pillows_own_limit_gives_way_and_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind in ("PNG", "TIFF", "WEBP", "GIF"):
        assert decode(encoded(SMALL, kind)).shape[1:] == (40, 50)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("value", [0, -5, 1.5, True, "many"])
def test_a_limit_is_a_number_of_pixels(value: object) -> None:
    with pytest.raises(UsageError, match="max_pixels"):
        Decoding(max_pixels=value)  # type: ignore[arg-type]


def test_too_little_memory_to_decode_is_told(tmp_path: Path) -> None:
    Image.new("L", (12_000, 12_000)).save(tmp_path / "large.png")
    code = (
        "import resource, sys; from depthwise.data.image import decode\n"
        "taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 2**26,) * 2)\n"
        "try:\n    decode(sys.argv[1])\nexcept Exception as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "large.png"], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == (
        f"{tmp_path}/large.png: there is not the memory to decode it: free some, or scale the image down\n"
    ), done.stderr
