"""PyTorch's files become bundles: heads, towers, widths, names of classes; of what does not fit nothing is left."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

from depthwise.bundle import read_bundle
from depthwise.errors import DepthwiseError, UsageError
from depthwise.ship.importing import import_weights
from depthwise.ship.load import load, load_module
from depthwise.weights import translate


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return models.mobilenet_v2(num_classes=5).state_dict()


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


def test_a_bundle_computes_what_the_network_did(tmp_path: Path, state: dict[str, Tensor]) -> None:
    result = import_weights(saved(tmp_path / "a.pth", state), "mobilenet_v2", tmp_path / "bundle")
    assert result.source == "torchvision"
    assert result.config.classes == ("0", "1", "2", "3", "4")
    assert result.config.training["imported_from"]["source"] == "torchvision"
    assert len(result.config.training["imported_from"]["sha256"]) == 64
    theirs = models.mobilenet_v2(num_classes=5).eval()
    theirs.load_state_dict(state)
    x = torch.randn(2, 3, 97, 97)
    with torch.no_grad():
        torch.testing.assert_close(load_module(read_bundle(tmp_path / "bundle"))(x), theirs(x))


def test_networks_with_the_same_modules_are_told_apart_by_their_width(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", timm.create_model("mobilenetv2_050", num_classes=3).state_dict())
    result = import_weights(path, "mobilenet_v2", tmp_path / "bundle", classes=("a", "b", "c"))
    assert (result.source, result.config.model_args["width"]) == ("timm", 0.5)
    assert result.config.preprocess.interpolation == "bicubic"
    assert load(tmp_path / "bundle").classes == ("a", "b", "c")


def test_what_a_tool_added_is_named_and_not_the_width(tmp_path: Path) -> None:
    theirs = timm.create_model("mobilenetv2_050", num_classes=3).state_dict() | {"total_ops": torch.zeros(1)}
    with pytest.raises(
        DepthwiseError, match=r"mobilenet_v2: total_ops is \[1\] in the file and absent in the network; use"
    ):
        import_weights(saved(tmp_path / "a.pth", theirs), "mobilenet_v2", tmp_path / "bundle")


def test_grey_pictures(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", timm.create_model("mobilenetv2_050", in_chans=1).state_dict())
    result = import_weights(path, "mobilenet_v2", tmp_path / "bundle")
    assert result.config.preprocess.channels == 1
    assert result.config.classes[0] == "tench"
    load(tmp_path / "bundle")


def test_a_linear_layer_in_another_place_is_a_head(tmp_path: Path, state: dict[str, Tensor]) -> None:
    moved = {name.replace("classifier.1.", "classifier."): t for name, t in state.items()}
    import_weights(saved(tmp_path / "a.pth", moved), "mobilenet_v2", tmp_path / "bundle")
    weights = read_bundle(tmp_path / "bundle").weights
    assert torch.equal(weights["classifier.weight"], state["classifier.1.weight"])


def test_more_layers_leave_a_backbone(tmp_path: Path, state: dict[str, Tensor]) -> None:
    head = nn.Sequential(nn.Linear(1280, 4), nn.ReLU(), nn.Linear(4, 2)).state_dict()
    foreign = {name: t for name, t in state.items() if not name.startswith("classifier")}
    foreign |= {f"classifier.{name}": t for name, t in head.items()}
    path = saved(tmp_path / "a.pth", foreign)
    with pytest.raises(DepthwiseError, match=r"has the layers classifier.0, classifier.2: add backbone=True"):
        import_weights(path, "mobilenet_v2", tmp_path / "bundle")
    result = import_weights(path, "mobilenet_v2", tmp_path / "bundle", backbone=True)
    assert result.config.model_args["num_classes"] == 0
    with pytest.raises(DepthwiseError, match="is a backbone without a classifier"):
        load(tmp_path / "bundle")


def linear(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(m, n) for m, n in pairwise(widths)))


def headless(network: nn.Module, root: str) -> dict[str, Tensor]:
    return {name: t for name, t in network.state_dict().items() if not name.startswith(f"{root}.")}


def with_head(network: nn.Module, root: str, head: nn.Module, at: str) -> dict[str, Tensor]:
    return {**headless(network, root), **{f"{at}.{name}": t for name, t in head.state_dict().items()}}


def vgg(classifier: nn.Module) -> models.VGG:
    """Without the published head, which is half a gigabyte."""
    with torch.device("meta"):
        network = models.vgg16(init_weights=False)
    network.features = models.vgg.make_layers(models.vgg.cfgs["D"])
    network.classifier = classifier
    return network


def deep_vgg(classifier: nn.Module) -> dict[str, Tensor]:
    return vgg(classifier).state_dict()


# Of which network, and what of its head is named.
HEADS: dict[str, tuple[Callable[[], dict[str, Tensor]], str, str]] = {
    "1280-64-5": (
        lambda: with_head(
            models.mobilenet_v2(),
            "classifier",
            nn.Sequential(nn.Dropout(), nn.Linear(1280, 64), nn.ReLU(), nn.Linear(64, 5)),
            "classifier",
        ),
        "mobilenet_v2",
        "its head has the layers classifier.1, classifier.3",
    ),
    "pretrainedmodels": (
        lambda: with_head(models.resnet50(num_classes=2), "fc", nn.Linear(2048, 5), "last_linear"),
        "resnet50",
        "its head has the layers last_linear",
    ),
    "batch norm": (
        lambda: with_head(
            models.resnet50(num_classes=2),
            "fc",
            nn.Sequential(nn.BatchNorm1d(2048), nn.Linear(2048, 5)),
            "fc",
        ),
        "resnet50",
        "its head has the layers fc.0, fc.1",
    ),
    "an embedding before the classifier": (
        lambda: {**models.resnet50(num_classes=2).state_dict(), "embedding.weight": torch.zeros(2, 2)},
        "resnet50",
        "its head has the layers fc, embedding",
    ),
    "beside the network": (
        lambda: {
            **{f"backbone.{name}": t for name, t in headless(models.resnet50(), "fc").items()},
            "head.weight": torch.zeros(5, 2048),
            "head.bias": torch.zeros(5),
        },
        "resnet50",
        "its head stands beside it (head.weight)",
    ),
    "VGG, of two layers": (
        lambda: deep_vgg(nn.Sequential(nn.Linear(25088, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 5))),
        "vgg16",
        "its head has the layers classifier.0, classifier.3",
    ),
    "VGG, of one": (
        lambda: deep_vgg(nn.Linear(25088, 5)),
        "vgg16",
        "its head has the layers classifier",
    ),
    "VGG, a longer end": (
        lambda: {
            **deep_vgg(nn.Sequential(nn.Linear(25088, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8))),
            "classifier.6.0.weight": torch.zeros(4, 8),
            "classifier.6.3.weight": torch.zeros(2, 4),
        },
        "vgg16",
        "its head has the layers classifier.0, classifier.3, classifier.6.0, classifier.6.3",
    ),
    "VGG, none": (
        lambda: headless(models.vgg16(init_weights=False), "classifier"),
        "vgg16",
        "the file has no head",
    ),
}


@pytest.mark.parametrize("head", HEADS)
def test_a_head_of_another_form_leaves_a_backbone(tmp_path: Path, head: str) -> None:
    make, model, reason = HEADS[head]
    path = saved(tmp_path / "a.pth", make())
    with pytest.raises(DepthwiseError) as raised:
        import_weights(path, model, tmp_path / "bundle")
    assert (
        f"{path} can only be imported as a backbone, {reason}: add backbone=True, and train a classifier"
        in str(raised.value)
    )
    result = import_weights(path, model, tmp_path / "bundle", backbone=True)
    assert result.config.model_args["num_classes"] == 0
    trunk = read_bundle(tmp_path / "bundle").weights
    assert trunk
    assert all(name.startswith("stages.") for name in trunk)


def test_hidden_layers_of_other_widths(tmp_path: Path) -> None:
    first, second, last = linear(25088, 24, 16, 5)
    idle = nn.Dropout()
    theirs = vgg(nn.Sequential(first, nn.ReLU(), idle, second, nn.ReLU(), idle, last)).eval()
    result = import_weights(saved(tmp_path / "a.pth", theirs.state_dict()), "vgg16", tmp_path / "bundle")
    assert result.config.model_args["hidden"] == (24, 16)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(load_module(read_bundle(tmp_path / "bundle"))(x), theirs(x))


def test_a_gate_is_no_head(tmp_path: Path) -> None:
    """What stands inside the network and has no place in it is named, with --backbone too."""
    state = {
        **models.resnet50(num_classes=2).state_dict(),
        "layer1.0.se.fc1.weight": torch.zeros(4, 256, 1, 1),
    }
    for backbone in (False, True):
        with pytest.raises(
            DepthwiseError, match=r"layer1\.0\.se\.fc1\.weight is \[4, 256, 1, 1\] in the file and absent"
        ):
            import_weights(
                saved(tmp_path / "a.pth", state), "resnet50", tmp_path / "bundle", backbone=backbone
            )


@pytest.mark.parametrize(
    "prefix", ["model.", "net.", "backbone.", "model.module.", "_orig_mod.module.", "cnn.0."]
)
def test_what_stands_before_every_name_is_taken_off_and_said(
    tmp_path: Path, state: dict[str, Tensor], prefix: str
) -> None:
    under = {f"{prefix}{name}": tensor for name, tensor in state.items()} | {
        "criterion.weight": torch.ones(5)
    }
    result = import_weights(saved(tmp_path / "a.pth", under), "mobilenet_v2", tmp_path / "bundle")
    assert (
        f"all its names but criterion.weight stand under {prefix}, which is taken off; what stands beside is left out"
        in result.notes
    )
    weights = read_bundle(tmp_path / "bundle").weights
    assert torch.equal(weights["classifier.weight"], state["classifier.1.weight"])


def test_another_network_under_a_prefix_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    under = {f"net.{name}": tensor for name, tensor in state.items()}
    with pytest.raises(DepthwiseError, match="which may be mobilenet_v2"):
        import_weights(saved(tmp_path / "a.pth", under), "resnet50", tmp_path / "bundle")


def test_averaged_weights_are_taken_unless_the_raw_are_asked_for(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    averaged = {name: tensor / 2 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    path = saved(tmp_path / "a.pth", {"state_dict": state, "state_dict_ema": averaged})  # type: ignore[dict-item]
    for choice, expected in ((None, averaged), ("ema", averaged), ("raw", state)):
        result = import_weights(path, "mobilenet_v2", tmp_path / "bundle", weights=choice, force=True)  # type: ignore[arg-type]
        assert any("taken are the averaged ones (state_dict_ema)" in n for n in result.notes) is (
            choice is None
        )
        weights = read_bundle(tmp_path / "bundle").weights
        assert torch.equal(weights["classifier.weight"], expected["classifier.1.weight"])
    with pytest.raises(UsageError, match="unknown weights 'both': use one of ema, raw"):
        import_weights(path, "mobilenet_v2", tmp_path / "other", weights="both")  # type: ignore[arg-type]


def test_mean_and_deviation_of_the_training(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = saved(tmp_path / "a.pth", state)
    for mean, std, expected in (
        ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))),
        ((), (0.25,), ((0.485, 0.456, 0.406), (0.25,) * 3)),
        ((0.0,), (1.0,), ((0.0,) * 3, (1.0,) * 3)),
    ):
        result = import_weights(path, "mobilenet_v2", tmp_path / "bundle", mean=mean, std=std, force=True)
        assert (result.config.preprocess.mean, result.config.preprocess.std) == expected
    with pytest.raises(UsageError, match="mean has 2 numbers for images of 3 channels: give one for all"):
        import_weights(path, "mobilenet_v2", tmp_path / "other", mean=(0.1, 0.2))
    with pytest.raises(DepthwiseError, match="std"):
        import_weights(path, "mobilenet_v2", tmp_path / "other", std=(0.0,))
    assert not (tmp_path / "other").exists()


def test_inception_trained_without_transform_input(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "a.pth", models.googlenet(num_classes=3, aux_logits=False, init_weights=False).state_dict()
    )
    usual = import_weights(path, "inception_v1", tmp_path / "usual")
    assert usual.config.preprocess.mean == (0.5,) * 3
    assert any("give --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225" in note for note in usual.notes)
    theirs = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    own = import_weights(path, "inception_v1", tmp_path / "own", mean=theirs[0], std=theirs[1])
    assert (own.config.preprocess.mean, own.config.preprocess.std) == theirs
    assert not any("transform_input" in note for note in own.notes)


def test_towers_come_along_if_they_are_for_the_same_classes() -> None:
    with torch.device("meta"):
        theirs = models.inception_v3(num_classes=7, init_weights=False)
        assert translate(theirs.state_dict(), "torchvision", "inception_v3")[1]["aux"]
        theirs.fc = nn.Linear(2048, 3)
        weights, arguments = translate(theirs.state_dict(), "torchvision", "inception_v3")
    assert "aux" not in arguments
    assert not any(name.startswith("aux") for name in weights)


def test_another_network_is_named_with_both_shapes_and_nothing_is_written(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    path = saved(tmp_path / "a.pth", state)
    with pytest.raises(DepthwiseError) as raised:
        import_weights(path, "resnet50", tmp_path / "bundle")
    assert "conv1.weight is absent in the file and [64, 3, 7, 7] in the network" in str(raised.value)
    assert str(raised.value).count(" in the file and ") == 3
    assert "they were trained with, which may be mobilenet_v2" in str(raised.value)
    saved(path, state | {"features.1.conv.0.0.weight": torch.zeros(2, 2)})
    with pytest.raises(DepthwiseError) as raised:
        import_weights(path, "mobilenet_v2", tmp_path / "bundle")
    assert "features.1.conv.0.0.weight is [2, 2] in the file and [32, 1, 3, 3] in" in str(raised.value)
    assert str(raised.value).count(" in the file and ") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pth"]


def test_the_names_of_classes_must_be_as_many_as_the_outputs(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    with pytest.raises(DepthwiseError, match="2 class names for 5 outputs"):
        import_weights(
            saved(tmp_path / "a.pth", state), "mobilenet_v2", tmp_path / "bundle", classes=("a", "b")
        )


def test_a_bundle_is_replaced_only_when_asked(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = saved(tmp_path / "a.pth", state)
    import_weights(path, "mobilenet_v2", tmp_path / "bundle")
    with pytest.raises(DepthwiseError, match="exists and is not overwritten"):
        import_weights(path, "mobilenet_v2", tmp_path / "bundle")
    import_weights(path, "mobilenet_v2", tmp_path / "bundle", force=True, interpolation="nearest")
    assert read_bundle(tmp_path / "bundle").config.preprocess.interpolation == "nearest"


def test_unknown_names_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = saved(tmp_path / "a.pth", state)
    for model, interpolation, sentence in (
        ("mobilenet", None, "unknown model 'mobilenet'"),
        ("mobilenet_v2", "cubic", "use one of bicubic"),
        ("nin", None, "unknown model of timm or torchvision 'nin'"),
    ):
        with pytest.raises(UsageError, match=sentence):
            import_weights(path, model, tmp_path / "bundle", interpolation=interpolation)
    with pytest.raises(UsageError, match="unknown source of weights 'tim'"):
        translate(state, "tim", "mobilenet_v2")
    with pytest.raises(UsageError, match="unknown model of torchvision 'xception'"):
        translate(state, "torchvision", "xception")
