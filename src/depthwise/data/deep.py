"""Images with 16 bits a sample: what becomes of their values, and how Pillow is made to tell them.

Pillow opens grey ones with all their bits, of colours it keeps the high bytes alone. Those are opened once more for the
low ones.
"""

import sys
from collections.abc import Callable
from typing import Annotated

import numpy as np
from PIL import Image

from depthwise.bounds import Bounds
from depthwise.data.channels import BAND

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
    """The low bytes of a colour image with 16 bits a sample."""

    def __init__(self, image: Image.Image, *, grey: bool) -> None:
        self._image, self._grey = image, grey

    def join(self, high: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        """uint8 [h, w, 3 or 4], the high bytes of the part `box` -> uint16 [h, w, 1 or 3], without transparency."""
        low = np.array(self._image.crop(box))
        low = low[..., 1:2] if self._grey else low[..., :3]
        return high[..., : low.shape[2]].astype(np.uint16) << 8 | low


def low_bytes(image: Image.Image, again: Callable[[], Image.Image]) -> LowBytes | None:
    """Of an image that was opened and not yet loaded; `again` opens it once more. None if it has but 8 bits."""
    modes = {_raw_mode(tile[3]) for tile in getattr(image, "tile", ())}
    if not modes or not modes <= _LOW_BYTES.keys():
        return None
    low = again()
    low.tile = [_with_args(tile, _low(tile[3])) for tile in low.tile]  # type: ignore[attr-defined]
    return LowBytes(low, grey="LA;16B" in modes)


def _raw_mode(args: object) -> str:
    return str(args[0] if isinstance(args, tuple) and args else args)


def _low(args: object) -> object:
    low = _LOW_BYTES[_raw_mode(args)]
    return (low, *args[1:]) if isinstance(args, tuple) else low


def _with_args(tile: tuple, args: object) -> tuple:
    return tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)
