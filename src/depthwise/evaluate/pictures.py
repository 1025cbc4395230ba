"""Images as PNG data URIs, so that a page carries its own pictures."""

import base64
import io
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from depthwise.heat import Heat

PIXELATED_BELOW = 96  # smaller ones are shown enlarged: their pixels should stay squares, not a blur


@dataclass(frozen=True)
class Picture:
    """A PNG data URI, its size in pixels, whether it should be enlarged without blur, and if it may be seen through."""

    uri: str
    width: int
    height: int
    pixelated: bool
    transparent: bool


def picture(image: Tensor, largest: int) -> Picture:
    """`image`, uint8 [C, H, W], with its longer side reduced to `largest` pixels if it is longer.

    One channel is grey, three are RGB, four RGBA; of any other number the first one is shown as grey.
    """
    pixels = image if image.shape[0] in (1, 3, 4) else image[:1]
    array = pixels.permute(1, 2, 0).contiguous().cpu().numpy()
    shown = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    shown.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    return Picture(
        _uri(shown), shown.width, shown.height, max(shown.size) < PIXELATED_BELOW, shown.mode == "RGBA"
    )


@dataclass(frozen=True)
class Veil:
    """Heat as a transparent PNG data URI, and where over the picture it lies: shares of the picture's sides."""

    uri: str
    top: float
    left: float
    height: float
    width: float


def veil(heat: Heat) -> Veil:
    """What is laid over the picture that the network looked at."""
    (height, width), (top, left, tall, wide) = heat.size, heat.box
    return Veil(_uri(heat.veil()), top / height, left / width, tall / height, wide / width)


def _uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
