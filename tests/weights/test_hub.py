"""Weights by name come from the peers' own caches and predict as they do; without one, a sentence says what to do."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from tests.processes import command
from torch import nn
from torchvision import models

from depthwise.errors import DepthwiseError, UsageError
from depthwise.ship.importing import import_weights
from depthwise.ship.load import load
from depthwise.weights import hub

NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_PROXY": ""}


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photograph") / "china.jpg"
    Image.fromarray(load_sample_image("china.jpg")).save(path)
    return path


def randomised(network: nn.Module) -> nn.Module:
    """With statistics away from the start, and logits that differ."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=4 / module.in_features**0.5)
    return network.eval()


def same_answer(bundle: Path, image: Path, network: nn.Module, transform: Any) -> None:
    with torch.no_grad():
        expected = network(transform(Image.open(image))[None]).softmax(1)[0]
    prediction = load(bundle)(image)
    assert list(prediction.indices) == expected.topk(5).indices.tolist()
    # Pillow and PyTorch resize to pixels that differ by one here and there.
    assert (torch.tensor(prediction.probabilities) - expected.topk(5).values).abs().max() < 2e-3


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "inception_v3"])
def test_torchvisions_weights_by_name_and_by_file(
    architecture: str, tmp_path: Path, photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights of our own in the place of those that torchvision publishes."""
    inception = architecture == "inception_v3"
    arguments = {"init_weights": False, "transform_input": True} if inception else {}
    network = randomised(getattr(models, architecture)(**arguments))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(network.state_dict(), cache / "new.pth")
    digest = hashlib.sha256((cache / "new.pth").read_bytes()).hexdigest()
    name = f"{architecture}-{digest[:8]}.pth"
    (cache / "new.pth").rename(cache / name)
    entry = models.get_model_weights(architecture)["IMAGENET1K_V1"]
    monkeypatch.setattr(entry.value, "url", f"https://example.org/models/{name}")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    result = import_weights(f"torchvision:{architecture}.IMAGENET1K_V1", architecture, tmp_path / "by-name")
    assert result.notes == ()
    assert result.config.classes == tuple(entry.meta["categories"])
    same_answer(tmp_path / "by-name", photograph, network, entry.transforms())
    by_file = import_weights(cache / name, architecture, tmp_path / "by-file")
    assert by_file.config.preprocess == result.config.preprocess
    assert by_file.notes == ()


def test_a_cached_file_that_is_not_the_published_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = models.MobileNet_V2_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / name).write_bytes(b"no weights")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DepthwiseError, match=r"has the SHA-256 \w{8}\.\.\., not \w{8} as published"):
        import_weights("torchvision:mobilenet_v2.IMAGENET1K_V1", "mobilenet_v2", tmp_path / "bundle")


def test_timms_weights_by_name_and_by_folder(tmp_path: Path, photograph: Path) -> None:
    network = randomised(timm.create_model("mobilenetv2_050", num_classes=12))
    repository = tmp_path / "cache" / "models--timm--mobilenetv2_050.ours"
    folder = repository / "snapshots" / "0123456789abcdef"
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123456789abcdef")
    safetensors.torch.save_file(network.state_dict(), folder / "model.safetensors")
    preprocessing = {
        "input_size": [3, 160, 160],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.25, 0.3],
    }
    names = [f"kind {i}" for i in range(12)]
    config = {"architecture": "mobilenetv2_050", "pretrained_cfg": preprocessing, "label_names": names}
    (folder / "config.json").write_text(json.dumps(config))

    out = tmp_path / "by-name"
    arguments = [
        "import",
        "timm:mobilenetv2_050.ours",
        "--model",
        "mobilenet_v2",
        "--out",
        str(out),
        "--json",
    ]
    run = command(*arguments, HF_HUB_CACHE=str(tmp_path / "cache"), **NOWHERE)
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert document["source"] == "timm"
    assert document["classes"] == names
    data = timm.data.resolve_data_config(pretrained_cfg={**preprocessing, "input_size": (3, 160, 160)})
    same_answer(out, photograph, network, timm.data.create_transform(**data))
    by_folder = import_weights(folder, "mobilenet_v2", tmp_path / "by-folder")
    assert by_folder.config.preprocess.to_json() | {"size": [160, 160]} == document["preprocess"] | {
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.25, 0.3),
    }


def test_without_a_network_a_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (
        "import",
        "timm:legacy_xception.tf_in1k",
        "--model",
        "xception",
        "--out",
        str(tmp_path / "out"),
    )
    run = command(*arguments, HF_HUB_CACHE=str(tmp_path), **NOWHERE)
    assert run.returncode == 1
    assert run.stdout == ""
    sentence = "config.json of timm/legacy_xception.tf_in1k is not in the hub's cache and cannot be fetched"
    assert sentence in run.stderr
    assert "import the folder" in run.stderr
    for name, value in {**NOWHERE, "TORCH_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        DepthwiseError, match=r"is not in .* and cannot be fetched \(.*\): put https://.* there"
    ):
        import_weights("torchvision:mobilenet_v2", "mobilenet_v2", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "model", "sentence"),
    [
        ("timm:legacy_xceptoin.tf_in1k", "xception", "use one of legacy_xception"),
        ("timm:legacy_xception", "xception", "lacks the tag"),
        ("timm:legacy_xception.tf_in1k", "resnet50", "give model='xception'"),
        ("torchvision:xception", "xception", "unknown network of torchvision 'xception'"),
        ("torchvision:resnet50.V3", "resnet50", "use one of DEFAULT, IMAGENET1K_V1"),
        ("torchvision:resnet50", "resnet5O", "unknown model 'resnet5O'"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(
    source: str, model: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as raised:
        import_weights(source, model, tmp_path / "bundle")
    assert sentence in str(raised.value)


def test_timms_squashing_and_rounding() -> None:
    values = {"input_size": [3, 224, 224], "crop_pct": 0.95, "crop_mode": "squash", "interpolation": "random"}
    default = hub.timm_preprocess({}, timm_default())
    preprocess = hub.timm_preprocess({"pretrained_cfg": values}, default)
    assert preprocess.stretch
    assert preprocess.interpolation == "bicubic"
    assert round(224 / preprocess.crop_fraction) == 235  # int(224 / 0.95), not the nearest
    with pytest.raises(DepthwiseError, match="malformed"):
        hub.timm_preprocess({"pretrained_cfg": {"input_size": 224}}, default)


def timm_default() -> Any:
    from depthwise.weights.timm import LAYOUTS

    return LAYOUTS["resnet50"].preprocess
