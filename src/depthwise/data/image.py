"""One way in for every image: any file, bytes or array becomes a uint8 tensor [C, H, W], always by the same code.

Pillow reads every format. JPEG goes through torchvision's decoder, which gives the same pixels without Pillow's
copies; what that one refuses is left to Pillow, so there is one judge of what can be read. Colour profiles are
not applied. Of 16 bits the high byte is kept.
"""

import io
import os
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.reading import read_regular

try:
    from torchvision.io import decode_jpeg
except ImportError:  # torchvision has announced its end; Pillow is slower, and reads the same
    decode_jpeg = None

ImageInput = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor

CHANNELS = (1, 3, 4)
MAX_PIXELS = 178_956_970  # where Pillow, too, speaks of a decompression bomb: 512 MiB of RGB

_GREY_MODES = ("1", "L", "LA", "La")


class UnreadableImageError(DepthwiseError):
    """An image that cannot be decoded; `reason` is the sentence without the image's name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason = reason


def decode(source: ImageInput, channels: int | None = None) -> Tensor:
    """The upright first frame of `source` as uint8 [C, H, W], RGB order, transparency composited on white.

    source: a path, an encoded image's bytes, a Pillow image, an array [H, W] or [H, W, C], or a tensor [H, W] or
    [C, H, W], the last two uint8 or uint16. channels: 1 (grey), 3 (RGB), 4 (RGBA, transparency kept), or None
    for the image's own, 1 or 3. Raises UnreadableImageError (a DepthwiseError).
    """
    if isinstance(source, str | os.PathLike):
        return decode_bytes(_read(source), channels, os.fspath(source))
    if isinstance(source, bytes):
        return decode_bytes(source, channels)
    if isinstance(source, Image.Image):
        return _fit(*_from_pillow(source, "image"), channels)
    if isinstance(source, np.ndarray):
        return _fit(_from_array(source), False, channels)
    if isinstance(source, Tensor):
        return _fit(_from_tensor(source), False, channels)
    raise DepthwiseError(
        f"{type(source).__name__} is no image: pass a path, bytes, a Pillow image, an array or a tensor"
    )


def decode_bytes(data: bytes, channels: int | None = None, name: str = "image") -> Tensor:
    """As `decode`, from an encoded image's bytes; `name` is what an error calls it."""
    if not data:
        raise UnreadableImageError(name, "the file is empty (0 bytes)")
    jpeg = _jpeg_frame(data) if decode_jpeg else None
    if jpeg and jpeg.components in (1, 3) and jpeg.pixels <= MAX_PIXELS:
        try:
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            return _fit(decode_jpeg(encoded, apply_exif_orientation=True), False, channels)
        except RuntimeError:
            pass  # Pillow judges, and gives the reason
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _fit(*_from_pillow(image, name), channels)
    except DepthwiseError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError(name, "not an image of a format that can be read") from None
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        raise UnreadableImageError(name, str(error) or type(error).__name__) from error


def to_channels(image: Tensor, channels: int) -> Tensor:
    """uint8 [..., C, H, W] with `channels` of them: grey is repeated, colour becomes luma (ITU-R 601), transparency
    is composited on white, and full opacity is added where four are asked for."""
    if channels not in CHANNELS:
        raise DepthwiseError(f"{channels} channels: ask for 1 (grey), 3 (RGB) or 4 (RGBA)")
    have = image.shape[-3]
    if have == channels:
        return image
    if channels == 4:
        return torch.cat([to_channels(image, 3), torch.full_like(image[..., :1, :, :], 255)], dim=-3)
    if have == 4:
        return to_channels(_on_white(image), channels)
    if channels == 3:
        return image.expand(*image.shape[:-3], 3, *image.shape[-2:])
    red, green, blue = image.to(torch.int32).unbind(-3)
    # Pillow's own fixed-point luma, so that it makes no difference who turned a picture grey.
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8).unsqueeze(-3)


def _fit(image: Tensor, grey: bool, channels: int | None) -> Tensor:
    """An RGBA image whose colours are all `grey` has one channel of its own, any other three."""
    if channels is None:
        channels = 1 if grey or image.shape[0] == 1 else 3
    return to_channels(image, channels)


def _on_white(image: Tensor) -> Tensor:
    """uint8 [..., 4, H, W] -> uint8 [..., 3, H, W], rounded to nearest."""
    alpha = image[..., 3:, :, :].to(torch.int32)
    mixed = image[..., :3, :, :].to(torch.int32) * alpha + 255 * (255 - alpha)
    return ((mixed + 127) // 255).to(torch.uint8)


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise UnreadableImageError(os.fspath(path), error.strerror or str(error)) from error


class _JpegFrame(NamedTuple):
    components: int
    pixels: int


def _jpeg_frame(data: bytes) -> _JpegFrame | None:
    """What the frame header of an 8-bit JPEG says (ITU T.81, B.2.2), or None if `data` has none."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            return _JpegFrame(data[at + 9], height * width) if data[at + 4] == 8 else None
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def _from_pillow(image: Image.Image, name: str) -> tuple[Tensor, bool]:
    """A Pillow image's pixels, and whether it is grey although they have four channels."""
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height} pixels"
        raise UnreadableImageError(
            name, f"{size} is over {MAX_PIXELS}, a decompression bomb's size: scale it down"
        )
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_array(_sixteen_bits(image, name)), False
    if image.has_transparency_data:
        return _from_array(np.array(image.convert("RGBA"))), image.mode in _GREY_MODES
    return _from_array(np.array(image.convert("L" if image.mode in _GREY_MODES else "RGB"))), False


def _sixteen_bits(image: Image.Image, name: str) -> np.ndarray:
    """uint16 [H, W]. Some 16-bit files Pillow opens with 32; what needs those, or is real, has no known white."""
    values = np.array(image)
    low, high = values.min(), values.max()
    if image.mode == "F" or low < 0 or high > 65535:
        kind = "float" if image.mode == "F" else "integer"
        reason = f"32-bit {kind} pixels ({low} to {high}) have no known white: save 8 or 16 bits"
        raise UnreadableImageError(name, reason)
    return values.astype(np.uint16)


def _from_array(array: np.ndarray) -> Tensor:
    """[H, W] or [H, W, C] -> [C, H, W], in the same memory where it can be."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in CHANNELS:
        raise DepthwiseError(
            f"array of shape {array.shape}: an image is [H, W] or [H, W, C] with C 1, 3 or 4"
        )
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DepthwiseError(
            f"array of {array.dtype}: an image is uint8 (0 to 255) or uint16, convert it first"
        )
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return _not_empty(torch.from_numpy(array).permute(2, 0, 1))


def _from_tensor(tensor: Tensor) -> Tensor:
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3 or tensor.shape[0] not in CHANNELS:
        shape = tuple(tensor.shape)
        raise DepthwiseError(f"tensor of shape {shape}: an image is [H, W] or [C, H, W] with C 1, 3 or 4")
    if tensor.dtype == torch.uint16:
        tensor = (tensor.to(torch.int32) >> 8).to(torch.uint8)
    if tensor.dtype != torch.uint8:
        raise DepthwiseError(
            f"tensor of {tensor.dtype}: an image is uint8 (0 to 255) or uint16, convert it first"
        )
    return _not_empty(tensor)


def _not_empty(image: Tensor) -> Tensor:
    if image.numel() == 0:
        raise DepthwiseError(f"image of shape {tuple(image.shape)}: it has no pixels")
    return image
