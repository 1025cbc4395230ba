"""What is done to an image on its way into a network: one preprocessing for every use, and augmentation."""

import math
from dataclasses import asdict, dataclass, fields
from itertools import accumulate
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import ColorJitter, RandAugment
from torchvision.transforms.v2 import functional as F

from depthwise.data.image import CHANNELS, to_channels
from depthwise.errors import DepthwiseError

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")  # as Pillow has them

# Fields that bundles written before them do not have.
_LATER = {"stretch"}

# How far the longer side may reach beyond what is cut out, in times of that, while an image is resized: a strip
# of 1 x 100000 pixels must not become 299 x 29900000 before its centre is taken.
_LONGEST = 4


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a network's input, in evaluation, prediction and serving alike.

    It is resized (antialiased, but for "nearest") until it just covers `size` / `crop_fraction`, and the centre
    `size` (height, width) is cut out. `stretch` resizes to exactly that instead, whatever becomes of the aspect.
    mean and std are of each channel, in units of the full range (0 to 1); left out, they are 0.5.
    """

    size: tuple[int, int]
    channels: int
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    stretch: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)) or (0.5,) * self.channels)
        if len(self.size) != 2 or min(self.size) < 1:
            raise DepthwiseError(f"size {self.size}: give a height and a width of at least 1 pixel")
        if self.channels not in CHANNELS:
            raise DepthwiseError(f"channels {self.channels}: give 1 (grey), 3 (RGB) or 4 (RGBA)")
        if not 0 < self.crop_fraction <= 1:
            raise DepthwiseError(f"crop_fraction {self.crop_fraction}: give one above 0, and at most 1")
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise DepthwiseError(f"interpolation {self.interpolation!r}: use one of {known}")
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            given = f"mean {self.mean} and std {self.std}"
            raise DepthwiseError(f"{given}: give {self.channels} numbers each, one a channel, std above 0")
        if not isinstance(self.stretch, bool):
            raise DepthwiseError(f"stretch {self.stretch!r}: give true or false")

    def pixels(self, image: Tensor) -> Tensor:
        """uint8 [..., C, H, W] of any size and channels -> uint8 [..., channels, h, w]."""
        image = to_channels(image, self.channels)
        height, width = image.shape[-2:]
        cover = [round(side / self.crop_fraction) for side in self.size]
        if self.stretch:
            return F.center_crop(self.resize(image, cover), list(self.size))
        scale = max(cover[0] / height, cover[1] / width)
        longest = [math.ceil(_LONGEST * side / scale) for side in cover]
        if height > longest[0] or width > longest[1]:
            image = F.center_crop(image, [min(height, longest[0]), min(width, longest[1])])
            height, width = image.shape[-2:]
        # The longer side is rounded down, as torchvision and timm do.
        if cover[0] * width >= cover[1] * height:
            resized = [cover[0], cover[0] * width // height]
        else:
            resized = [cover[1] * height // width, cover[1]]
        return F.center_crop(self.resize(image, resized), list(self.size))

    def resize(self, image: Tensor, size: list[int]) -> Tensor:
        """uint8 [..., C, H, W] -> uint8 [..., C, h, w], antialiased, channels last."""
        if self.interpolation == "nearest":
            rows, columns = (_nearest(*sides) for sides in zip(image.shape[-2:], size, strict=True))
            return image[..., rows[:, None], columns]
        # Only from channels-last memory, which a part cut out of an image no longer is, does the fast path of uint8
        # come out as such: anything else costs two transpositions.
        batch = image.reshape(-1, *image.shape[-3:]).contiguous(memory_format=torch.channels_last)
        resized = F.resize(batch, size, InterpolationMode(self.interpolation), antialias=True)
        return resized.reshape(*image.shape[:-3], *resized.shape[1:])

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [N, C, h, w] -> float32, (pixel / 255 - mean) / std, in channels-last memory."""
        n, channels, height, width = pixels.shape
        # Over whole rows: broadcasting three numbers along the innermost of the three axes is five times slower.
        mean, std = (
            torch.tensor(of, device=pixels.device).mul(255).repeat(width) for of in (self.mean, self.std)
        )
        rows = pixels.permute(0, 2, 3, 1).reshape(n, height, width * channels).float()
        return rows.sub_(mean).div_(std).view(n, height, width, channels).permute(0, 3, 1, 2)

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 [C, H, W] -> float32 [channels, h, w]."""
        return self.normalise(self.pixels(image)[None])[0]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Preprocess":
        """The inverse of `to_json`; raises DepthwiseError about a field that is missing or unknown."""
        known = {field.name for field in fields(Preprocess)}
        wrong = sorted((set(data) | _LATER) ^ known) if isinstance(data, dict) else [type(data).__name__]
        if wrong:
            raise DepthwiseError(
                f"preprocessing with {', '.join(wrong)}: its fields are {', '.join(sorted(known))}"
            )
        try:
            return Preprocess(**data)
        except TypeError as error:
            raise DepthwiseError(
                f"preprocessing {data} cannot be read ({error}): write it with to_json"
            ) from error


def _nearest(side: int, size: int) -> Tensor:
    """The `size` of `side` pixels that Pillow takes: it adds the step up, and at a tie that rounding decides."""
    step = side / size
    return torch.tensor([int(place) for place in accumulate([step / 2] + [step] * (size - 1))])


Crop = Literal["resized", "shift", "none"]


@dataclass(frozen=True)
class Augment:
    """What training changes at random, in this order.

    On each image: crop "resized" cuts out a part of area `scale` and aspect `ratio` (Szegedy 2015, section 6), any
    other the same centre as evaluation; color jitters brightness, contrast and saturation by up to this fraction;
    randaugment applies so many operations of strength `magnitude` (Cubuk 2020). On the batch: crop "shift" moves
    each image by up to `shift` pixels, black coming in; flip mirrors every other one; erase is the probability
    that a box, `erase_size` of each side, is set to the mean (DeVries 2017). On the normalised batch and its targets:
    mixup (Zhang 2018) and cutmix (Yun 2019) are the Beta distribution's alpha; with both, each batch draws one.
    Zero turns a field off.
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
        object.__setattr__(self, "scale", tuple(self.scale))
        object.__setattr__(self, "ratio", tuple(self.ratio))
        if self.crop not in get_args(Crop):
            raise DepthwiseError(f"crop {self.crop!r}: use one of {', '.join(get_args(Crop))}")
        for name, at_most in (("scale", 1.0), ("ratio", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= at_most:
                raise DepthwiseError(
                    f"{name} {low, high}: give a low and a high one, above 0 and at most {at_most}"
                )
        limits = {"shift": math.inf, "color": 1, "randaugment": math.inf, "magnitude": 30}
        limits |= {"erase": 1, "erase_size": 1, "mixup": math.inf, "cutmix": math.inf}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise DepthwiseError(f"{name} {getattr(self, name)}: give a number from 0 to {most}")

    @property
    def per_image(self) -> bool:
        """Whether images are changed one by one, before they are a batch of one size."""
        return self.crop == "resized" or self.color > 0 or self.randaugment > 0

    def image(self, image: Tensor, preprocess: Preprocess) -> Tensor:
        """uint8 [C, H, W] -> uint8 [channels, h, w], drawn from torch's global generator: what `per_image` needs."""
        if self.crop == "resized":
            image = to_channels(image, preprocess.channels)
            box = RandomResizedCrop.get_params(image, list(self.scale), list(self.ratio))
            image = preprocess.resize(F.crop(image, *box), list(preprocess.size))
        else:
            image = preprocess.pixels(image)
        if self.color > 0:
            image = ColorJitter(self.color, self.color, self.color)(image)
        if self.randaugment > 0:
            image = RandAugment(self.randaugment, self.magnitude, interpolation=InterpolationMode.BILINEAR)(
                image
            )
        if self.flip and torch.rand(()) < 0.5:
            image = F.horizontal_flip(image)
        return image

    def batch(self, pixels: Tensor, preprocess: Preprocess, generator: torch.Generator) -> Tensor:
        """uint8 [N, C, h, w] -> the same shape, each image by its own draw from `generator`."""
        n = len(pixels)
        if self.crop == "shift" and self.shift > 0:
            pixels = _shift(pixels, self.shift, generator)
        if self.flip and not self.per_image:
            mirrored = torch.rand((n, 1, 1, 1), generator=generator) < 0.5
            pixels = torch.where(mirrored, pixels.flip(-1), pixels)
        if self.erase > 0:
            chosen = torch.rand((n, 1, 1, 1), generator=generator) < self.erase
            box = _boxes(pixels, self.erase_size, generator) & chosen
            blank = torch.tensor([round(255 * mean) for mean in preprocess.mean], dtype=torch.uint8)
            pixels = torch.where(box, blank[:, None, None], pixels)
        return pixels


def _shift(pixels: Tensor, most: int, generator: torch.Generator) -> Tensor:
    n, _, height, width = pixels.shape
    padded = F.pad(pixels, [most]).permute(0, 2, 3, 1)
    top, left = torch.randint(0, 2 * most + 1, (2, n, 1, 1), generator=generator)
    image = torch.arange(n)[:, None, None]
    rows, columns = torch.arange(height)[:, None] + top, torch.arange(width) + left
    return padded[image, rows, columns].permute(0, 3, 1, 2)


def _boxes(pixels: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """bool [N, 1, h, w]. A box's centre may lie anywhere, so some are cut off by the border, as in the paper."""
    n, _, height, width = pixels.shape
    down, right = torch.rand((2, n, 1, 1), generator=generator)
    inside_rows = (torch.arange(height)[:, None] + 0.5 - down * height).abs() <= size * height / 2
    inside_columns = (torch.arange(width) + 0.5 - right * width).abs() <= size * width / 2
    return (inside_rows & inside_columns)[:, None]
