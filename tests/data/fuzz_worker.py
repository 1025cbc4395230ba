"""Decodes mutated images, and stops at the first that does anything but give pixels or a sentence."""

import io
import os
import random
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from depthwise.data.image import Decoding, UnreadableImageError, decode

LIMIT = 1.5e9
WATCHED = (
    "open",
    "os.",
    "subprocess.",
    "socket.",
    "tempfile.",
    "shutil.",
    "pty.",
    "urllib.",
    "ctypes.dlopen",
)
seed, count = map(int, sys.argv[1:])
chance = random.Random(seed)


def originals() -> list[bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (23, 31, 4), np.uint8)
    rgba = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    for kind, modes, options in (
        ("JPEG", ("RGB", "L", "CMYK"), {"exif": exif}),
        ("JPEG", ("RGB",), {"progressive": True}),
        ("PNG", ("RGB", "RGBA", "LA", "P", "1", "I;16"), {"exif": exif}),
        ("GIF", ("RGB", "L"), {"save_all": True, "append_images": [rgba.convert("RGB")]}),
        ("WEBP", ("RGB", "RGBA"), {"exif": exif}),
        ("BMP", ("RGB", "P"), {}),
        ("DIB", ("RGB",), {}),
        ("TIFF", ("RGB", "RGBA", "L"), {}),
        ("TIFF", ("RGB", "1"), {"compression": "tiff_deflate"}),
        ("TIFF", ("RGB",), {"compression": "jpeg"}),
        ("PPM", ("RGB", "L", "1"), {}),
        ("JPEG2000", ("RGB",), {}),
        ("AVIF", ("RGB", "RGBA"), {"exif": exif}),
        ("MPO", ("RGB",), {"save_all": True, "append_images": [rgba.convert("RGB")]}),
        ("TGA", ("RGB", "L"), {"compression": "tga_rle"}),
        ("EPS", ("RGB",), {}),
        ("PCX", ("RGB",), {}),
    ):
        for mode in modes:
            file = io.BytesIO()
            grey = Image.fromarray(noise[..., 0].astype(np.uint16) << 4)
            (grey if mode == "I;16" else rgba.convert(mode)).save(file, kind, **options)
            made.append(file.getvalue())
    from pillow_heif import from_pillow

    file = io.BytesIO()
    from_pillow(rgba.convert("RGB")).save(file)
    return [*made, file.getvalue()]


def mutated(data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(min(len(changed), chance.choice((40, 200, len(changed)))))
        size = chance.choice((1, 2, 4))
        match chance.randrange(5):
            case 0:
                changed[at : at + size] = chance.choice((b"\0", b"\xff", b"\x7f")) * size
            case 1:
                changed[at] ^= 1 << chance.randrange(8)
            case 2:
                del changed[at : at + chance.choice((1, 2, 50))]
            case 3:
                changed[at:at] = chance.randbytes(size)
            case 4:
                changed = changed[: max(1, at)]
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def main() -> None:
    files = originals()
    for data in files:  # whatever is loaded once is loaded now
        for decoding in (Decoding(), Decoding(allow_truncated=True, white_level=4095)):
            try:
                decode(data, decoding=decoding)
            except UnreadableImageError:
                continue
    events: list[str] = []
    sys.addaudithook(
        lambda event, args: events.append(f"{event} {args[:1]}") if event.startswith(WATCHED) else None
    )
    warnings.simplefilter("error")
    read = 0
    for number in range(count):
        data = mutated(chance.choice(files))
        for decoding in (Decoding(), Decoding(allow_truncated=True, white_level=4095)):
            try:
                image = decode(data, decoding=decoding)
                assert image.numel() > 0
                assert image.shape[0] in (1, 3), image.shape
                read += 1
                del image
            except UnreadableImageError as error:
                if len(error.reason) < 4 or "unexpected" in error.reason:
                    raise SystemExit(f"image {number} of seed {seed}: {error.reason!r}") from error
        if events:
            raise SystemExit(f"image {number} of seed {seed} did {events[:5]}")
    # Not ru_maxrss, which begins with what the process had that started this one.
    most = 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    if most > LIMIT:
        raise SystemExit(f"seed {seed} took {most / 1e9:.2f} GB")
    print(f"{read} of {2 * count} read, {most >> 20} MiB", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
