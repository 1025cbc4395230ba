"""`depthwise import`: what it prints, what it refuses, and that what it leaves is used by the other commands."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import models

from depthwise.bundle import read_bundle
from depthwise.cli.app import DONE, FAILED, USAGE, run


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobilenet.pth"
    torch.save(models.mobilenet_v2(num_classes=3).state_dict(), path)
    return path


def test_import_then_predict(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.txt").write_text("cat\n\ndog\nnaïve 猫\n", encoding="utf-8")
    Image.new("RGB", (300, 200), "orange").save(tmp_path / "a.png")
    out = str(tmp_path / "bundle")
    names = str(tmp_path / "names.txt")
    code = run(["import", str(weights), "--model", "mobilenet_v2", "--out", out, "--classes", names])
    printed = capsys.readouterr()
    assert code == DONE
    assert "mobilenet_v2 from torchvision, 3 classes, images of 224x224" in printed.out
    assert f"depthwise predict {out} IMAGE" in printed.out
    assert "torchvision's usual one for mobilenet_v2" in printed.err
    assert run(["predict", out, str(tmp_path / "a.png"), "--json"]) == DONE
    answer = json.loads(capsys.readouterr().out)
    assert "naïve 猫" in json.dumps(answer, ensure_ascii=False)


def test_one_json_document(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bundle"
    command = ["import", str(weights), "--model", "mobilenet_v2", "--out", str(out), "--json", "--backbone"]
    assert run(command) == DONE
    document = json.loads(capsys.readouterr().out)
    assert document["model_args"]["num_classes"] == 0
    assert document["classes"] == []
    assert document["source"] == "torchvision"
    assert run(["predict", str(out), "a.png"]) == FAILED
    assert f"train one on it with depthwise train --init {out}" in capsys.readouterr().err
    assert run(command) == FAILED
    assert "exists and is not overwritten" in capsys.readouterr().err
    assert run([*command, "--force"]) == DONE


def test_of_a_checkpoint_averaged_weights_are_taken_and_said(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(weights, weights_only=True)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    path = tmp_path / "last.pth"
    torch.save({"state_dict": zeros, "state_dict_ema": {f"module.{n}": t for n, t in state.items()}}, path)
    command = ["import", str(path), "--model", "mobilenet_v2", "--force"]
    command += ["--out", str(tmp_path / "bundle"), "--mean", "0.1", "0.2", "0.3", "--std", "0.5"]
    for choice, averaged in (([], True), (["--weights", "ema"], True), (["--weights", "raw"], False)):
        assert run([*command, *choice]) == DONE
        said = capsys.readouterr().err
        assert ("taken are the averaged ones (state_dict_ema), as timm does" in said) is not bool(choice)
        assert ("all its names stand under module., which is taken off" in said) is averaged
        bundle = read_bundle(tmp_path / "bundle")
        assert bundle.weights["classifier.weight"].any().item() is averaged
        assert bundle.config.preprocess.mean == (0.1, 0.2, 0.3)
        assert bundle.config.preprocess.std == (0.5, 0.5, 0.5)
    assert run([*command, "--weights", "best"]) == USAGE
    assert "--weights" in capsys.readouterr().err
    assert run([*command, "--mean", "x"]) == USAGE
    assert run(["import", str(weights), *command[2:], "--weights", "ema"]) == FAILED
    assert "holds no averaged weights" in capsys.readouterr().err


def test_a_backbone_begins_a_training(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, data, out = (str(tmp_path / name) for name in ("bundle", "data", "run"))
    assert run(["import", str(weights), "--model", "mobilenet_v2", "--out", bundle, "--backbone"]) == DONE
    assert f"depthwise train --init {bundle}" in capsys.readouterr().out
    for i in range(24):
        folder = tmp_path / "data" / ("dark", "light")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), ((i, 0, 0), (255 - i, 255, 255))[i % 2]).save(folder / f"{i}.png")
    command = ["train", "--init", bundle, "--data", data, "--out", out, "--freeze", "--epochs", "1"]
    assert run(command) == DONE
    assert "with a new classifier for the new classes" in capsys.readouterr().err
    assert run(["predict", out, str(tmp_path / "data" / "dark" / "0.png"), "--json"]) == DONE


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--model", "mobilenet_v3"], USAGE, "unknown model 'mobilenet_v3': use one of mobilenet_v"),
        (["--model", "mobilenet_v2", "--classes", "absent.txt"], USAGE, "absent.txt cannot be read"),
        (["--model", "mobilenet_v2", "--interpolation", "cubic"], USAGE, "unknown interpolation 'cubic'"),
        (
            ["--model", "resnet50"],
            FAILED,
            "conv1.weight is absent in the file and [64, 3, 7, 7] in the network",
        ),
        ([], USAGE, "--model"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    options: list[str],
    code: int,
    sentence: str,
    tmp_path: Path,
    weights: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["import", str(weights), "--out", str(tmp_path / "bundle"), *options]) == code
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert not (tmp_path / "bundle").exists()


def test_names_of_classes_that_are_no_text_are_refused(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    for content, sentence in ((b"\xff\xfe\x00", "is not UTF-8 text"), (b"\n \n", "holds no class names")):
        names.write_bytes(content)
        command = ["import", str(weights), "--model", "mobilenet_v2", "--out", str(tmp_path / "b")]
        assert run([*command, "--classes", str(names)]) == USAGE
        assert sentence in capsys.readouterr().err
