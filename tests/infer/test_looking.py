"""Where networks look, and what their classifiers read: as done by hand, on the object, whatever runs them."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.networks import narrow
from torch import Tensor, nn

from depthwise.bundle import BundleConfig, read_bundle, write_bundle
from depthwise.data import BadImage, Preprocess
from depthwise.errors import DepthwiseError, UsageError
from depthwise.heat import Heat, Linear, linear_head, looking
from depthwise.infer import CompiledModule, Precision, Predictor, compile
from depthwise.infer.graph import Graph
from depthwise.infer.insides import insides
from depthwise.infer.lower import lower
from depthwise.infer.plan import Plan
from depthwise.models import CATALOGUE, create_model
from depthwise.models.network import Network
from depthwise.ship.load import load, load_module

HIDDEN = ("vgg16", "vgg16_bn")
"""Between their last map and the logits stand hidden layers."""


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """For every test here."""


def settled(network: nn.Module, x: Tensor) -> None:
    """Give batch norms the statistics of `x`, so that maps stay in the range of a trained network's."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    network.train()(x)
    network.eval()


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_mean_of_the_map_and_the_bias_are_the_logit(name: str) -> None:
    network, preprocess = narrow(name, stem="small"), Preprocess((40, 56), channels=3)
    nn.init.normal_(network.classifier.bias)
    picture = torch.randint(0, 256, (3, 150, 170), dtype=torch.uint8)
    settled(network, preprocess(picture) + torch.randn(4, 3, 40, 56) / 4)
    look = looking(network, preprocess)
    assert look is not None
    logits = network(preprocess(picture)[None])[0].detach()
    found = [look(picture, index) for index in (0, 3, 6)]
    assert (linear_head(network) is None) == (name in HIDDEN)
    for heat in found:
        assert heat.logit == pytest.approx(float(logits[heat.index]), abs=1e-4)
        if name in HIDDEN:
            assert (heat.method, heat.bias) == ("grad-cam", None)
        else:
            assert heat.method == "cam"
            assert float(heat.map.mean()) + (heat.bias or 0) == pytest.approx(
                float(logits[heat.index]), abs=1e-4
            )


def test_grad_cam_is_the_class_activation_map_where_both_are_defined() -> None:
    """The gradient of a logit by a place of the last map is the class's weight over the number of places (3.1)."""
    network = narrow("resnet50", stem="small").eval()
    preprocess, picture = (
        Preprocess((96, 96), channels=3),
        torch.randint(0, 256, (3, 99, 120), dtype=torch.uint8),
    )
    look = looking(network, preprocess)
    assert look is not None
    plain = look(picture, 2)
    network.neck = nn.Sequential(network.neck, nn.Identity())
    graded = look(picture, 2)
    assert (plain.method, graded.method) == ("cam", "grad-cam")
    places = plain.map.numel()
    torch.testing.assert_close(graded.map * places, plain.map.clamp(min=0), rtol=1e-4, atol=1e-5)


@cache
def traced(name: str) -> tuple[Network, Tensor, Graph]:
    """A network, images, and its graph: tracing takes seconds."""
    network, x = narrow(name, stem="small"), torch.randn(5, 3, 24, 32)
    settled(network, x)
    return network, x, lower(network, x)


def difference(ours: Tensor | None, theirs: Tensor | None) -> float:
    """The largest, relative to the largest value."""
    assert ours is not None
    assert theirs is not None
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", ["mobilenet_v1", "inception_v1", "vgg16"])
def test_a_plan_shows_what_the_network_makes(name: str, precision: Precision) -> None:
    network, x, graph = traced(name)
    compiled = compile(
        network, x[:1], precision=precision, engine="native", calibration=x, lower=lambda *_: graph
    )
    expected, found = insides(network, x), insides(compiled, x)
    assert expected is not None
    assert found is not None
    assert torch.equal(found.output, compiled(x))
    # Rounding adds up over many layers of random weights, but each part fits the next one.
    tolerance = {"fp32": 1e-5, "bf16": 0.02, "int8": 0.05}[precision]
    if precision == "fp32":
        assert difference(found.features, expected.features) <= 1e-4
    classifier = network.classifier
    assert isinstance(classifier, nn.Linear)
    assert difference(classifier(found.features), found.output) <= tolerance
    if name in HIDDEN:
        assert (found.last, found.head) == (None, None)
        alone = Predictor(compiled, Preprocess((24, 32), channels=3), [*"abcdefg"])
        with pytest.raises(DepthwiseError, match="CompiledModule does not show its last map"):
            alone.cam(corner_picture(0, marked=True))
        beside = Predictor(compiled, alone.preprocess, alone.classes, uncompiled=lambda: network)
        with pytest.warns(UserWarning, match="PyTorch computes it"):
            seen = beside.cam(corner_picture(0, marked=True))
        assert {heat.method for heat in seen.heats} == {"grad-cam"}
        return
    if precision == "fp32":
        assert difference(found.last, expected.last) <= 1e-4
    assert found.last is not None
    assert difference(found.last.mean((2, 3)), found.features) <= tolerance
    assert isinstance(found.head, Linear)
    torch.testing.assert_close(found.head.weight, classifier.weight, rtol=0.01, atol=0.001)
    logits = found.last.mean((2, 3)) @ found.head.weight.T + found.head.bias
    assert difference(logits, found.output) <= tolerance


@torch.no_grad()
def test_an_image_that_is_not_finite_leaves_the_others_maps_alone() -> None:
    network, x, graph = traced("mobilenet_v1")
    x = x.clone()
    compiled = compile(network, x[:1], engine="native", lower=lambda *_: graph)
    x[1, 0, 0, 0] = torch.nan
    expected, found = insides(network, x), insides(compiled, x)
    assert expected is not None
    assert found is not None
    assert found.last is not None
    assert expected.last is not None
    assert torch.equal(found.last.isnan(), expected.last.isnan())
    assert found.last[1].isnan().any()
    others = [0, 2, 3, 4]
    assert difference(found.last[others], expected.last[others]) <= 1e-4


# A mark in one corner decides the class.

MARKED = "marked"
CORNER = (slice(2, 18), slice(4, 20))
"""Of a picture of 64 x 96: rows and columns."""


def corner_picture(seed: int, *, marked: bool) -> Tensor:
    """uint8 [3, 64, 96] of noise; a chequered square in its upper left corner is the mark."""
    random = torch.Generator().manual_seed(seed)
    picture = torch.randint(0, 90, (3, 64, 96), dtype=torch.uint8, generator=random)
    if marked:
        rows, columns = CORNER
        chequers = ((torch.arange(16)[:, None] // 4 + torch.arange(16) // 4) % 2 * 165).to(torch.uint8)
        picture[:, rows, columns] += chequers
    return picture


@pytest.fixture(scope="module")
def corner_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a tiny network that has learned the mark in seconds."""
    torch.set_num_threads(1)
    preprocess = Preprocess((48, 72), channels=3, crop_fraction=0.9)
    torch.manual_seed(0)
    arguments = {"stem": "small", "width": 0.125, "middle": [64], "entry": [64], "exit": [64, 128]}
    network = create_model("xception", num_classes=2, in_channels=3, **arguments)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    images = torch.stack([preprocess(corner_picture(seed, marked=seed % 2 == 1)) for seed in range(64)])
    labels = torch.arange(64) % 2
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.3
    network.train()
    for step in range(30):
        chosen = torch.arange(32) + 32 * (step % 2)
        loss = nn.functional.cross_entropy(network(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("corner") / "bundle"
    config = BundleConfig(
        model="xception", classes=("plain", MARKED), preprocess=preprocess, model_args=arguments
    )
    write_bundle(path, config, network.state_dict())
    return path


@pytest.fixture(params=["torch", "native"])
def predictor(corner_bundle: Path, request: pytest.FixtureRequest) -> Iterator[Predictor]:
    return load(corner_bundle, engine=request.param)


def test_heat_lies_on_the_mark_that_decides_the_class(predictor: Predictor) -> None:
    rows, columns = CORNER
    for seed in range(1001, 1009, 2):
        picture = corner_picture(seed, marked=True)
        seen = predictor.cam(picture, classes=[MARKED])
        assert seen.prediction == predictor(picture)
        assert seen.prediction.classes[0] == MARKED
        (heat,) = seen.heats
        assert heat.method == "cam"
        assert heat.size == (64, 96)
        strength = heat.over_picture(heat.strength)
        assert strength.shape == (64, 96)
        hottest = divmod(int(strength.flatten().sort(descending=True).indices[0]), 96)
        assert rows.start - 4 <= hottest[0] < rows.stop + 4
        assert columns.start - 4 <= hottest[1] < columns.stop + 4
        on_it = torch.zeros(64, 96, dtype=torch.bool)
        on_it[rows, columns] = True
        assert strength[on_it].mean() > 3 * strength[~on_it].mean()
        overlay = np.asarray(seen.overlay())
        assert overlay.shape == (64, 96, 3)
        top = round(heat.box[0])
        assert np.array_equal(overlay[: top - 1], picture.permute(1, 2, 0).numpy()[: top - 1])  # not seen


def test_by_default_the_heat_is_of_what_is_named(predictor: Predictor) -> None:
    pictures = [corner_picture(seed, marked=seed % 2 == 1) for seed in range(2000, 2005)]
    found = list(predictor.cams([*pictures, b"no picture"], topk=1, batch_size=2))
    assert isinstance(found.pop(), BadImage)
    for picture, seen in zip(pictures, found, strict=True):
        assert not isinstance(seen, BadImage)
        assert seen.prediction.probabilities == pytest.approx(predictor(picture, topk=1).probabilities)
        assert [heat.index for heat in seen.heats] == list(seen.prediction.indices)
        assert torch.equal(seen.picture, picture)
    unsure = predictor.cam(pictures[0], threshold=1.0)
    assert unsure.prediction.classes == ()
    assert len(unsure.heats) == 1
    with pytest.raises(UsageError, match="unknown class 'market'"):
        predictor.cam(pictures[0], classes=["market"])
    with pytest.raises(DepthwiseError, match="image 0 cannot be read: "):
        predictor.cam(b"no picture")


def test_features_are_what_the_classifier_reads(predictor: Predictor, corner_bundle: Path) -> None:
    pictures = [corner_picture(seed, marked=seed % 2 == 1) for seed in range(5)]
    bundle = read_bundle(corner_bundle)
    network, preprocess = load_module(bundle), bundle.config.preprocess
    with torch.inference_mode():
        expected = network.pooled(torch.stack([*map(preprocess, pictures)])).numpy()  # type: ignore[operator]
    found = predictor.features(pictures, batch_size=2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predictor.features(pictures[2]), expected[2], rtol=1e-4, atol=1e-5)
    assert predictor.features([]).shape == (0, 0)
    rows = list(predictor.feature_stream([b"no picture", pictures[1]]))
    assert isinstance(rows[0], BadImage)
    assert np.allclose(rows[1], expected[1], rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="batch_size is 0"):
        predictor.features(pictures, batch_size=0)


def test_what_a_foreign_engine_does_not_show_comes_of_the_bundles_weights(corner_bundle: Path) -> None:
    picture = corner_picture(1, marked=True)
    expected = load(corner_bundle, engine="torch").cam(picture)
    foreign = load(corner_bundle, engine="torch", precision="bf16")
    assert isinstance(foreign.module, CompiledModule)
    assert not isinstance(foreign.module.plan, Plan)
    with pytest.warns(UserWarning, match="PyTorch computes it from the bundle's weights"):
        seen = foreign.cam(picture)
    torch.testing.assert_close(seen.heats[0].map, expected.heats[0].map)
    assert np.array_equal(foreign.features(picture), load(corner_bundle, engine="torch").features(picture))
    with pytest.raises(DepthwiseError, match="Conv2d does not show its features: load a bundle"):
        Predictor(nn.Conv2d(3, 2, 1), Preprocess((32, 32), channels=3), ("a", "b")).features(picture)


@pytest.mark.parametrize("size", [(40, 30), (33, 200), (5, 90), (64, 1), (1, 1), (300, 7)])
@pytest.mark.parametrize("stretch", [False, True])
def test_the_box_is_what_preprocessing_takes(size: tuple[int, int], stretch: bool) -> None:
    """Two pictures alike within the box look alike to the network; a ramp's ends show where the box begins."""
    preprocess = Preprocess((32, 48), channels=1, crop_fraction=0.8, stretch=stretch)
    top, left, tall, wide = preprocess.seen(*size)
    assert top >= -1e-6
    assert top + tall <= size[0] + 1e-6
    assert left >= -1e-6
    assert left + wide <= size[1] + 1e-6
    for axis, first, extent in ((0, top, tall), (1, left, wide)):
        ramp = torch.arange(size[axis], dtype=torch.float32) * 250 / size[axis]
        shape = (-1, 1) if axis == 0 else (1, -1)
        picture = ramp.view(shape).expand(size).round().to(torch.uint8)[None]
        seen = preprocess.pixels(picture)[0].float()
        middle = seen.mean() * size[axis] / 250 + 0.5
        if size[axis] > 20:
            assert float(middle) == pytest.approx(first + extent / 2, abs=1.0)


def test_heat_is_spread_over_the_picture_as_pytorch_would() -> None:
    values = torch.rand(3, 5)
    heat = Heat(0, values, "cam", 0.0, 0.0, (30, 40), (6.0, 10.0, 18.0, 20.0))
    spread = heat.over_picture()
    expected = nn.functional.interpolate(values[None, None], (18, 20), mode="bilinear")[0, 0]
    torch.testing.assert_close(spread[6:24, 10:30], expected)
    assert spread.count_nonzero() == 18 * 20
    veil = np.asarray(heat.veil())
    assert veil.shape == (39, 65, 4)
    hottest = divmod(int(values.flatten().sort(descending=True).indices[0]), 5)
    assert veil[hottest[0] * 13 + 6, hottest[1] * 13 + 6].tolist() == [252, 255, 164, 199]
    against = Heat(0, -values, "cam", 0.0, 0.0, (30, 40), (6.0, 10.0, 18.0, 20.0))
    assert not np.asarray(against.veil())[..., 3].any()
