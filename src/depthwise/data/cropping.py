"""What training cuts out of an image: of a JPEG file no more is decoded than that, and no finer than it is wanted."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from depthwise.data import jpeg, region
from depthwise.data.channels import to_channels
from depthwise.data.image import File, check_size, jpeg_orientation
from depthwise.data.orientation import is_turned, stored_box, upright
from depthwise.data.region import Box

_END = b"\xff\xd9"
_TAIL = 1024
"""Bytes at the end of a file in which a JPEG ends; what cameras add after it is rarely more."""


@dataclass(frozen=True)
class JpegFile:
    """A JPEG, grey or colour, of which the headers alone have been read."""

    file: File
    frame: jpeg.Frame
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        sides = (self.frame.height, self.frame.width)
        return sides[::-1] if is_turned(self.orientation) else sides

    def cut(self, box: Box, size: tuple[int, int], interpolation: str) -> tuple[Tensor, bool] | None:
        """uint8 [C, h, w]: `box` of the upright image, and whether it has been resized to `size`.

        It is decoded at the smallest scale at which it is `size` or larger. At full scale it is as decoding the whole
        image and cutting gives it, and not resized. None if it must be decoded as a whole.
        """
        within = Box(*stored_box(box, self.orientation, self.size))
        wanted = size[::-1] if is_turned(self.orientation) else size
        eighths = 8 if interpolation == "nearest" else _scale(within, wanted)
        scaled = within.scaled(eighths / 8)
        sides = (-(-side * eighths // 8) for side in (self.frame.height, self.frame.width))
        around = scaled.outwards(*sides)
        part = region.decode(self.file.data, self.frame, eighths, around)
        if part is None:
            return None
        if eighths < 8:
            inside = Box(scaled.top - around.top, scaled.left - around.left, scaled.height, scaled.width)
            part = region.resize(part, inside, wanted, cubic=interpolation == "bicubic")
        seen = np.ascontiguousarray(upright(part, self.orientation))
        pixels = torch.from_numpy(seen).permute(2, 0, 1)
        return to_channels(pixels, self.file.channels or len(pixels)), eighths < 8


def open_jpeg(file: File) -> JpegFile | None:
    """None if `file` is no JPEG that can be read in parts, or has no end; UnreadableImageError if it is too large."""
    frame = jpeg.read_frame(file.data)
    if frame is None or frame.components not in (1, 3) or _END not in file.data[-_TAIL:]:
        return None
    check_size(file.name, frame.width, frame.height, "JPEG", frame.bytes_a_pixel, file.decoding)
    return JpegFile(file, frame, jpeg_orientation(file.data) if frame.tagged else 1)


def _scale(box: Box, wanted: tuple[int, int]) -> int:
    """The fewest eighths at which `box` has `wanted` pixels, height and width, or more."""
    enough = (k for k in region.EIGHTHS if box.height * k >= 8 * wanted[0] and box.width * k >= 8 * wanted[1])
    return next(enough, 8)
