"""JPEG read by libjpeg-turbo itself: Pillow's pixels without its copies, and a word on data that is missing.

A JPEG's own header is read here, too: how much memory it will take has to be known before.
"""

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import PIL

try:
    import simplejpeg
except (
    ImportError
):  # Pillow is slower and reads the same, but does not say if pixels are missing before the end
    simplejpeg = None

_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
_SPACES = {1: "GRAY", 3: "RGB", 4: "CMYK"}

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd8])")
_APP1, _SOS, _EOI = 0xE1, 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)

_NO_END = "Premature end of JPEG file"
# libjpeg's warnings, jerror.h, of which it tells the first alone. What is neither here nor there is an error.
_LOSSES = (_NO_END, "premature end of data", "bad Huffman code", "bad arithmetic code", "instead of RST")
_HARMLESS = (
    *("extraneous bytes", "unknown JFIF revision", "Unknown Adobe color transform", "bad ICC marker"),
    *("Invalid SOS parameters", "Inconsistent progression"),
)


class Frame(NamedTuple):
    """What the headers of an 8-bit JPEG say (ITU T.81, B.2.2), up to the first scan.

    mode: Pillow's. buffered: the coefficients of the whole image are in memory at once, because there are several
    scans. tagged: there is EXIF, or XMP, or both.
    """

    height: int
    width: int
    components: int
    buffered: bool
    tagged: bool

    @property
    def mode(self) -> str:
        return _MODES[self.components]

    @property
    def bytes_a_pixel(self) -> float:
        """Of memory, at most: the pixels, and two bytes for each coefficient that is kept."""
        return self.components * (3 if self.buffered else 1)


def read_frame(data: bytes) -> Frame | None:
    """The headers, or None if `data` is no JPEG that `decode` reads."""
    if simplejpeg is None or data[:3] != b"\xff\xd8\xff":
        return None
    tagged, frame, progressive = False, b"", False
    for marker, body in _segments(data):
        if marker == _APP1:
            tagged = True
        elif marker in _FRAMES:
            frame, progressive = body, marker in _PROGRESSIVE
        elif marker == _SOS:
            if len(frame) < 6 or not body or frame[0] != 8 or frame[5] not in _SPACES:
                return None
            buffered = progressive or body[0] < frame[5]
            height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
            return Frame(height, width, frame[5], buffered, tagged)
    return None


def decode(data: bytes, frame: Frame) -> tuple[np.ndarray, str]:
    """uint8 [H, W, components], grey, RGB or inverted CMYK; and what libjpeg says of pixels that are missing, or "".

    A missing end marker alone is no loss. Raises ValueError where libjpeg gives up, with nothing or a part decoded.
    """
    space, lost = _SPACES[frame.components], ""
    try:
        return simplejpeg.decode_jpeg(data, space, strict=True), ""
    except ValueError as error:
        said = str(error)
    if said == _NO_END:
        if not _all_scans(data):
            lost = said
        data += bytes((0xFF, _EOI))
        try:
            return simplejpeg.decode_jpeg(data, space, strict=True), lost
        except ValueError as error:
            said = str(error)
    if any(loss in said for loss in _LOSSES):
        lost = said
    elif not any(harmless in said for harmless in _HARMLESS):
        raise ValueError(said)  # simplejpeg would return memory that nobody wrote to
    elif not _has_end(data):  # and what was said hides that
        lost = _NO_END
    return simplejpeg.decode_jpeg(data, space, strict=False), lost


def decode_scaled(data: bytes, frame: Frame, eighths: int) -> np.ndarray | None:
    """uint8 [H, W, components], grey or RGB: the image at a DCT scale of `eighths` / 8, its sides rounded up; None if
    libjpeg says anything of it."""
    height, width = (-(-side * eighths // 8) for side in (frame.height, frame.width))
    space = _SPACES[frame.components]
    try:
        return simplejpeg.decode_jpeg(data, space, min_height=height, min_width=width, min_factor=1)
    except ValueError:
        return None


def status() -> str:
    """What decodes whole files."""
    if simplejpeg is None:
        return f"whole files by Pillow {PIL.__version__}"
    return f"whole files by simplejpeg {version('simplejpeg')}"


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The marker and the body of each segment, those between scans included."""
    at = 2
    while match := _MARKER.search(data, at):
        marker = match[1][0]
        if marker == _EOI:
            return
        at = match.end()
        size = int.from_bytes(data[at : at + 2])
        yield marker, data[at + 2 : at + size]
        at += max(size, 2)


def _has_end(data: bytes) -> bool:
    at = 2
    while match := _MARKER.search(data, at):
        if match[1][0] == _EOI:
            return True
        at = match.end() + max(int.from_bytes(data[match.end() : match.end() + 2]), 2)
    return False


def _all_scans(data: bytes) -> bool:
    """Whether each coefficient of each component has come with all its bits (T.81, G.1.1.1)."""
    frame: bytes = b""
    last_bit: dict[tuple[int, int], int] = {}
    for marker, body in _segments(data):
        if marker in _FRAMES:
            frame = body
        elif marker == _SOS and body:
            count = body[0]
            if len(body) < 4 + 2 * count:
                return False
            first, last, bits = body[1 + 2 * count : 4 + 2 * count]
            for component in body[1 : 1 + 2 * count : 2]:
                last_bit |= {(component, k): bits & 15 for k in range(first, min(last, 63) + 1)}
    components = frame[6::3]
    return all(last_bit.get((component, k)) == 0 for component in components for k in range(64))
