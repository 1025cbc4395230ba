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


def is_turned(orientation: int) -> bool:
    """Whether what is stored as a row is seen as a column."""
    return orientation in _TURNED


def stored_box(
    box: tuple[float, float, float, float], orientation: int, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Where `box` (top, left, height, width) of an upright image, which has `size`, lies in the file."""
    start, sides = [*box[:2]], [*box[2:]]
    for axis in _MIRRORED.get(orientation, ()):
        start[axis] = size[axis] - start[axis] - sides[axis]
    if is_turned(orientation):
        start, sides = start[::-1], sides[::-1]
    return (start[0], start[1], sides[0], sides[1])


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, C] as a file stores it -> the view [H, W, C] or [W, H, C] of it that the right way up is."""
    turned = stored.swapaxes(0, 1) if is_turned(orientation) else stored
    return np.flip(turned, _MIRRORED.get(orientation, ()))


def as_stored(seen: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of `upright`: what is written into this view comes to lie the right way up in `seen`."""
    turned = np.flip(seen, _MIRRORED.get(orientation, ()))
    return turned.swapaxes(0, 1) if is_turned(orientation) else turned
