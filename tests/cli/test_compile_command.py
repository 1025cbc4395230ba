"""`depthwise compile` on a real bundle and real data; what it leaves is used as any bundle is."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from PIL import Image

import depthwise
from depthwise import native
from depthwise.bundle import BundleConfig, read_bundle, write_bundle
from depthwise.cli.app import run
from depthwise.cli.compile import _print as print_compiled
from depthwise.data import Preprocess, open_dataset
from depthwise.data import test_split as part_to_test
from depthwise.errors import DepthwiseError
from depthwise.models import create_model
from depthwise.ship.compiling import Compiled, compile_bundle
from depthwise.ship.load import load_module
from depthwise.writing import reserved


@pytest.fixture(scope="module")
def digits_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for digits with random weights: its accuracy is poor, and must stay what it is."""
    path = tmp_path_factory.mktemp("digits") / "bundle"
    torch.manual_seed(0)
    arguments = {"stem": "small", "width": 0.125, "entry": [128], "middle": [128], "exit": [128, 256]}
    module = create_model("xception", num_classes=10, in_channels=1, **arguments)
    torch.nn.init.normal_(module.classifier.weight, std=0.05)
    preprocess = Preprocess((16, 16), channels=1, crop_fraction=1.0)
    config = BundleConfig("xception", tuple("0123456789"), preprocess, arguments)
    write_bundle(path, config, module.state_dict())
    return path


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_compiled_bundle_answers_as_the_original(
    digits_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    out = tmp_path / "fast"
    command = [
        "compile",
        str(digits_bundle),
        "--precision",
        precision,
        "--out",
        str(out),
        "--data",
        "digits",
        "--json",
    ]
    assert run([*command, "--allow-drop"]) == 0
    document = json.loads(capsys.readouterr().out)
    config = read_bundle(out).config
    assert config.compiled == {name: value for name, value in document.items() if name != "out"}
    assert document["precision"] == precision
    assert document["engine"] == "native"
    assert document["num_images"] == 360
    low, high = document["speedup_range"]
    assert 0 < low <= high
    if document["speedup"] is not None:  # as a busy machine leaves it
        assert low <= document["speedup"] <= high
    assert document["agreement"] == pytest.approx(1.0, abs=0.0 if precision == "fp32" else 0.1)

    # The classes of the original, with the compiled network's own probabilities.
    images = torch.randint(0, 256, (5, 1, 20, 20), dtype=torch.uint8)
    slow, fast = depthwise.load(digits_bundle), depthwise.load(out)
    assert type(fast.module).__name__ == "CompiledModule"
    for one, other in zip(slow(list(images), topk=10), fast(list(images), topk=10), strict=True):
        ours, theirs = (dict(zip(p.classes, p.probabilities, strict=True)) for p in (one, other))
        assert ours == pytest.approx(theirs, abs=1e-4 if precision == "fp32" else 2e-2)

    accuracies = []
    for bundle in (digits_bundle, out):
        assert run(["eval", str(bundle), "--data", "digits", "--json"]) == 0
        accuracies.append(json.loads(capsys.readouterr().out)["top1"])
    assert accuracies == pytest.approx(document["accuracy"])


@pytest.mark.parametrize(
    ("speedup", "sentence"),
    [
        (15.61, "0.10 ms, 15.61x as fast as on PyTorch (2.13 to 344.02)"),
        (
            None,
            "0.10 ms, too noisy to compare with PyTorch (2.13 to 344.02x): measure again on a quiet machine",
        ),
    ],
)
def test_a_speed_that_cannot_be_told_is_not_stated(
    speedup: float | None, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Compiled(Path("fast"), "fp32", "native", 1e-6, 0.1, speedup, (2.13, 344.02))
    assert result.to_json()["speedup"] == speedup
    assert result.to_json()["speedup_range"] == [2.13, 344.02]
    print_compiled(result)
    assert sentence in capsys.readouterr().out


def test_without_kernels_it_runs_on_pytorch_and_says_so(
    digits_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fast"
    assert run(["compile", str(digits_bundle), "--out", str(out)]) == 0
    assert "one image" in capsys.readouterr().out
    image = torch.zeros(1, 16, 16, dtype=torch.uint8)
    expected = depthwise.load(digits_bundle)(image)
    path = native.library.library.path
    native.use("off")
    try:
        with pytest.warns(
            UserWarning, match="runs uncompiled and slower: the native kernels cannot run here"
        ):
            answer = depthwise.load(out)(image)
    finally:
        native.use(path)
    assert answer == expected


def test_int8_without_a_plan_goes_on_as_fp32_does(
    digits_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fast"
    command = ["compile", str(digits_bundle), "--precision", "int8", "--data", "digits", "--out", str(out)]
    path = native.library.library.path
    native.use("off")
    try:
        assert run([*command, "--engine", "native"]) == 1
        assert "the native kernels cannot run here" in capsys.readouterr().err
        why = (
            r"int8 is for native plans alone and this network has none, so \w+ runs it in (bf16|fp32): "
            r"the native kernels cannot run here"
        )
        with pytest.warns(UserWarning, match=why):
            assert run(command) == 0
        assert ", for int8 is for native plans alone" in capsys.readouterr().out
        bundle = read_bundle(out)
        document = bundle.config.compiled  # which is what --json says, see above
        with pytest.warns(UserWarning, match="where int8 was asked for: the native kernels cannot run here"):
            assert len(
                depthwise.load(out, engine="bundle")(torch.zeros(1, 16, 16, dtype=torch.uint8)).classes
            )
    finally:
        native.use(path)
    assert document
    assert document["asked"] == "int8"
    assert document["precision"] in ("bf16", "fp32")
    assert document["engine"] in ("openvino", "onnxruntime", "torch")
    assert "the native kernels cannot run here" in document["why_not"]
    assert "layers" not in document
    assert bundle.roundings is None


def test_a_bundle_keeps_its_engine(
    digits_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fast"
    assert run(["compile", str(digits_bundle), "--out", str(out), "--engine", "torch", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"] == "torch"
    bundle = read_bundle(out)
    assert bundle.config.compiled is not None
    assert bundle.config.compiled["engine"] == "torch"
    image = torch.zeros(1, 16, 16, dtype=torch.uint8)
    fast = depthwise.load(out)
    assert type(fast.module) is type(load_module(bundle))  # PyTorch runs the network as it is
    answer = depthwise.load(digits_bundle)(image)
    assert fast(image).probabilities == pytest.approx(answer.probabilities)

    # Other people's engines are not started by a bundle's word, and one that cannot run is told to who asks for it.
    elsewhere = {"precision": "bf16", "engine": "onnxruntime"}
    write_bundle(out, replace(bundle.config, compiled=elsewhere), bundle.weights, overwrite=True)
    with pytest.warns(UserWarning, match="was compiled for onnxruntime and is run by our own kernels"):
        assert depthwise.load(out)(image).probabilities == pytest.approx(answer.probabilities, abs=2e-2)
    with pytest.raises(DepthwiseError, match="is not run by onnxruntime in bf16"):
        depthwise.load(out, engine="bundle")


def test_nothing_is_overwritten_unasked(
    digits_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fast"
    assert run(["compile", str(digits_bundle), "--out", str(out)]) == 0
    assert run(["compile", str(digits_bundle), "--out", str(out)]) == 1
    assert "exists and is not overwritten" in capsys.readouterr().err
    assert run(["compile", str(digits_bundle), "--out", str(out), "--precision", "bf16", "--force"]) == 0
    assert run(["compile", str(digits_bundle), "--out", str(tmp_path / "x"), "--precision", "fp8"]) == 2


def test_what_is_being_done_is_told(digits_bundle: Path, tmp_path: Path) -> None:
    told: list[str] = []
    _, split = part_to_test(open_dataset("digits"))
    compile_bundle(digits_bundle, tmp_path / "fast", engine="torch", split=split, tell=told.append)
    assert told[:2] == ["compiling in fp32", "timing it and PyTorch in turns"]
    rest = [text.partition(":")[0] for text in told[2:]]
    assert rest == sorted(rest, reverse=True)
    assert (told[2], told[-1]) == ("accuracy before: 1 of 12 batches", "accuracy after: 12 of 12 batches")


@pytest.mark.parametrize("command", ["compile {bundle}", "import nowhere.pth --model xception"])
def test_what_stands_in_the_way_is_told_before_the_work(
    command: str,
    digits_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("depthwise.ship.compiling.compile_bundle", None)
    words = [*command.format(bundle=digits_bundle).split(), "--out", str(tmp_path / "fast")]
    inside, leave = Event(), Event()

    def write_slowly() -> None:
        with reserved(tmp_path / "fast"):
            inside.set()
            leave.wait()

    def refused() -> str:
        assert run(words) == 1
        return capsys.readouterr().err

    with ThreadPoolExecutor(1) as pool:
        pool.submit(write_slowly)
        try:
            assert inside.wait(60)
            said = refused()
        finally:
            leave.set()
    assert said.startswith(f"error: process {os.getpid()} is writing {tmp_path / 'fast'}: wait until it ends")
    (tmp_path / "fast").mkdir()
    assert "fast exists and is not overwritten" in refused()


def test_int8_tells_of_every_product(
    digits_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fast"
    command = ["compile", str(digits_bundle), "--precision", "int8", "--out", str(out)]
    assert run(command) == 1
    assert (
        "int8 is calibrated on images like those to come: give --data or --calibrate"
        in capsys.readouterr().err
    )
    assert not out.exists()
    (tmp_path / "empty").mkdir()
    assert run([*command, "--calibrate", str(tmp_path / "empty")]) == 1
    assert "empty holds no image that can be read: give others with --calibrate" in capsys.readouterr().err
    for k in range(9):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (8, 8), np.uint8)).save(
            tmp_path / f"{k}.png"
        )
    (tmp_path / "images.csv").write_text("\n".join(["path", *(f"{k}.png" for k in range(9))]))
    unlabelled = str(tmp_path / "images.csv")
    assert run([*command[:-1], str(tmp_path / "other"), "--calibrate", unlabelled]) == 0
    capsys.readouterr()
    assert run([*command, "--calibrate", "digits"]) == 0
    printed = capsys.readouterr().out
    config = read_bundle(out).config
    assert config.compiled is not None
    layers = config.compiled["layers"]
    assert {layer["precision"] for layer in layers} == {"int8"}
    worst = max(layers, key=lambda layer: layer["error"])
    assert f"{len(layers)} of {len(layers)} convolutions in int8" in printed
    assert worst["name"] in printed
    assert f"{worst['error']:.2%}" in printed

    # What was calibrated is kept with the bundle, and nothing of it may be missing.
    image = torch.randint(0, 256, (1, 16, 16), dtype=torch.uint8)
    assert depthwise.load(out)(image) == depthwise.load(out)(image)
    assert depthwise.load(out).module.roundings.keys() == {layer["name"] for layer in layers}
    (out / "roundings.safetensors").unlink()
    with pytest.raises(depthwise.DepthwiseError, match=r"roundings\.safetensors is missing"):
        depthwise.load(out)


def test_a_product_that_bytes_are_too_coarse_for_stays_bfloat16(
    digits_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = read_bundle(digits_bundle)
    spoilt = {name: tensor.clone() for name, tensor in bundle.weights.items()}
    (name,) = [name for name in spoilt if name.endswith("exit.1.conv.pointwise.weight")]
    spoilt[name] = spoilt[name] * 1e-3
    spoilt[name][:, 0] = 30.0  # of a channel that is nearly nothing, beside which the others are rounded away
    spoilt[name.replace("pointwise", "depthwise")][0] *= 1e-3
    write_bundle(tmp_path / "spoilt", bundle.config, spoilt)
    command = ["compile", str(tmp_path / "spoilt"), "--out", str(tmp_path / "fast"), "--precision", "int8"]
    assert run([*command, "--calibrate", "digits", "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    name = name.removesuffix(".weight")
    # With it the depthwise convolution before it, which has no bytes to give to.
    left = [layer["name"] for layer in layers if layer["precision"] == "bf16"]
    assert left == [name.replace("pointwise", "depthwise"), name]
