"""A rectangle of a JPEG, decoded at a DCT scale without the rest of the image, and resized.

By `native/jpeg`, which calls libjpeg-turbo. Where that was not built, simplejpeg decodes the whole image at that scale
and Pillow resizes: the same pixels, resized ones to within 2 of 255.
"""

import ctypes
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from depthwise.data import jpeg

EIGHTHS = (1, 2, 4, 8)
"""Numerators of the scales that libjpeg-turbo computes with vectors; others take longer than the whole."""


class Box(NamedTuple):
    """A rectangle in pixels."""

    top: float
    left: float
    height: float
    width: float

    def scaled(self, by: float) -> "Box":
        return Box(*(by * side for side in self))

    def outwards(self, height: int, width: int) -> "Box":
        """The smallest rectangle of whole pixels around it, in an image of that size."""
        top, left = math.floor(self.top), math.floor(self.left)
        bottom, right = math.ceil(self.top + self.height), math.ceil(self.left + self.width)
        return Box(top, left, min(bottom, height) - top, min(right, width) - left)


class _Region(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_char_p),
        *((name, ctypes.c_int64) for name in ("size", "height", "width", "components", "eighths")),
        *((name, ctypes.c_int64) for name in ("top", "left", "rows", "columns")),
        ("out", ctypes.c_void_p),
    ]


class _Resize(ctypes.Structure):
    _fields_ = [
        ("image", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("height", "width", "channels")),
        *((name, ctypes.c_double) for name in ("top", "left", "rows", "columns")),
        *((name, ctypes.c_int64) for name in ("out_height", "out_width", "cubic")),
        ("out", ctypes.c_void_p),
    ]


def _load() -> ctypes.CDLL | None:
    # Another build, for example with sanitizers, as native/library.py has it.
    folder = Path(os.environ.get("DEPTHWISE_KERNELS") or Path(__file__).parents[1] / "native")
    for file in sorted(folder.glob("_jpeg*.so")):
        try:
            library = ctypes.CDLL(str(file))
        except OSError:  # libjpeg is not there
            return None
        library.depthwise_jpeg_turbo.restype = ctypes.c_char_p
        sizes = (library.depthwise_jpeg_struct_size, library.depthwise_resize_struct_size)
        for size in sizes:
            size.restype = ctypes.c_int64
        if [size() for size in sizes] == [ctypes.sizeof(_Region), ctypes.sizeof(_Resize)]:
            return library
    return None


library = _load()


def status() -> str:
    """What training decodes JPEG with: its pixels depend on it."""
    if library is not None:
        return f"regions by libjpeg-turbo {library.depthwise_jpeg_turbo().decode()}"
    return jpeg.status()


def decode(data: bytes, frame: jpeg.Frame, eighths: int, box: Box) -> np.ndarray | None:
    """uint8 [rows, columns, components], grey or RGB: `box`, whole pixels, of the image at a scale of `eighths` / 8.

    The pixels are those of the whole image at that scale. None if libjpeg says anything of the file: it needs a judge
    (`jpeg.decode`). What is wrong below the rectangle is not seen, except if there are several scans.
    """
    top, left, rows, columns = map(int, box)
    if library is None:
        whole = jpeg.decode_scaled(data, frame, eighths)
        return None if whole is None else whole[top : top + rows, left : left + columns]
    out = np.empty((rows, columns, frame.components), np.uint8)
    sizes = (len(data), frame.height, frame.width, frame.components, eighths)
    region = _Region(data, *sizes, top, left, rows, columns, out.ctypes.data)
    return out if library.depthwise_jpeg_region(ctypes.byref(region)) else None


def resize(image: np.ndarray, box: Box, size: tuple[int, int], *, cubic: bool) -> np.ndarray:
    """uint8 [H, W, 1 or 3] -> uint8 [*size, 1 or 3]: `box` antialiased, bilinear or bicubic. Its corners may lie
    between pixels, which PyTorch's resize cannot do."""
    if library is None:
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else np.ascontiguousarray(image))
        corners = (box.left, box.top, box.left + box.width, box.top + box.height)
        kind = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
        return np.array(picture.resize(size[::-1], kind, corners)).reshape(*size, image.shape[2])
    out = np.empty((*size, image.shape[2]), np.uint8)
    task = _Resize(image.ctypes.data, *image.shape, *box, *size, cubic, out.ctypes.data)
    if not library.depthwise_resize(ctypes.byref(task)):
        raise MemoryError
    return out
