"""One preprocessing: its geometry, its arithmetic, its JSON; and what augmentation may and may not do."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms.v2.functional import center_crop, resize

from depthwise.data.transform import Augment, Preprocess
from depthwise.errors import DepthwiseError, UsageError

sides = st.integers(1, 70)


def picture(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(
    sides, sides, st.tuples(sides, sides), st.sampled_from([1, 3, 4]), st.floats(0.3, 1.0), st.integers(1, 4)
)
def test_any_image_comes_out_in_the_size_and_channels(
    height: int, width: int, size: tuple[int, int], channels: int, crop_fraction: float, given_channels: int
) -> None:
    image = picture(4 if given_channels == 2 else given_channels, height, width)
    ready = Preprocess(size, channels, crop_fraction)(image)
    assert ready.shape == (channels, *size)
    assert ready.dtype == torch.float32
    assert ready.abs().max() <= 1


@pytest.mark.parametrize(("interpolation", "resample"), [("bilinear", 2), ("bicubic", 3), ("nearest", 0)])
@pytest.mark.parametrize("size", [(96, 96), (64, 128)])
def test_the_resized_centre_is_pillows(interpolation: str, resample: int, size: tuple[int, int]) -> None:
    photograph = np.array(load_sample_image("flower.jpg"))  # 427 x 640
    height, width = photograph.shape[:2]
    cover = [round(side / 0.875) for side in size]
    scale = max(cover[0] / height, cover[1] / width)
    resized = Image.fromarray(photograph).resize((int(width * scale), int(height * scale)), resample)
    left, top = (resized.width - size[1]) / 2, (resized.height - size[0]) / 2
    expected = np.array(resized)[round(top) :, round(left) :][: size[0], : size[1]]
    preprocess = Preprocess(size, 3, interpolation=interpolation)
    pixels = preprocess.pixels(torch.from_numpy(photograph).permute(2, 0, 1)).permute(1, 2, 0)
    assert np.abs(pixels.numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("interpolation", "resample"), [("bilinear", 2), ("bicubic", 3), ("nearest", 0)])
@pytest.mark.parametrize("size", [(299, 299), (500, 700), (64, 128)])
def test_stretched_is_as_pillow_resizes(interpolation: str, resample: int, size: tuple[int, int]) -> None:
    photograph = np.array(load_sample_image("china.jpg"))
    expected = np.array(Image.fromarray(photograph).resize(size[::-1], resample))
    preprocess = Preprocess(size, 3, 1.0, interpolation, stretch=True)
    pixels = preprocess.pixels(torch.from_numpy(photograph).permute(2, 0, 1)).permute(1, 2, 0)
    difference = np.abs(pixels.numpy().astype(int) - expected).max()
    # Both round after each of two passes, which bicubic's overshoot makes more of.
    assert difference <= {"nearest": 0, "bilinear": 1, "bicubic": 2}[interpolation]


def test_stretched_and_cropped_is_the_centre_of_the_stretched() -> None:
    image = picture(3, 40, 70)
    larger = Preprocess((32, 32), 3, 1.0, stretch=True).pixels(image)
    assert torch.equal(Preprocess((28, 28), 3, 0.875, stretch=True).pixels(image), larger[:, 2:-2, 2:-2])


def test_an_image_of_the_right_size_is_left_alone_if_nothing_is_cropped() -> None:
    image = picture(3, 20, 30)
    assert torch.equal(Preprocess((20, 30), 3, crop_fraction=1.0).pixels(image), image)


@pytest.mark.parametrize("shape", [(427, 640), (640, 427), (300, 301), (800, 224), (20, 30)])
def test_torchvisions_resize_and_crop_see_the_same(shape: tuple[int, int]) -> None:
    image = picture(3, *shape)
    theirs = center_crop(resize(image, [235]), [224])
    assert torch.equal(Preprocess((224, 224), 3, 224 / 235).pixels(image), theirs)


def test_with_nothing_cropped_a_longer_image_gives_its_centre() -> None:
    image = picture(3, 20, 30)
    assert torch.equal(Preprocess((20, 20), 3, crop_fraction=1.0).pixels(image), image[:, :, 5:25])


def test_the_memory_an_image_lies_in_makes_no_difference() -> None:
    image, preprocess = picture(3, 50, 60), Preprocess((32, 32), 3)
    expected = preprocess.pixels(image)
    last = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(preprocess.pixels(last), expected)
    larger = picture(3, 70, 80)
    larger[:, 10:60, 5:65] = image
    assert torch.equal(preprocess.pixels(larger[:, 10:60, 5:65]), expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_batch_is_preprocessed_as_its_images_are(channels: int) -> None:
    batch, preprocess = picture(5, channels, 28, 31), Preprocess((32, 24), channels)
    assert torch.equal(preprocess.pixels(batch), torch.stack([preprocess.pixels(image) for image in batch]))


def test_a_strip_does_not_fill_the_memory() -> None:
    strip = picture(3, 1, 100_000)
    assert Preprocess((299, 299), 3).pixels(strip).shape == (3, 299, 299)
    assert Preprocess((299, 299), 3).pixels(strip.mT).shape == (3, 299, 299)


def test_normalising_is_the_formula_in_channels_last_memory() -> None:
    preprocess = Preprocess((6, 5), 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    pixels = picture(2, 3, 6, 5)
    images = preprocess.normalise(pixels)
    expected = (pixels.double() / 255 - torch.tensor(preprocess.mean).view(3, 1, 1)) / torch.tensor(
        preprocess.std
    ).view(3, 1, 1)
    torch.testing.assert_close(images, expected.float(), rtol=1e-5, atol=1e-5)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(preprocess.normalise(pixels.contiguous(memory_format=torch.channels_last)), images)
    assert preprocess.normalise(pixels[:0]).shape == (0, 3, 6, 5)


def test_preprocessing_survives_json() -> None:
    preprocess = Preprocess((299, 224), 3, 0.9, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocess.from_json(json.loads(json.dumps(preprocess.to_json()))) == preprocess
    stretched = replace(preprocess, stretch=True)
    assert Preprocess.from_json(json.loads(json.dumps(stretched.to_json()))) == stretched


def test_channels_may_be_open_until_the_data_are_known() -> None:
    open_ones = Preprocess((6, 5))
    assert (open_ones.mean, open_ones.std) == ((), ())
    assert open_ones.for_channels(1) == Preprocess((6, 5), 1, mean=(0.5,), std=(0.5,))
    assert open_ones.for_channels(4).shape == (4, 6, 5)
    assert Preprocess((6, 5), 3).for_channels(1).channels == 3
    assert Preprocess(mean=(0.1, 0.2, 0.3)).std == (0.5, 0.5, 0.5)
    with pytest.raises(UsageError, match="must hold a number for each channel: give 1 each"):
        Preprocess(mean=(0.1, 0.2, 0.3)).for_channels(1)
    with pytest.raises(UsageError, match="leaves its channels open: give 1, 3 or 4 of them"):
        open_ones(picture(3, 9, 9))


def test_preprocessing_written_before_there_was_stretching_is_read() -> None:
    preprocess = Preprocess((9, 9), 3)
    old = {name: value for name, value in preprocess.to_json().items() if name != "stretch"}
    assert Preprocess.from_json(old) == preprocess


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0, 5)}, "size"),
        ({"channels": 2}, "channels=2 must be 1 or 3 or 4"),
        ({"channels": None}, "channels=None must be 1 or 3 or 4"),
        ({"crop_fraction": 0.0}, "crop_fraction"),
        ({"crop_fraction": 1.5}, "crop_fraction"),
        ({"interpolation": "cubic"}, "bicubic"),
        ({"mean": (0.5,)}, "must hold a number for each channel: give 3 each"),
        ({"std": (0.5, 0.0, 0.5)}, r"std=\(0.5, 0.0, 0.5\): 0.0 must be at least 1e-06"),
        ({"colour": 1}, "colour"),
        ({"size": 5}, "size=5 must be a tuple"),
        ({"stretch": "yes"}, "must be True or False"),
    ],
)
def test_a_wrong_preprocessing_is_refused_with_the_rule(change: dict[str, object], message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        Preprocess.from_json(Preprocess((9, 9), 3).to_json() | change)


def test_a_preprocessing_with_a_field_missing_is_refused() -> None:
    with pytest.raises(DepthwiseError, match="mean"):
        Preprocess.from_json({"size": [9, 9], "channels": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": "center"}, "none, resized, shift"),
        ({"scale": (0.5, 1.5)}, "scale"),
        ({"ratio": (2, 1)}, "ratio"),
        ({"erase": 2.0}, "erase"),
        ({"mixup": -1.0}, "mixup"),
        ({"magnitude": 31}, "magnitude"),
    ],
)
def test_a_wrong_augmentation_is_refused_with_the_rule(change: dict[str, object], message: str) -> None:
    with pytest.raises(DepthwiseError, match=message):
        replace(Augment(), **change)  # type: ignore[arg-type]


PLAIN = Augment(crop="none", flip=False)


def test_flip_mirrors_about_every_other_image_and_nothing_else() -> None:
    pixels = picture(400, 1, 4, 5)
    changed = replace(PLAIN, flip=True).batch(pixels, Preprocess((4, 5), 1), generator())
    mirrored = (changed == pixels.flip(-1)).flatten(1).all(1)
    kept = (changed == pixels).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 150 < mirrored.sum() < 250


def test_shift_moves_each_image_by_its_own_offset_and_lets_black_in() -> None:
    pixels = picture(300, 3, 6, 7).clamp(min=1)
    changed = Augment(crop="shift", shift=2, flip=False).batch(pixels, Preprocess((6, 7), 3), generator())
    padded = torch.nn.functional.pad(pixels, (2, 2, 2, 2))
    seen = set()
    for before, after in zip(padded, changed, strict=True):
        fitting = {
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(before[:, top : top + 6, left : left + 7], after)
        }
        assert len(fitting) == 1
        seen |= fitting
    assert len(seen) == 25


def test_erase_sets_one_box_of_some_images_to_the_mean() -> None:
    preprocess = Preprocess((20, 30), 3, mean=(0.2, 0.4, 0.6))
    pixels = torch.full((500, 3, 20, 30), 255, dtype=torch.uint8)
    changed = replace(PLAIN, erase=0.5, erase_size=0.3).batch(pixels, preprocess, generator())
    erased = (changed != 255).any(1)
    assert 200 < erased.flatten(1).any(1).sum() < 300
    for image, box in zip(changed, erased, strict=True):
        rows, columns = box.any(1).nonzero().flatten(), box.any(0).nonzero().flatten()
        if len(rows) == 0:
            continue
        assert len(rows) <= 6
        assert len(columns) <= 9
        inside = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert torch.equal(
            inside, torch.tensor([51, 102, 153], dtype=torch.uint8).view(3, 1, 1).expand_as(inside)
        )
        assert box.sum() == inside[0].numel()


def test_resized_crops_show_parts_of_the_asked_area_and_aspect() -> None:
    """On a picture whose colour is its position, a crop's corners tell where it was cut out."""
    ramp = torch.arange(240, dtype=torch.uint8)
    position = torch.stack(
        [ramp[:, None].expand(240, 240), ramp[None].expand(240, 240), torch.zeros(240, 240)]
    )
    preprocess = Preprocess((60, 60), 3)
    augment = Augment(scale=(0.25, 0.5), ratio=(0.8, 1.25), flip=False)
    torch.manual_seed(0)
    for _ in range(50):
        crop = augment.image(position.to(torch.uint8), preprocess).double()
        assert crop.shape == (3, 60, 60)
        height = (crop[0, -1].mean() - crop[0, 0].mean()).item() * 60 / 59
        width = (crop[1, :, -1].mean() - crop[1, :, 0].mean()).item() * 60 / 59
        assert 0.25 - 0.03 < height * width / 240**2 < 0.5 + 0.03
        assert 0.8 - 0.05 < width / height < 1.25 + 0.05


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("change", [{"color": 0.4}, {"randaugment": 2}, {"color": 0.4, "randaugment": 1}])
def test_colour_and_randaugment_keep_the_shape_and_change_the_image(
    channels: int, change: dict[str, float]
) -> None:
    augment, preprocess = replace(PLAIN, **change), Preprocess((16, 16), channels, crop_fraction=1.0)  # type: ignore[arg-type]
    image = picture(channels, 16, 16)
    torch.manual_seed(0)
    changed = [augment.image(image, preprocess) for _ in range(5)]
    assert all(one.shape == (channels, 16, 16) and one.dtype == torch.uint8 for one in changed)
    assert any(not torch.equal(one, image) for one in changed)


def test_the_same_generator_gives_the_same_batch() -> None:
    augment, preprocess = Augment(crop="shift", shift=3, erase=0.5), Preprocess((9, 9), 1)
    pixels = picture(20, 1, 9, 9)
    first = augment.batch(pixels, preprocess, generator(5))
    assert torch.equal(augment.batch(pixels, preprocess, generator(5)), first)
    assert not torch.equal(augment.batch(pixels, preprocess, generator(6)), first)


def test_json_gives_lists_for_tuples() -> None:
    assert Augment(scale=[0.5, 1.0]) == Augment(scale=(0.5, 1.0))  # type: ignore[arg-type]
    assert math.isclose(Augment().ratio[1], 4 / 3)


def test_preprocessing_written_before_there_was_a_white_level_is_read() -> None:
    whole = Preprocess((32, 32), 1)
    older = whole.to_json()
    del older["white_level"]
    assert Preprocess.from_json(older) == whole
    with pytest.raises(DepthwiseError, match="white_level"):
        Preprocess.from_json(older | {"white_level": 70000})
