"""What is done to an image on its way into a network: one preprocessing for every use, and training's augmentation."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import ColorJitter, RandAugment
from torchvision.transforms.v2 import functional as F

from depthwise.data.image import to_channels
from depthwise.errors import DepthwiseError

# How many times the wanted side an image may reach while it is resized: a strip of 1 x 100000 pixels must not
# become 299 x 29900000 before its centre is cut out.
_LONGEST = 4


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a network's input in evaluation, prediction and serving; training ends in it too.

    The image is resized (antialiased) until it just covers `size / crop_fraction` and the centre `size` (height,
    width) is cut out; `mean` and `std` are in units of the full range, 0 to 1.
    """

    size: tuple[int, int]
    channels: int
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)) or (0.5,) * self.channels)
        object.__setattr__(self, "size", tuple(self.size))

    def pixels(self, image: Tensor) -> Tensor:
        """uint8 [..., C, H, W] of any size and channels -> uint8 [..., channels, h, w]."""
        image = to_channels(image, self.channels)
        height, width = image.shape[-2:]
        if (height, width) == self.size:
            return image
        cover = [round(side / self.crop_fraction) for side in self.size]
        scale = max(cover[0] / height, cover[1] / width)
        if max(height / cover[0], width / cover[1]) * scale > _LONGEST:
            longest = [math.ceil(_LONGEST * side / scale) for side in cover]
            image = F.center_crop(image, [min(height, longest[0]), min(width, longest[1])])
            height, width = image.shape[-2:]
        resized = [max(cover[0], round(height * scale)), max(cover[1], round(width * scale))]
        image = F.resize(image, resized, interpolation=InterpolationMode(self.interpolation), antialias=True)
        return F.center_crop(image, list(self.size))

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [N, C, h, w] -> float32 of the same shape in channels-last memory, (pixel / 255 - mean) / std."""
        shape = (-1, 1, 1)
        mean = torch.tensor(self.mean, device=pixels.device).mul(255).view(shape)
        std = torch.tensor(self.std, device=pixels.device).mul(255).view(shape)
        return pixels.to(torch.float32, memory_format=torch.channels_last).sub_(mean).div_(std)

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 [C, H, W] -> float32 [channels, h, w]."""
        return self.normalise(self.pixels(image).unsqueeze(0))[0]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Preprocess":
        return Preprocess(**data)


Crop = Literal["resized", "shift", "none"]


@dataclass(frozen=True)
class Augment:
    """Training's random changes, in this order: crop, colour, RandAugment on each image; then shift, flip and
    erase on the batch; mixup and cutmix on the normalised batch.

    crop: "resized" cuts out a part of area `scale` and aspect `ratio` (Szegedy 2015, section 6); "shift" pads by
    `shift` pixels and cuts the size out again; "none" takes evaluation's crop. flip: mirrored every other time.
    color: jitter strength of brightness, contrast and saturation, 0 = off. randaugment: operations an image, of
    `magnitude` (Cubuk 2020). erase: probability that a box of `erase_size` of each side is blanked (DeVries 2017).
    mixup, cutmix: the Beta distribution's alpha, 0 = off; where both are on, each batch draws one of them.
    """

    crop: Crop = "resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    shift: int = 0
    flip: bool = True
    color: float = 0.0
    randaugment: int = 0
    magnitude: int = 9
    erase: float = 0.0
    erase_size: float = 0.3
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if self.crop not in get_args(Crop):
            raise DepthwiseError(f"crop {self.crop!r}: use one of {', '.join(get_args(Crop))}")

    @property
    def per_image(self) -> bool:
        """Whether images are changed one by one before they are stacked."""
        return self.crop == "resized" or self.color > 0 or self.randaugment > 0

    def image(self, image: Tensor, preprocess: Preprocess) -> Tensor:
        """uint8 [C, H, W] -> uint8 [channels, h, w], drawing from torch's global generator."""
        interpolation = InterpolationMode(preprocess.interpolation)
        if self.crop == "resized":
            image = to_channels(image, preprocess.channels)
            box = RandomResizedCrop.get_params(image, list(self.scale), list(self.ratio))
            image = F.resized_crop(image, *box, list(preprocess.size), interpolation, antialias=True)
        else:
            image = preprocess.pixels(image)
        if self.color > 0:
            image = ColorJitter(self.color, self.color, self.color)(image)
        if self.randaugment > 0:
            image = RandAugment(self.randaugment, self.magnitude, interpolation=InterpolationMode.BILINEAR)(
                image
            )
        return image

    def batch(self, pixels: Tensor, preprocess: Preprocess, generator: torch.Generator) -> Tensor:
        """uint8 [N, C, h, w] -> the same shape, shifted, flipped and erased: each image by its own draw."""
        if self.crop == "shift" and self.shift > 0 or self.flip:
            pixels = _shift_and_flip(pixels, self.shift if self.crop == "shift" else 0, self.flip, generator)
        if self.erase > 0:
            pixels = _erase(pixels, self.erase, self.erase_size, preprocess.mean, generator)
        return pixels


def _shift_and_flip(pixels: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    n, _, height, width = pixels.shape
    padded = F.pad(pixels, [shift]) if shift else pixels
    top, left = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    if flip:
        mirrored = torch.rand((n, 1), generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    image = torch.arange(n)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _erase(
    pixels: Tensor, probability: float, size: float, fill: tuple[float, ...], generator: torch.Generator
) -> Tensor:
    n, _, height, width = pixels.shape
    inside = []
    for side in (height, width):
        # The centre may lie anywhere, so a box at the border is cut off, as in the paper.
        centre = torch.rand((n, 1), generator=generator) * side
        inside.append((torch.arange(side) + 0.5 - centre).abs() <= size * side / 2)
    chosen = torch.rand((n, 1, 1), generator=generator) < probability
    box = inside[0][:, :, None] & inside[1][:, None, :] & chosen
    blank = torch.tensor([round(255 * value) for value in fill], dtype=torch.uint8)
    return torch.where(box[:, None], blank[:, None, None], pixels)
