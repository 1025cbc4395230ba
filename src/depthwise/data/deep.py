"""Images with 16 bits a sample: what becomes of their values, and how Pillow is made to tell them.

Pillow opens grey ones with all their bits, of colours it keeps the high bytes alone. Those are opened once more for the
low ones.
"""

import struct
import sys
from typing import Annotated

import numpy as np
from PIL import Image

from depthwise.bounds import Bounds
from depthwise.data.channels import BAND
from depthwise.data.formats import has_deep_planes, load_image, open_image

WHITE = 65535
WhiteLevel = Annotated[int, Bounds(255, WHITE)]


_OTHER = "16B" if sys.byteorder == "little" else "16L"
_LOW_BYTES = {
    **{f"{mode};16B": f"{mode};16L" for mode in ("RGB", "RGBA", "RGBX")},
    **{f"{mode};16L": f"{mode};16B" for mode in ("RGB", "RGBA", "RGBX")},
    **{f"{mode};16N": f"{mode};{_OTHER}" for mode in ("RGB", "RGBA", "RGBX")},
    "LA;16B": "RGBA",  # a pixel's four bytes, of which the second is grey's low one
}
"""By the raw mode in which Pillow takes the high bytes, the one that takes the low ones."""

# Of TIFF: sides, compression, predictor, fill order, rows of a strip, sides of a tile; and where strips or tiles are.
_KEPT_TAGS = {256, 257, 259, 266, 278, 317, 322, 323}
_PLACE_TAGS = {273, 279, 324, 325}


def white_level_for(highest: int) -> int:
    """The least white level of whole bits under which `highest` is not cut off."""
    return 2 ** max(8, highest.bit_length()) - 1


def to_eight_bits(values: np.ndarray, white: int) -> np.ndarray:
    """uint16 -> uint8 of the same shape: 0 to 0, `white` and above to 255, all steps between equally wide.

    That is value * 256 // (white + 1); of 65535 the high byte, of 4095 the upper 8 of 12 bits.
    """
    result = np.empty(values.shape, np.uint8)
    rows = max(1, BAND * len(values) // max(1, values.size))
    for top in range(0, len(values), rows):
        part = values[top : top + rows]
        if white == WHITE:
            result[top : top + rows] = part >> 8
        else:
            result[top : top + rows] = (np.minimum(part, white).astype(np.uint32) << 8) // (white + 1)
    return result


class LowBytes:
    """The low bytes of a colour image with 16 bits a sample, read when they are first asked for.

    images: one that takes the low bytes, or one with all bits for each of the planes in which a TIFF may have them.
    """

    def __init__(self, images: list[Image.Image], max_pixels: int, *, grey: bool) -> None:
        self._images, self._grey = images, grey
        self._max_pixels, self._loaded = max_pixels, False

    def join(self, high: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        """uint8 [h, w, 3 or 4], the high bytes of the part `box` -> uint16 [h, w, 1 or 3], without transparency."""
        if not self._loaded:
            for image in self._images:
                load_image(image, self._max_pixels)
            self._loaded = True
        parts = [np.array(image.crop(box)) for image in self._images]
        if len(parts) > 1:
            return np.stack(parts, axis=2).astype(np.uint16)
        low = parts[0][..., 1:2] if self._grey else parts[0][..., :3]
        return high[..., : low.shape[2]].astype(np.uint16) << 8 | low


def low_bytes(image: Image.Image, data: bytes, max_pixels: int) -> LowBytes | None:
    """Of an image that was opened from `data` and not yet loaded; None if it has but 8 bits. max_pixels: as for
    `open_image`."""
    modes = {_raw_mode(tile[3]) for tile in getattr(image, "tile", ())}
    if not modes or not modes <= _LOW_BYTES.keys():
        return None
    if has_deep_planes(image):
        planes = [open_image(_plane(data, image, number), max_pixels) for number in range(3)]
        return LowBytes(planes, max_pixels, grey=False)
    low = open_image(data, max_pixels)
    low.tile = [_with_args(tile, _low(tile[3])) for tile in low.tile]  # type: ignore[attr-defined]
    return LowBytes([low], max_pixels, grey="LA;16B" in modes)


def lacks_low_bytes(image: Image.Image) -> bool:
    """Whether Pillow keeps the high bytes alone of an opened image of colours, and `low_bytes` cannot have the others:
    CMYK, colours multiplied by their opacity, and PPM."""
    if image.mode.startswith(("I", "F")):
        return False
    for tile in getattr(image, "tile", ()):
        mode, args = _raw_mode(tile[3]), tile[3]
        if (tile[0] == "ppm" and args[-1] > 255) or (";16" in mode and mode not in _LOW_BYTES):
            return True
    return False


def _plane(data: bytes, image: Image.Image, number: int) -> bytes:
    """A grey TIFF of one plane of the TIFF `data`: the same bytes with a directory of its own after them."""
    tags, count = image.tag_v2, len(image.getbands())  # type: ignore[attr-defined]
    values = {tag: (int(tags[tag]),) for tag in _KEPT_TAGS & set(tags)}
    for tag in _PLACE_TAGS & set(tags):
        each = len(tags[tag]) // count
        values[tag] = tuple(tags[tag][number * each : (number + 1) * each])
    values |= {258: (16,), 262: (1,), 277: (1,)}  # bits, black is zero, one sample
    order = "<" if tags.prefix == b"II" else ">"
    at = len(data) + len(data) % 2
    entries, arrays = b"", b""
    for tag, numbers in sorted(values.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(packed) > 4:
            place = at + 6 + 12 * len(values) + len(arrays)
            packed, arrays = struct.pack(f"{order}I", place), arrays + packed
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed
    header = data[:4] + struct.pack(f"{order}I", at)
    directory = struct.pack(f"{order}H", len(values)) + entries + bytes(4)
    return (header + data[8:]).ljust(at, b"\0") + directory + arrays


def _raw_mode(args: object) -> str:
    return str(args[0] if isinstance(args, tuple) and args else args)


def _low(args: object) -> object:
    low = _LOW_BYTES[_raw_mode(args)]
    return (low, *args[1:]) if isinstance(args, tuple) else low


def _with_args(tile: tuple, args: object) -> tuple:
    return tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)
