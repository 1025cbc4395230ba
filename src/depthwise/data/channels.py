"""Grey, colour and transparency: from any number of channels to any other, a few rows of a large image at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from depthwise.errors import DepthwiseError

CHANNELS = (1, 3, 4)
BAND = 1 << 20
"""So many values are converted at once: what is computed on the way takes little memory."""


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
        return to_channels(_in_bands(_on_white, image, 3), channels)
    if channels == 3:
        return image.expand(*image.shape[:-3], 3, *image.shape[-2:])
    return _in_bands(_luma, image, 1)


def own_or_asked(image: Tensor, grey: bool, channels: int | None) -> Tensor:
    """An RGBA image whose colours are all `grey` has one channel of its own, any other three."""
    if channels is None:
        channels = 1 if grey or image.shape[0] == 1 else 3
    return to_channels(image, channels)


def _in_bands(change: Callable[[Tensor], Tensor], image: Tensor, channels: int) -> Tensor:
    """change(image), uint8 [..., channels, H, W], some rows at a time, so that its sums take little memory."""
    height = image.shape[-2]
    rows = max(1, BAND * height // max(1, image.numel()))
    if rows >= height:
        return change(image)
    changed = image.new_empty((*image.shape[:-3], channels, *image.shape[-2:]))
    for top in range(0, height, rows):
        changed[..., top : top + rows, :] = change(image[..., top : top + rows, :])
    return changed


def _luma(image: Tensor) -> Tensor:
    """uint8 [..., 3, H, W] -> uint8 [..., 1, H, W]."""
    red, green, blue = image.to(torch.int32).unbind(-3)
    # Pillow's own fixed-point luma, so that it makes no difference who turned a picture grey.
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8).unsqueeze(-3)


def _on_white(image: Tensor) -> Tensor:
    """uint8 [..., 4, H, W] -> uint8 [..., 3, H, W], rounded to nearest."""
    alpha = image[..., 3:, :, :].to(torch.int32)
    mixed = image[..., :3, :, :].to(torch.int32) * alpha + 255 * (255 - alpha)
    return ((mixed + 127) // 255).to(torch.uint8)
