"""Which way up an image is: EXIF's orientation (CIPA DC-008, 4.6.4 A), as Pillow's exif_transpose understands it."""

import numpy as np
from PIL import ExifTags, Image

from depthwise.data.formats import without_warnings

_TURNED = (5, 6, 7, 8)
_MIRRORED: dict[int, tuple[int, ...]] = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}


def orientation(image: Image.Image) -> int:
    """1 (upright) to 8, from EXIF or else XMP; a damaged block says nothing, which is 1."""
    with without_warnings():
        try:
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # a damaged block makes Pillow raise nearly anything
            return 1
    return int(value) if value in range(1, 9) else 1


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, C] as a file stores it -> the view [H, W, C] or [W, H, C] of it that the right way up is."""
    turned = stored.swapaxes(0, 1) if orientation in _TURNED else stored
    return np.flip(turned, _MIRRORED.get(orientation, ()))


def as_stored(seen: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of `upright`: what is written into this view comes to lie the right way up in `seen`."""
    turned = np.flip(seen, _MIRRORED.get(orientation, ()))
    return turned.swapaxes(0, 1) if orientation in _TURNED else turned
