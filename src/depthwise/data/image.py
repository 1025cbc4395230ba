"""One way in for every image: any file, bytes or array becomes a uint8 tensor [C, H, W]."""

import torch
from torch import Tensor

from depthwise.errors import DepthwiseError

CHANNELS = (1, 3, 4)


def to_channels(image: Tensor, channels: int) -> Tensor:
    """`image` uint8 [..., C, H, W] with `channels` of them: grey is repeated, colour becomes luma (ITU-R 601),
    transparency is composited on white, and opaque transparency is added where four are asked for."""
    if channels not in CHANNELS:
        raise DepthwiseError(
            f"{channels} channels: an image has 1 (grey), 3 (RGB) or 4 (RGBA), ask for one of these"
        )
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
    # Pillow's own fixed-point luma, so that a tensor and a file give the same grey.
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8).unsqueeze(-3)


def _on_white(image: Tensor) -> Tensor:
    """uint8 [..., A, H, W] with transparency last -> uint8 [..., A - 1, H, W], rounded to nearest."""
    alpha = image[..., -1:, :, :].to(torch.int32)
    mixed = image[..., :-1, :, :].to(torch.int32) * alpha + 255 * (255 - alpha)
    return ((mixed + 127) // 255).to(torch.uint8)
