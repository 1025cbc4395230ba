"""PyTorch's files become bundles: heads, towers, widths, names of classes; of what does not fit nothing is left."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

from depthwise.bundle import read_bundle
from depthwise.errors import DepthwiseError, UsageError
from depthwise.importing import import_weights
from depthwise.load import load, load_module
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
    with pytest.raises(DepthwiseError, match=r"has the layers classifier.0, classifier.2: add --backbone"):
        import_weights(path, "mobilenet_v2", tmp_path / "bundle")
    result = import_weights(path, "mobilenet_v2", tmp_path / "bundle", backbone=True)
    assert result.config.model_args["num_classes"] == 0
    with pytest.raises(DepthwiseError, match="is a backbone without a classifier"):
        load(tmp_path / "bundle")


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
    import_weights(path, "mobilenet_v2", tmp_path / "bundle", overwrite=True, interpolation="nearest")
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
