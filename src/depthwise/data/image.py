"""One way in for every image: any file, bytes or array becomes a uint8 tensor [C, H, W], always by the same code.

Pillow reads every format that formats.py lists. JPEG goes to libjpeg-turbo directly (jpeg.py); what that one refuses is
left to Pillow, so there is one judge of what can be read. Colour profiles are not applied. Of 16 bits the high byte is
kept, unless a white level says otherwise. A large image is converted a few rows at a time.
"""

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from depthwise.bounds import Bounds, check, fit
from depthwise.data import jpeg
from depthwise.data.channels import BAND, CHANNELS, own_or_asked, to_channels
from depthwise.data.deep import WHITE, LowBytes, WhiteLevel, lacks_low_bytes, low_bytes, to_eight_bits
from depthwise.data.formats import (
    UnknownFormatError,
    bytes_a_pixel,
    check_format,
    has_deep_white_at_0,
    load_image,
    open_image,
    without_strips,
)
from depthwise.data.orientation import as_stored, orientation, upright
from depthwise.data.unreadable import TooManyPixelsError, UnreadableImageError
from depthwise.errors import DepthwiseError, unknown_name
from depthwise.reading import read_regular

__all__ = [
    "CHANNELS",
    "Decoding",
    "ImageInput",
    "TooManyPixelsError",
    "UnreadableImageError",
    "decode",
    "decode_bytes",
    "to_channels",
]

ImageInput = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor

MAX_PIXELS = 178_956_970  # where Pillow, too, speaks of a decompression bomb: 512 MiB of RGB
BYTES_A_PIXEL = 8

_GREY_MODES = ("1", "L", "LA", "La")


@dataclass(frozen=True)
class Decoding:
    """How image files are read.

    max_pixels: larger images are refused before they are decoded; those that take more than BYTES_A_PIXEL bytes of
    memory a pixel count for more. allow_truncated: a file that lacks pixels is read as far as its decoder can, the
    missing ones grey or black. white_level: the value of 16 bits that is white, 255 to 65535; 4095 for 12 bits.
    """

    max_pixels: Annotated[int, Bounds(1, 10**12)] = MAX_PIXELS
    allow_truncated: bool = False
    white_level: WhiteLevel = WHITE

    def __post_init__(self) -> None:
        check(self)

    def to_json(self) -> dict[str, Any]:
        """What a run keeps of it; the white level is the preprocessing's."""
        return {"max_pixels": self.max_pixels, "allow_truncated": self.allow_truncated}

    @staticmethod
    def from_json(values: Any) -> "Decoding":
        """Of an object with some of the fields, as `to_json` gives them; UsageError about one that does not exist."""
        known = [field.name for field in fields(Decoding)]
        given = fit(values, dict[str, Any], "decoding")
        for name in given:
            if name not in known:
                raise unknown_name("field of the decoding", name, known)
        return Decoding(**given)

    @staticmethod
    def asked(kept: Any = None, **given: Any) -> "Decoding":
        """As a run has `kept` it, an object like `to_json`'s, but for the fields that are `given` and not None."""
        return Decoding.from_json(
            (kept or {}) | {key: value for key, value in given.items() if value is not None}
        )


DEFAULT = Decoding()


class Decoded(NamedTuple):
    """An image and what is known of its file: Pillow's names of its format and mode.

    counted: its pixels, as `Decoding.max_pixels` counts them. missing: why pixels are missing, or "". values: the
    lowest and the highest of a file with 16 bits a sample, opacity excepted; else None.
    """

    pixels: Tensor
    format: str
    mode: str
    counted: int
    missing: str
    values: tuple[int, int] | None = None


def decode(source: ImageInput, channels: int | None = None, decoding: Decoding = DEFAULT) -> Tensor:
    """The upright first frame of `source` as uint8 [C, H, W], RGB order, transparency composited on white.

    source: a path, an encoded image's bytes, a Pillow image, an array [H, W] or [H, W, C], or a tensor [H, W] or
    [C, H, W], the last two uint8 or uint16. channels: 1 (grey), 3 (RGB), 4 (RGBA, transparency kept), or None
    for the image's own, 1 or 3. Raises UnreadableImageError (a DepthwiseError).
    """
    if isinstance(source, str | os.PathLike):
        return decode_bytes(read_image_file(source), channels, os.fspath(source), decoding)
    if isinstance(source, bytes):
        return decode_bytes(source, channels, decoding=decoding)
    if isinstance(source, Image.Image):
        with _told("image"):
            check_format(source)
            return _from_pillow(source, "image", channels, decoding).pixels
    if isinstance(source, np.ndarray):
        return own_or_asked(_from_array(source, decoding.white_level), False, channels)
    if isinstance(source, Tensor):
        return own_or_asked(_from_tensor(source, decoding.white_level), False, channels)
    raise DepthwiseError(
        f"{type(source).__name__} is no image: pass a path, bytes, a Pillow image, an array or a tensor"
    )


def decode_bytes(
    data: bytes, channels: int | None = None, name: str = "image", decoding: Decoding = DEFAULT
) -> Tensor:
    """As `decode`, from an encoded image's bytes; `name` is what an error calls it."""
    return examine(data, channels, name, decoding, values=False).pixels


class File(NamedTuple):
    """An encoded image, and how it is to be read: what `decode_bytes` takes."""

    data: bytes
    channels: int | None
    name: str
    decoding: Decoding


def examine(
    data: bytes,
    channels: int | None = None,
    name: str = "image",
    decoding: Decoding = DEFAULT,
    *,
    values: bool = True,
) -> Decoded:
    """As `decode_bytes`, with what is known of the file; `values` of 16-bit colours only if asked for."""
    if not data:
        raise UnreadableImageError(name, "the file is empty (0 bytes)")
    frame = jpeg.read_frame(data)
    if frame:
        counted = check_size(name, frame.width, frame.height, "JPEG", frame.bytes_a_pixel, decoding)
        try:
            return _from_jpeg(data, frame, name, channels, decoding, counted)
        except ValueError:
            pass  # Pillow judges, and gives the reason
    with _told(name), open_image(data, decoding.max_pixels) as image:
        deep = values or decoding.white_level != WHITE
        if decoding.white_level != WHITE and lacks_low_bytes(image):
            raise UnreadableImageError(
                name,
                f"of 16-bit {image.format} {image.mode} only the high bytes can be read, and "
                f"white_level={decoding.white_level} takes all: save it as an RGB or RGBA PNG",
            )
        low = low_bytes(image, data, decoding.max_pixels) if deep else None
        return _from_pillow(image, name, channels, decoding, low)


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """What the file holds; raises UnreadableImageError."""
    try:
        return read_regular(path)
    except OSError as error:
        raise UnreadableImageError(os.fspath(path), error.strerror or str(error)) from error


def as_png(pixels: Tensor) -> bytes:
    """uint8 [C, H, W] as a PNG, which keeps every pixel."""
    file = io.BytesIO()
    array = pixels.permute(1, 2, 0).numpy()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array)).save(file, "PNG")
    return file.getvalue()


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What Pillow raises becomes a sentence about the image `name`."""
    try:
        yield
    except DepthwiseError:
        raise
    except UnknownFormatError as error:
        raise UnreadableImageError(name, str(error)) from None
    except MemoryError as error:
        reason = "there is not the memory to decode it: free some, or scale the image down"
        raise UnreadableImageError(name, reason) from error
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise UnreadableImageError(name, str(error) or type(error).__name__) from error


def check_size(
    name: str, width: int, height: int, kind: str, bytes_a_pixel: float, decoding: Decoding
) -> int:
    """How many pixels the image counts for."""
    memory = width * height * bytes_a_pixel
    counted = max(width * height, math.ceil(memory / BYTES_A_PIXEL))
    if counted > decoding.max_pixels:
        raise TooManyPixelsError(
            name,
            f"{width} x {height} pixels of {kind}, which take {memory / 1e9:.2f} GB to decode, are over the limit of "
            f"{decoding.max_pixels} pixels of {BYTES_A_PIXEL} bytes, as in a decompression bomb: scale it down",
            f", or allow it with --max-pixels {counted}",
        )
    return counted


def _check_missing(name: str, missing: str, decoding: Decoding) -> None:
    if missing and not decoding.allow_truncated:
        raise UnreadableImageError(
            name,
            f"truncated or damaged, pixels are missing ({missing}): copy it again",
            ", or take what is there with --allow-truncated",
        )


def _from_jpeg(
    data: bytes, frame: jpeg.Frame, name: str, channels: int | None, decoding: Decoding, counted: int
) -> Decoded:
    stored, missing = jpeg.decode(data, frame)
    _check_missing(name, missing, decoding)
    turned = jpeg_orientation(data) if frame.tagged else 1
    if frame.mode == "CMYK":
        size = (frame.width, frame.height)
        picture = Image.frombuffer("CMYK", size, stored, "raw", "CMYK;I", 0, 1)
        pixels, _ = _converted(picture, channels, turned)
    else:
        seen = torch.from_numpy(np.ascontiguousarray(upright(stored, turned)))
        pixels = own_or_asked(seen.permute(2, 0, 1), False, channels)
    return Decoded(pixels, "JPEG", frame.mode, counted, missing)


def jpeg_orientation(data: bytes) -> int:
    """1 to 8; 1 if the file does not say."""
    try:
        with open_image(data) as image:
            return orientation(image)
    except Exception:  # it could be decoded: what is wrong is beside the pixels
        return 1


def _from_pillow(
    image: Image.Image,
    name: str,
    channels: int | None,
    decoding: Decoding,
    low: LowBytes | None = None,
) -> Decoded:
    mode = image.mode
    kind = image.format or "Pillow image"
    out = channels or (1 if mode in _GREY_MODES else 3)
    counted = check_size(name, image.width, image.height, kind, bytes_a_pixel(image, out), decoding)
    uncovered = without_strips(image)
    _check_missing(name, uncovered, decoding)
    missing = load_image(image, decoding.max_pixels) or uncovered
    _check_missing(name, missing, decoding)
    if 0 in image.size:
        raise DepthwiseError(f"image of {image.width} x {image.height}: it has no pixels")
    values = _values_of_16_bits(image, name) if _is_deep(image) else None
    pixels, of_colours = _converted(image, channels, orientation(image), decoding.white_level, low)
    return Decoded(pixels, image.format or "unknown", mode, counted, missing, values or of_colours)


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _values_of_16_bits(image: Image.Image, name: str) -> tuple[int, int]:
    """The lowest and the highest. Some 16-bit files Pillow opens with 32; what needs those, or is real, has no known
    white."""
    spans = [(band.min(), band.max()) for band in (np.array(image.crop(box)) for box in _bands(image))]
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    if image.mode == "F" or low < 0 or high > 65535:
        kind = "float" if image.mode == "F" else "integer"
        reason = f"32-bit {kind} pixels ({low} to {high}) have no known white: save 8 or 16 bits"
        raise UnreadableImageError(name, reason)
    return int(low), int(high)


def _bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of at most BAND values, from top to bottom: whole rows, or a part of one."""
    pixels = BAND // max(CHANNELS)
    rows, columns = max(1, pixels // image.width), min(image.width, pixels)
    for top in range(0, image.height, rows):
        for left in range(0, image.width, columns):
            yield left, top, min(left + columns, image.width), min(top + rows, image.height)


def _converted(
    image: Image.Image,
    channels: int | None,
    turned: int = 1,
    white: int = WHITE,
    low: LowBytes | None = None,
) -> tuple[Tensor, tuple[int, int] | None]:
    """The upright pixels of a loaded image, and the lowest and highest value of colours of 16 bits."""
    grey, inverted = image.mode in _GREY_MODES, has_deep_white_at_0(image)
    span: list[int] = []
    seen = np.empty(0)
    for box in _bands(image):
        part = _part(image.crop(box), white)
        if low:
            values = low.join(part, box)
            span += [int(values.min()), int(values.max())]
            part[..., :3] = to_eight_bits(values, white)
        if inverted:
            part = 255 - part
        pixels = own_or_asked(_from_array(part), grey, channels).permute(1, 2, 0).numpy()
        if not seen.size:
            whole = np.broadcast_to(pixels[:1, :1], (image.height, image.width, pixels.shape[2]))
            seen = np.empty(upright(whole, turned).shape, np.uint8)
        as_stored(seen, turned)[box[1] : box[3], box[0] : box[2]] = pixels
    return torch.from_numpy(seen).permute(2, 0, 1), (min(span), max(span)) if span else None


def _part(image: Image.Image, white: int) -> np.ndarray:
    """uint8 [h, w] or [h, w, C]."""
    if _is_deep(image):
        return to_eight_bits(np.array(image).astype(np.uint16, copy=False), white)
    if image.has_transparency_data:
        return np.array(image.convert("RGBA"))
    return np.array(image.convert("L" if image.mode in _GREY_MODES else "RGB"))


def _from_array(array: np.ndarray, white: int = WHITE) -> Tensor:
    """[H, W] or [H, W, C] -> [C, H, W], in the same memory where it can be."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in CHANNELS:
        raise DepthwiseError(
            f"array of shape {array.shape}: an image is [H, W] or [H, W, C] with C 1, 3 or 4"
        )
    if array.dtype == np.uint16:
        array = _with_white(array, white)
    if array.dtype != np.uint8:
        raise DepthwiseError(
            f"array of {array.dtype}: an image is uint8 (0 to 255) or uint16, convert it first"
        )
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return _not_empty(torch.from_numpy(array).permute(2, 0, 1))


def _with_white(array: np.ndarray, white: int) -> np.ndarray:
    """uint16 [H, W, C] -> uint8; opacity is always a part of the full range."""
    eight = to_eight_bits(array, white)
    if array.shape[2] == 4:
        eight[..., 3] = to_eight_bits(array[..., 3], WHITE)
    return eight


def _from_tensor(tensor: Tensor, white: int) -> Tensor:
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3 or tensor.shape[0] not in CHANNELS:
        shape = tuple(tensor.shape)
        raise DepthwiseError(f"tensor of shape {shape}: an image is [H, W] or [C, H, W] with C 1, 3 or 4")
    if tensor.dtype == torch.uint16:
        return _from_array(tensor.detach().cpu().permute(1, 2, 0).numpy(), white)
    if tensor.dtype != torch.uint8:
        raise DepthwiseError(
            f"tensor of {tensor.dtype}: an image is uint8 (0 to 255) or uint16, convert it first"
        )
    return _not_empty(tensor)


def _not_empty(image: Tensor) -> Tensor:
    if image.numel() == 0:
        raise DepthwiseError(f"image of shape {tuple(image.shape)}: it has no pixels")
    return image
