"""Networks that Keras built and saved give here what they give in Keras, from tensors and from image files."""

import importlib
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from depthwise.bundle import read_bundle
from depthwise.errors import DepthwiseError
from depthwise.models import create_model
from depthwise.ship.importing import Imported, import_weights
from depthwise.ship.load import load, transfer
from depthwise.weights import keras as ours
from depthwise.weights.files import read_weights

os.environ["KERAS_BACKEND"] = "torch"  # read once, when Keras is imported
keras: Any = importlib.import_module("keras")
layers, applications = keras.layers, keras.applications

# Keras' own arrays, on the way to NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keras.utils.set_random_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photograph") / "flower.jpg"
    Image.fromarray(load_sample_image("flower.jpg")).save(path)
    return path


def randomise(model: Any) -> Any:
    """Statistics, gammas and biases away from where training starts, so that a wrong one shows."""
    generator = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.variables:
                if variable.name in ("gamma", "moving_variance"):
                    variable.assign(generator.uniform(0.5, 1.5, variable.shape))
                else:
                    variable.assign(generator.normal(0, 0.1, variable.shape))
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(generator.normal(0, 0.1, layer.bias.shape))
        if isinstance(layer, layers.Dense):
            layer.kernel.assign(generator.normal(0, 4 / layer.kernel.shape[0] ** 0.5, layer.kernel.shape))
    return model


def headed(base: Any, *head: Any) -> Any:
    """`base` with these layers on it, in one flat graph."""
    x = base.output
    for layer in head:
        x = layer(x)
    return randomise(keras.Model(base.input, x))


def small(size: int = 64, alpha: float = 0.25, **arguments: Any) -> Any:
    """The smallest network there is, without its head."""
    shape = (size, size, 3)
    arguments = {"input_shape": shape, "include_top": False, "weights": None, "alpha": alpha} | arguments
    return applications.MobileNet(**arguments)


def as_at_home(
    model: Any, prepare: Callable[[Any], Any], image: Path, size: int, interpolation: str = "nearest"
) -> np.ndarray:
    """What Keras answers for an image file."""
    loaded = keras.utils.load_img(image, target_size=(size, size), interpolation=interpolation)
    return np.asarray(model.predict(prepare(keras.utils.img_to_array(loaded)[None]), verbose=0))[0]


def same_answer(bundle: Path, image: Path, expected: np.ndarray) -> None:
    prediction = load(bundle)(image, topk=len(expected))
    assert prediction.indices[:5] == tuple(np.argsort(-expected)[:5])
    assert np.abs(np.array(prediction.probabilities) - expected[list(prediction.indices)]).max() < 1e-3


NETWORKS = {
    "xception": ("Xception", 299, 97),
    "inception_v3": ("InceptionV3", 299, 97),
    "inception_resnet_v2": ("InceptionResNetV2", 299, 97),
    "mobilenet_v1": ("MobileNet", 224, 63),
    "mobilenet_v2": ("MobileNetV2", 224, 63),
    "resnet50": ("ResNet50", 224, 97),
    "resnet101": ("ResNet101", 224, 97),
    "resnet152": ("ResNet152", 224, 97),
}


@pytest.mark.parametrize("model", NETWORKS)
def test_the_network_computes_what_keras_does(model: str, tmp_path: Path) -> None:
    """At the default and at an odd size, from a file that knows layers by their kind and number alone."""
    name, *sizes = NETWORKS[model]
    make = partial(getattr(applications, name), weights=None, include_top=False, pooling="avg")
    theirs = headed(make(input_shape=(None, None, 3)), layers.Dense(7))
    theirs.save_weights(tmp_path / "model.weights.h5")
    translation = ours.translate(read_weights(tmp_path / "model.weights.h5").tensors, {}, model).translation
    network = create_model(model, **translation.arguments).eval()
    network.load_state_dict(translation.weights)
    for size in sizes:
        if model == "mobilenet_v2":  # whose padding is right for the size it was built with alone
            resized = headed(make(input_shape=(size, size, 3)), layers.Dense(7))
            resized.set_weights(theirs.get_weights())
            theirs = resized
        x = torch.randn(1, 3, size, size)
        with torch.no_grad():
            expected = theirs(x.permute(0, 2, 3, 1), training=False).cpu()
            # Keras' own scaling of these has blue first.
            found = network(x.flip(1) if model.startswith("resnet") else x)
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_numbered_layers_are_told_by_their_order_in_every_format(tmp_path: Path) -> None:
    """Keras counts its layers over the whole session, so the same network has other names each time."""
    applications.InceptionV3(weights=None, include_top=False)
    theirs = headed(applications.InceptionV3(weights=None, include_top=False, pooling="avg"), layers.Dense(3))
    assert "conv2d" not in [layer.name for layer in theirs.layers]
    translations = []
    for file in ("a.keras", "a.h5", "a.weights.h5"):
        (theirs.save_weights if "weights" in file else theirs.save)(tmp_path / file)
        found = read_weights(tmp_path / file)
        translations.append(ours.translate(found.tensors, found.config, "inception_v3").translation.weights)
    assert len({len(weights) for weights in translations}) == 1
    for name, tensor in translations[0].items():
        assert all(torch.equal(weights[name], tensor) for weights in translations[1:])


def test_files_as_keras_2_wrote_them(tmp_path: Path) -> None:
    """Variables end in :0, a network inside another is one group, and there may be no configuration."""
    base = small()
    theirs = randomise(keras.Sequential([layers.Input((64, 64, 3)), base, *(make() for make in HEAD)]))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in theirs.layers]
        file.attrs["keras_version"] = b"2.2.4-tf"
        for layer in theirs.layers:
            # Of a network, what is trained comes before what is not.
            weights = {f"{w.path}:0": np.asarray(w) for w in layer.trainable_weights}
            weights |= {f"{w.path}:0": np.asarray(w) for w in layer.non_trainable_weights}
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, value in weights.items():
                group[name] = value
    theirs.save_weights(tmp_path / "a.weights.h5")
    expected, found = (
        ours.translate(read_weights(tmp_path / name).tensors, {}, "mobilenet_v1").translation
        for name in ("a.weights.h5", "a.h5")
    )
    assert found.arguments == expected.arguments
    assert found.arguments["num_classes"] == 8
    for name, tensor in expected.weights.items():
        assert torch.equal(found.weights[name], tensor)


@pytest.mark.parametrize("alpha", [0.35, 1.4])
def test_the_width_is_told_by_the_weights(alpha: float, tmp_path: Path) -> None:
    theirs = randomise(
        applications.MobileNetV2(weights=None, input_shape=(96, 96, 3), alpha=alpha, classes=10)
    )
    theirs.save(tmp_path / "a.keras")
    result = import_weights(tmp_path / "a.keras", "mobilenet_v2", tmp_path / "bundle")
    assert result.config.model_args["width"] == alpha


def test_xception_with_a_custom_head_predicts_as_keras_does(tmp_path: Path, photograph: Path) -> None:
    """From the same image file, preprocessing included, whichever way Keras saved it."""
    theirs = headed(
        applications.Xception(weights=None, include_top=False, input_shape=(299, 299, 3)),
        layers.GlobalAveragePooling2D(),
        layers.Dense(64, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(9, activation="softmax"),
    )
    expected = as_at_home(theirs, applications.xception.preprocess_input, photograph, 299)
    assert expected.max() < 0.9
    names = [f"kind {i}" for i in range(9)]
    for file in ("a.keras", "a.h5", "a.weights.h5"):
        (theirs.save_weights if "weights" in file else theirs.save)(tmp_path / file)
        result = import_weights(tmp_path / file, "xception", tmp_path / f"of-{file}", classes=names)
        assert result.source == "keras"
        assert result.config.model_args["fully_connected"] == (64,)
        same_answer(tmp_path / f"of-{file}", photograph, expected)
        assert load(tmp_path / f"of-{file}")(photograph).classes[0] == names[int(expected.argmax())]


def test_preprocessing_with_blue_first(tmp_path: Path, photograph: Path) -> None:
    theirs = randomise(applications.ResNet50(weights=None, classes=20, input_shape=(96, 96, 3)))
    theirs.save(tmp_path / "a.keras")
    prepare = applications.resnet.preprocess_input
    expected = as_at_home(theirs, prepare, photograph, 96, "bilinear")
    import_weights(tmp_path / "a.keras", "resnet50", tmp_path / "bundle", interpolation="bilinear")
    same_answer(tmp_path / "bundle", photograph, expected)


def test_vgg16_and_its_flattened_map(tmp_path: Path, photograph: Path) -> None:
    theirs = headed(
        applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3)),
        layers.Flatten(),
        layers.Dense(24, activation="relu"),
        layers.Dense(16, activation="relu"),
        layers.Dense(6, activation="softmax"),
    )
    theirs.save(tmp_path / "a.keras")
    expected = as_at_home(theirs, applications.vgg16.preprocess_input, photograph, 224)
    result = import_weights(tmp_path / "a.keras", "vgg16", tmp_path / "bundle")
    assert result.config.model_args["hidden"] == (24, 16)
    same_answer(tmp_path / "bundle", photograph, expected)


def test_vgg16_without_its_fully_connected_layers(tmp_path: Path, photograph: Path) -> None:
    base = applications.VGG16(weights=None, include_top=False, input_shape=(64, 64, 3))
    theirs = headed(base, layers.GlobalAveragePooling2D(), layers.Dense(6, activation="softmax"))
    theirs.save(tmp_path / "a.keras")
    expected = as_at_home(theirs, applications.vgg16.preprocess_input, photograph, 64)
    result = import_weights(tmp_path / "a.keras", "vgg16", tmp_path / "bundle")
    assert result.config.model_args["hidden"] == ()
    same_answer(tmp_path / "bundle", photograph, expected)

    base.save_weights(tmp_path / "a.weights.h5")
    backbone = import_weights(tmp_path / "a.weights.h5", "vgg16", tmp_path / "backbone", backbone=True)
    assert backbone.config.classes == ()


HEAD = (layers.GlobalAveragePooling2D, lambda: layers.Dense(8, activation="softmax"))


def nested(*front: Any) -> Any:
    """A network as a layer of another, behind `front`."""
    return randomise(
        keras.Sequential([layers.Input((64, 64, 3)), *front, small(), *(make() for make in HEAD)])
    )


def with_operations() -> Any:
    inputs = keras.Input((64, 64, 3))
    x = small()(applications.mobilenet.preprocess_input(inputs))
    for make in HEAD:
        x = make()(x)
    return randomise(keras.Model(inputs, x))


MODELS: dict[str, tuple[Callable[[], Any], bool]] = {
    "flat": (lambda: headed(small(), *(make() for make in HEAD)), False),
    "nested": (lambda: nested(), False),
    "nested, rescaled and augmented": (
        lambda: nested(layers.RandomFlip("horizontal"), layers.Rescaling(1 / 127.5, offset=-1.0)),
        True,
    ),
    "normalised": (
        lambda: nested(layers.Normalization(mean=[120.0, 110.0, 90.0], variance=[900.0, 1600.0, 2500.0])),
        True,
    ),
    "scaled by operations": (with_operations, True),
    "its own head": (
        lambda: randomise(small(include_top=True, classes=8)),
        False,
    ),
    "frozen": (lambda: frozen(), False),
}


def frozen() -> Any:
    base = small()
    base.trainable = False
    return randomise(keras.Sequential([layers.Input((64, 64, 3)), base, *(make() for make in HEAD)]))


@pytest.mark.parametrize("kind", MODELS)
def test_networks_as_people_put_them_together(kind: str, tmp_path: Path, photograph: Path) -> None:
    make, scales = MODELS[kind]
    theirs = make()
    prepare = (lambda x: x) if scales else applications.mobilenet.preprocess_input
    expected = as_at_home(theirs, prepare, photograph, 64)
    for file in (
        ["a.keras"] if "scaled" in kind or "normalised" in kind else ["a.keras", "a.h5", "a.weights.h5"]
    ):
        (theirs.save_weights if "weights" in file else theirs.save)(tmp_path / file)
        if file == "a.weights.h5":
            found = ours.translate(read_weights(tmp_path / file).tensors, {}, "mobilenet_v1")
            bundle = read_bundle(tmp_path / "of-a.keras")
            assert all(torch.equal(found.translation.weights[k], t) for k, t in bundle.weights.items())
        else:
            import_weights(tmp_path / file, "mobilenet_v1", tmp_path / f"of-{file}")
            same_answer(tmp_path / f"of-{file}", photograph, expected)


def test_one_probability_for_two_classes(tmp_path: Path, photograph: Path) -> None:
    theirs = headed(small(), layers.GlobalAveragePooling2D(), layers.Dense(1, activation="sigmoid"))
    theirs.save(tmp_path / "a.keras")
    expected = as_at_home(theirs, applications.mobilenet.preprocess_input, photograph, 64)[0]
    import_weights(tmp_path / "a.keras", "mobilenet_v1", tmp_path / "bundle", classes=("cat", "dog"))
    answer = load(tmp_path / "bundle")(photograph)
    assert dict(zip(answer.classes, answer.probabilities, strict=True))["dog"] == pytest.approx(
        expected, abs=1e-3
    )


FOREIGN: dict[str, tuple[Any, str]] = {
    "batch norm": (
        lambda: (layers.GlobalAveragePooling2D(), layers.BatchNormalization(), layers.Dense(3)),
        "its head has a BatchNormalization layer",
    ),
    "several labels": (
        lambda: (layers.GlobalAveragePooling2D(), layers.Dense(3, activation="sigmoid")),
        "its 3 outputs are independent probabilities",
    ),
    "maximum": (
        lambda: (layers.GlobalMaxPooling2D(), layers.Dense(3)),
        "its head begins with GlobalMaxPooling2D",
    ),
    "flattened": (lambda: (layers.Flatten(), layers.Dense(3)), "its head flattens the map"),
    "more layers": (
        lambda: (layers.GlobalAveragePooling2D(), layers.Dense(4, activation="relu"), layers.Dense(3)),
        "its head has the layers dense, dense_1",
    ),
    "other activation": (
        lambda: (layers.GlobalAveragePooling2D(), layers.Dense(4, activation="gelu"), layers.Dense(3)),
        "a dense layer of its head has the activation gelu",
    ),
    "none": (lambda: (), "the file has no head"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_head_that_cannot_be_expressed_leaves_a_backbone(kind: str, tmp_path: Path) -> None:
    make, reason = FOREIGN[kind]
    headed(small(), *make()).save(tmp_path / "a.keras")
    out = tmp_path / "bundle"
    with pytest.raises(DepthwiseError, match="can only be imported as a backbone") as raised:
        import_weights(tmp_path / "a.keras", "mobilenet_v1", out)
    assert reason in str(raised.value)
    assert "backbone=True" in str(raised.value)
    assert not out.exists()
    result = import_weights(tmp_path / "a.keras", "mobilenet_v1", out, backbone=True)
    assert result.config.classes == ()
    with pytest.raises(DepthwiseError, match=r"is a backbone without a classifier.*train --init"):
        load(out)
    bundle = read_bundle(out)
    module = create_model("mobilenet_v1", num_classes=4, width=0.25)
    assert not transfer(bundle, module, ("a", "b", "c", "d"))
    for name, tensor in bundle.weights.items():
        assert torch.equal(module.state_dict()[name], tensor)


def test_what_scales_in_no_way_that_preprocessing_can_hold_is_refused(tmp_path: Path) -> None:
    nested(layers.GaussianNoise(0.1), layers.UnitNormalization()).save(tmp_path / "a.keras")
    with pytest.raises(DepthwiseError, match="UnitNormalization before the first convolution"):
        import_weights(tmp_path / "a.keras", "mobilenet_v1", tmp_path / "bundle")


def test_the_code_in_a_configuration_is_not_run(tmp_path: Path) -> None:
    code = keras.Sequential([layers.Input((64, 64, 3)), layers.Lambda(lambda x: x * 2), small()])
    code.save(tmp_path / "a.keras")
    with pytest.raises(DepthwiseError, match="Lambda before the first convolution"):
        import_weights(tmp_path / "a.keras", "mobilenet_v1", tmp_path / "bundle", backbone=True)


def test_the_weights_of_another_network_are_named_with_both_shapes(tmp_path: Path) -> None:
    headed(small(), *(make() for make in HEAD)).save(tmp_path / "a.keras")
    with pytest.raises(DepthwiseError) as raised:
        import_weights(tmp_path / "a.keras", "xception", tmp_path / "bundle")
    sentence = str(raised.value)
    assert "/layers/conv2d.weight is [8, 3, 3, 3] in the file and [32, 3, 3, 3] in the network" in sentence
    assert sentence.count(" in the file and ") == 3
    assert sentence.endswith("they were trained with, which may be mobilenet_v1")
    assert not (tmp_path / "bundle").exists()


PHOTOS, PLACES = ("china", "flower"), (0, 100, 200, 300)


def behind(*front: Any, base: str = "MobileNet", channels: int = 1, flat: bool = False) -> Any:
    """A network behind layers that make colours of pictures, as a layer of another or in one graph with them."""
    side = 64 if base == "MobileNet" else 75
    x = inputs = keras.Input((side, side, channels))
    for layer in front:
        x = layer(x)
    arguments: dict[str, Any] = {"alpha": 0.25} if base == "MobileNet" else {}
    arguments |= {"input_tensor": x} if flat else {"input_shape": (side, side, 3)}
    network = getattr(applications, base)(weights=None, include_top=False, **arguments)
    x = network.output if flat else network(x)
    for make in HEAD:
        x = make()(x)
    model = randomise(keras.Model(inputs, x))
    # By the statistics of a batch its answers are those of the pictures; by random ones they hardly move.
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    batch = np.stack(
        [load_sample_image(f"{name}.jpg")[i : i + side, i : i + side] for i in PLACES for name in PHOTOS]
    )
    batch = batch if channels == 3 else batch.mean(-1, keepdims=True)
    scaled = any(isinstance(layer, layers.Rescaling | layers.Normalization) for layer in front)
    model(batch if scaled else batch / 127.5 - 1, training=True)
    model.layers[-1].kernel.assign(model.layers[-1].kernel / 4)
    return model


Scale = partial(layers.Rescaling, 1 / 127.5)
Colours = partial(layers.Conv2D, 3, 1)

# How it is built, and whether the model itself scales pixels.
FRONTS: dict[str, tuple[Callable[[], Any], bool]] = {
    "grey": (lambda: behind(Colours(use_bias=False)), False),
    "grey, one graph": (lambda: behind(Colours(use_bias=False), flat=True), False),
    "grey, scaled before": (lambda: behind(Scale(offset=-1.0), Colours(use_bias=False)), True),
    "grey, scaled between": (
        lambda: behind(Scale(), Colours(use_bias=False), layers.Rescaling([0.5, 0.7, 2.0])),
        True,
    ),
    "colours of colours": (lambda: behind(Colours(use_bias=False), channels=3), False),
    "with a bias, one graph": (lambda: behind(Colours(), base="Xception", flat=True), False),
    "shifted between": (
        lambda: behind(
            Colours(),
            layers.RandomFlip(),
            layers.Normalization(mean=[100.0, 50.0, 30.0], variance=[900.0, 400.0, 600.0]),
            base="Xception",
        ),
        True,
    ),
}


def called(theirs: Any) -> str:
    """The network that stands in it."""
    return (
        "xception" if any(one.name == "block1_conv1" for one in theirs._flatten_layers()) else "mobilenet_v1"
    )


@pytest.mark.parametrize("kind", FRONTS)
def test_a_convolution_before_the_network_becomes_part_of_its_first(
    kind: str, tmp_path: Path, photograph: Path
) -> None:
    make, scales = FRONTS[kind]
    theirs = make()
    _, side, _, channels = theirs.input_shape
    model = called(theirs)
    picture = tmp_path / "picture.png"
    Image.open(photograph).convert("L" if channels == 1 else "RGB").resize((side, side)).save(picture)
    x = np.asarray(Image.open(picture), np.float32).reshape(1, side, side, channels)
    x = x if scales else x / 127.5 - 1
    expected, of_another = np.asarray(theirs.predict(np.concatenate([x, x[:, ::-1] / 2]), verbose=0))
    assert np.abs(expected - of_another).max() > 0.01  # of pictures that it tells apart
    for file in ("a.keras", "a.h5")[: 2 if model == "mobilenet_v1" else 1]:
        theirs.save(tmp_path / file)
        result = import_weights(tmp_path / file, model, tmp_path / f"of-{file}")
        assert result.config.preprocess.channels == channels
        said = "1 channel, grey" if channels == 1 else "3 channels"
        assert [n for n in result.notes if f"is part of the first convolution: pictures have {said}" in n]
        found = load(tmp_path / f"of-{file}", engine="torch")(picture, topk=len(expected))
        assert np.abs(np.array(found.probabilities) - expected[list(found.indices)]).max() < 1e-5
    backbone = import_weights(tmp_path / "a.keras", model, tmp_path / "backbone", backbone=True)
    assert backbone.config.preprocess.channels == channels
    whole, trunk = (read_bundle(tmp_path / name).weights for name in ("of-a.keras", "backbone"))
    assert all(torch.equal(whole[name], tensor) for name, tensor in trunk.items())


FRONT_REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "bias before zeros": (
        lambda: behind(Colours()),
        "what is added to the channels has no place where the first convolution lays zeros around them: train it "
        "with use_bias=False and scale before it",
    ),
    "shift before zeros": (
        lambda: behind(Colours(use_bias=False), Scale(offset=-1.0)),
        "what is added to the channels has no place where the first convolution lays zeros around them",
    ),
    "zeros of its own": (
        lambda: behind(layers.Cropping2D(1), Colours(), layers.ZeroPadding2D(1), base="Xception"),
        "what is added to the channels has no place where the first convolution lays zeros around them",
    ),
    "activation": (
        lambda: behind(Colours(use_bias=False, activation="relu")),
        "it has the activation relu: save the network behind it alone",
    ),
    "window": (lambda: behind(layers.Conv2D(3, 3, padding="same")), r"it has kernel_size=[3, 3]: save"),
    "stride": (lambda: behind(layers.UpSampling2D(2), Colours(strides=2)), "it has strides=[2, 2]: save"),
    "groups": (lambda: behind(Colours(groups=3), channels=3), "it has groups=3: save"),
    "two": (lambda: behind(Colours(), Colours()), "it is not one of single pixels that the network's first"),
    "zeros alone": (
        lambda: behind(
            layers.Cropping2D(1), layers.ZeroPadding2D(1, name="frame"), base="Xception", channels=3
        ),
        "'frame' lays zeros around pictures before the network, and would be lost: save the network behind it alone",
    ),
    "zeros behind it": (
        lambda: behind(layers.Cropping2D(1), Colours(use_bias=False), layers.ZeroPadding2D(1, name="frame")),
        "'frame' lays zeros around pictures before the network",
    ),
    "norm": (
        lambda: behind(Colours(use_bias=False), layers.BatchNormalization()),
        "BatchNormalization before the first convolution is no scaling",
    ),
}


@pytest.mark.parametrize("kind", FRONT_REFUSED)
def test_a_convolution_before_the_network_is_not_lost(kind: str, tmp_path: Path) -> None:
    make, reason = FRONT_REFUSED[kind]
    theirs = make()
    theirs.save(tmp_path / "a.keras")
    model = called(theirs)
    for backbone in (False, True):
        with pytest.raises(DepthwiseError, match=re.escape(reason)):
            import_weights(tmp_path / "a.keras", model, tmp_path / "bundle", backbone=backbone)
    assert not (tmp_path / "bundle").exists()


def test_without_a_configuration_nobody_knows_what_a_front_does(tmp_path: Path) -> None:
    behind(Colours(use_bias=False)).save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(
        DepthwiseError,
        match=r"makes three channels of 1 channel before the network, and would be lost, for the file does not say "
        r"what else it does: save all of the model as \.keras",
    ):
        import_weights(tmp_path / "a.weights.h5", "mobilenet_v1", tmp_path / "bundle", backbone=True)


def test_a_front_hides_no_wrong_name(tmp_path: Path) -> None:
    behind(Colours(use_bias=False)).save(tmp_path / "a.keras")
    with pytest.raises(
        DepthwiseError, match=r"do not fit the network xception: .*, which may be mobilenet_v1"
    ):
        import_weights(tmp_path / "a.keras", "xception", tmp_path / "bundle")


def test_a_grey_picture_of_any_shape(tmp_path: Path) -> None:
    base = applications.MobileNet(
        weights=None, include_top=False, input_shape=(64, 96, 1), alpha=0.25, pooling="avg"
    )
    headed(base, layers.Dense(4)).save(tmp_path / "a.keras")
    result: Imported = import_weights(tmp_path / "a.keras", "mobilenet_v1", tmp_path / "bundle")
    assert (result.config.preprocess.size, result.config.preprocess.channels) == ((64, 96), 1)
    assert any("load_img" in note for note in result.notes)
    assert any("--classes" in note for note in result.notes)
