"""What is done to an image on its way into a network: one preprocessing for every use, and augmentation."""

import math
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import ColorJitter, RandAugment
from torchvision.transforms.v2 import functional as F

from depthwise.bounds import Bounds, Length, OneOf, check, fit
from depthwise.data.cropping import open_jpeg
from depthwise.data.deep import WHITE, WhiteLevel
from depthwise.data.image import CHANNELS, File, decode_bytes, to_channels
from depthwise.data.region import Box
from depthwise.errors import DepthwiseError, UsageError, shown

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")  # as Pillow has them
Interpolation = Annotated[str, OneOf(*INTERPOLATIONS)]
Side = Annotated[int, Bounds(1, 8192)]
Channels = Annotated[int, OneOf(*CHANNELS)]
CropFraction = Annotated[float, Bounds(0.01, 1)]
Means = Annotated[tuple[Annotated[float, Bounds(-1e6, 1e6)], ...], Length(0, 4)]
Deviations = Annotated[tuple[Annotated[float, Bounds(1e-6, 1e6)], ...], Length(0, 4)]

# To what side an image may be resized before `size` is cut out of it.
MAX_COVER = 8192

# Fields that bundles written before them do not have.
_LATER = {"stretch", "white_level"}

# How far the longer side may reach beyond what is cut out, in times of that, while an image is resized: a strip
# of 1 x 100000 pixels must not become 299 x 29900000 before its centre is taken.
_LONGEST = 4


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a network's input, in evaluation, prediction and serving alike.

    It is resized (antialiased, but for "nearest") until it just covers `size` / `crop_fraction`, and the centre
    `size` (height, width) is cut out. `stretch` resizes to exactly that instead, whatever becomes of the aspect.
    mean and std are of each channel, in units of the full range (0 to 1); left out, they are 0.5. white_level: the
    value of 16 bits that is white when an image is decoded, see `Decoding`. channels None leaves them open, as recipes
    do, until `for_channels`.
    """

    size: tuple[Side, Side] = (299, 299)
    channels: Channels | None = None
    crop_fraction: CropFraction = 0.875
    interpolation: Interpolation = "bilinear"
    mean: Means = ()
    std: Deviations = ()
    stretch: bool = False
    white_level: WhiteLevel = WHITE

    def __post_init__(self) -> None:
        check(self)
        given = len(self.mean or self.std)
        channels = self.channels or (given if given in CHANNELS else 3)
        if self.channels or given:
            for name in ("mean", "std"):
                object.__setattr__(self, name, getattr(self, name) or (0.5,) * channels)
            if not len(self.mean) == len(self.std) == channels:
                numbers = f"mean={self.mean} and std={self.std}"
                raise UsageError(f"{numbers} must hold a number for each channel: give {channels} each")
        if max(self.cover) > MAX_COVER:
            raise UsageError(
                f"size={self.size} and crop_fraction={self.crop_fraction} resize images to {max(self.cover):,} pixels, "
                f"and at most {MAX_COVER:,} can be: give a smaller size or a larger crop_fraction"
            )

    def for_channels(self, channels: int) -> "Preprocess":
        """The same, for images of `channels` if they are open."""
        return replace(self, channels=self.channels or channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what goes into the network. Raises UsageError while the channels are open."""
        if self.channels is None:
            raise UsageError("the preprocessing leaves its channels open: give 1, 3 or 4 of them")
        return self.channels, *self.size

    @property
    def cover(self) -> list[int]:
        """The height and width that an image is resized to, before `size` is cut out of the middle."""
        return [round(side / self.crop_fraction) for side in self.size]

    def pixels(self, image: Tensor) -> Tensor:
        """uint8 [..., C, H, W] of any size and channels -> uint8 [..., channels, h, w]."""
        image = to_channels(image, self.shape[0])
        sides = list(image.shape[-2:])
        kept, resized = self._sizes(*sides)
        if kept != sides:
            image = F.center_crop(image, kept)
        return F.center_crop(self.resize(image, resized), list(self.size))

    def seen(self, height: int, width: int) -> tuple[float, float, float, float]:
        """What the network sees of an image of this size: (top, left, height, width), in pixels of the image."""
        spans = []
        sides = (height, width)
        for side, kept, resized, size in zip(sides, *self._sizes(height, width), self.size, strict=True):
            step = kept / resized
            spans.append((_margin(side, kept) + _margin(resized, size) * step, size * step))
        (top, tall), (left, wide) = spans
        return top, left, tall, wide

    def _sizes(self, height: int, width: int) -> tuple[list[int], list[int]]:
        """What is kept of the middle of an image, and what that is resized to: [height, width] each."""
        cover = self.cover
        if self.stretch:
            return [height, width], cover
        scale = max(cover[0] / height, cover[1] / width)
        longest = [math.ceil(_LONGEST * side / scale) for side in cover]
        height, width = kept = [min(height, longest[0]), min(width, longest[1])]
        # The longer side is rounded down, as torchvision and timm do.
        if cover[0] * width >= cover[1] * height:
            return kept, [cover[0], cover[0] * width // height]
        return kept, [cover[1] * height // width, cover[1]]

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
            names = ", ".join(name if name in known else shown(name) for name in wrong[:9])
            raise DepthwiseError(f"preprocessing with {names}: its fields are {', '.join(sorted(known))}")
        fit(data["channels"], Channels, "channels")
        return Preprocess(**data)


def _margin(side: int, size: int) -> int:
    """What torchvision's center_crop leaves out before the `size` of `side` pixels that it takes."""
    return round((side - size) / 2)


def _nearest(side: int, size: int) -> Tensor:
    """The `size` of `side` pixels that Pillow takes: it adds the step up, and at a tie that rounding decides."""
    step = side / size
    return torch.tensor([int(place) for place in accumulate([step / 2] + [step] * (size - 1))])


Crop = Literal["resized", "shift", "none"]
Area = Annotated[float, Bounds(0, 1, above=True)]
Aspect = Annotated[float, Bounds(0.001, 1000)]
Fraction = Annotated[float, Bounds(0, 1)]


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
    scale: tuple[Area, Area] = (0.08, 1.0)
    ratio: tuple[Aspect, Aspect] = (3 / 4, 4 / 3)
    shift: Annotated[int, Bounds(0, 8192)] = 0
    flip: bool = True
    color: Fraction = 0.0
    randaugment: Annotated[int, Bounds(0, 100)] = 0
    magnitude: Annotated[int, Bounds(0, 30)] = 9
    erase: Fraction = 0.0
    erase_size: Fraction = 0.3
    mixup: Annotated[float, Bounds(0, 1000)] = 0.0
    cutmix: Annotated[float, Bounds(0, 1000)] = 0.0

    def __post_init__(self) -> None:
        check(self, "augment")
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise UsageError(
                    f"augment.{name}={(low, high)} must go from low to high: write {(high, low)}"
                )

    @property
    def per_image(self) -> bool:
        """Whether images are changed one by one, before they are a batch of one size."""
        return self.crop == "resized" or self.color > 0 or self.randaugment > 0

    def image(self, source: Tensor | File, preprocess: Preprocess) -> Tensor:
        """uint8 [C, H, W], or a file -> uint8 [channels, h, w], drawn from torch's global generator: what `per_image`
        needs. Raises UnreadableImageError, and has drawn nothing then."""
        if self.crop == "resized":
            image = self._resized_crop(source, preprocess)
        else:
            image = preprocess.pixels(decode_bytes(*source) if isinstance(source, File) else source)
        if self.color > 0:
            image = ColorJitter(self.color, self.color, self.color)(image)
        if self.randaugment > 0:
            image = RandAugment(self.randaugment, self.magnitude, interpolation=InterpolationMode.BILINEAR)(
                image
            )
        if self.flip and torch.rand(()) < 0.5:
            image = F.horizontal_flip(image)
        return image

    def _resized_crop(self, source: Tensor | File, preprocess: Preprocess) -> Tensor:
        if isinstance(source, File):
            return self._crop_of_file(source, preprocess)
        image = to_channels(source, preprocess.shape[0])
        box = RandomResizedCrop.get_params(image, list(self.scale), list(self.ratio))
        return preprocess.resize(F.crop(image, *box), list(preprocess.size))

    def _crop_of_file(self, file: File, preprocess: Preprocess) -> Tensor:
        if picture := open_jpeg(file):
            state = torch.default_generator.get_state()
            whole = torch.empty((1, 1, 1)).expand(
                1, *picture.size
            )  # torchvision asks an image for its size alone
            box = Box(*RandomResizedCrop.get_params(whole, list(self.scale), list(self.ratio)))
            if found := picture.cut(box, preprocess.size, preprocess.interpolation):
                image, resized = found
                image = to_channels(image, preprocess.shape[0])
                return image if resized else preprocess.resize(image, list(preprocess.size))
            torch.default_generator.set_state(state)
        return self._resized_crop(decode_bytes(*file), preprocess)

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
