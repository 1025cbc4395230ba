"""How weights come wrapped, each as the tool writes it: read, or refused with what it is and what to do."""

import argparse
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from depthwise.errors import DepthwiseError
from depthwise.weights.files import WeightsFile, read_weights

# What is old is what is tried here.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        ".torch.jit",
        "TypedStorage",
        "torch.quantize_per",
        "You are using the legacy",
        "The feature will be",
    )
]

NETWORK = nn.Sequential()
NETWORK.add_module("conv", nn.Conv2d(1, 8, 3))
NETWORK.add_module("bn", nn.BatchNorm2d(8))
STATE = {name: tensor.clone() for name, tensor in NETWORK.state_dict().items()}


def under(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in STATE.items()}


def cast(dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in STATE.items()}


def packed(save: Callable[[Any], Any]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def pth(value: Any, **options: Any) -> bytes:
    return packed(lambda file: torch.save(value, file, **options))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def same(file: WeightsFile, tolerance: float = 0.0) -> bool:
    return file.tensors.keys() == STATE.keys() and all(
        torch.allclose(file.tensors[name], tensor, rtol=0, atol=tolerance) for name, tensor in STATE.items()
    )


optimizer = torch.optim.AdamW(NETWORK.parameters())

READ: dict[str, Callable[[], bytes]] = {
    "a state_dict": lambda: pth(STATE),
    "in the format before PyTorch 1.6": lambda: pth(STATE, _use_new_zipfile_serialization=False),
    "DataParallel": lambda: pth(under("module.")),
    "torch.compile": lambda: pth(under("_orig_mod.")),
    "compiled, then distributed": lambda: pth(under("module._orig_mod.")),
    "distributed, then compiled": lambda: pth(under("_orig_mod.module.")),
    "Lightning": lambda: pth(
        {
            "epoch": 3,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": under("model."),
            "optimizer_states": [optimizer.state_dict()],
            "hyper_parameters": {"lr": 0.1},
        }
    ),
    "Lightning, self.net": lambda: pth({"state_dict": under("net.")}),
    "optimizer beside it": lambda: pth({"model": STATE, "optimizer": optimizer.state_dict(), "epoch": 3}),
    "torchvision's and timm's scripts": lambda: pth(
        {
            "model": STATE,
            "epoch": 3,
            "args": argparse.Namespace(lr=0.1, data_path="/data", nested=argparse.Namespace(a=1)),
        }
    ),
    "model_state_dict": lambda: pth({"model_state_dict": STATE, "loss": 0.5}),
    "nested twice": lambda: pth({"model": {"state_dict": under("module.")}}),
    "AveragedModel": lambda: pth(AveragedModel(NETWORK).state_dict()),
    "nothing but an average": lambda: pth({"model_ema": {**under("module."), "n_averaged": torch.tensor(2)}}),
    "parameters, not plain tensors": lambda: pth(
        {**dict(NETWORK.named_parameters()), **dict(NETWORK.named_buffers())}
    ),
    "channels last": lambda: pth(
        {k: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for k, t in STATE.items()}
    ),
    "safetensors": lambda: safetensors.torch.save(STATE),
    "safetensors with metadata": lambda: safetensors.torch.save(STATE, {"format": "pt", "licence": "mit"}),
    "float64": lambda: pth(cast(torch.float64)),
}


@pytest.mark.parametrize("layout", READ)
def test_it_is_read(tmp_path: Path, layout: str) -> None:
    file = read_weights(written(tmp_path / "weights.pth", READ[layout]()))
    assert same(file)
    assert file.notes == ()
    assert all(not tensor.requires_grad for tensor in file.tensors.values())


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2), (torch.float8_e4m3fn, 0.1)]
)
def test_what_is_stored_shorter_is_read_as_float32(
    tmp_path: Path, dtype: torch.dtype, tolerance: float
) -> None:
    for content in (pth(cast(dtype)), safetensors.torch.save(cast(dtype))):
        file = read_weights(written(tmp_path / "weights", content))
        assert same(file, tolerance)
        assert file.tensors["conv.weight"].dtype == torch.float32


def test_of_raw_and_averaged_weights_the_choice_is_said(tmp_path: Path) -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in STATE.items()}
    file = read_weights(written(tmp_path / "timm.pth", pth({"state_dict": STATE, "state_dict_ema": zeros})))
    assert same(file)
    assert file.notes == (
        "the file holds averaged weights too (state_dict_ema): taken are those of state_dict, save the others alone to "
        "take them",
    )


def script(file: Any) -> None:
    torch.jit.save(torch.jit.script(NETWORK), file)


def export(file: Any) -> None:
    torch.export.save(torch.export.export(NETWORK.eval(), (torch.zeros(1, 1, 8, 8),)), file)


def package(file: Any) -> None:
    with torch.package.PackageExporter(file) as exporter:
        exporter.save_pickle("model", "weights.pkl", STATE)


def zipped(**entries: bytes) -> bytes:
    def save(file: Any) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name.replace("__", "/"), content)

    return packed(save)


PROTOCOL = "save the state_dict with torch.save and its own protocol, or as .safetensors"
NO_CODE = "and none was run: ask for the weights as .safetensors, or save the state_dict alone"
FLOAT = "weights are floating point of 8 bits at least: save the network's state_dict in float32"
AGAIN = "save the weights from the framework that made it as .safetensors, .pth, .keras or .h5"
ORIGIN = "give the weights that it was made from, as .safetensors, .pth, .keras or .h5"

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "a TorchScript program": (
        lambda: packed(script),
        "{path} is a TorchScript program and is not run: save its weights where you trust it, with "
        "torch.save(torch.jit.load({path!r}).state_dict(), 'weights.pth'), and give weights.pth",
    ),
    "torch.export": (
        lambda: packed(export),
        "{path} is a program of torch.export and is not run: save its weights where you trust it, with "
        "torch.save(torch.export.load({path!r}).state_dict, 'weights.pth'), and give weights.pth",
    ),
    "torch.package": (
        lambda: packed(package),
        "{path} is an archive of torch.package and is not run: save its ",
    ),
    "a whole module": (
        lambda: pth(NETWORK),
        "is a pickle that wants to run code (torch.nn.modules.container.Sequential)",
    ),
    "NumPy's scalars": (
        lambda: pth({"model": STATE, "best": np.float64(0.5)}),
        f"multiarray.scalar), {NO_CODE}",
    ),
    "NumPy's arrays": (
        lambda: pth({k: t.numpy() for k, t in STATE.items()}),
        f"multiarray._reconstruct), {NO_CODE}",
    ),
    "a function": (
        lambda: pth({"model": STATE, "f": len}),
        f"is a pickle that wants to run code (len), {NO_CODE}",
    ),
    "protocol 4": (lambda: pth(STATE, pickle_protocol=4), PROTOCOL),
    "protocol 4, before 1.6": (
        lambda: pth(STATE, pickle_protocol=4, _use_new_zipfile_serialization=False),
        PROTOCOL,
    ),
    "quantized": (
        lambda: pth({"conv.weight": torch.quantize_per_tensor(STATE["conv.weight"], 0.1, 0, torch.qint8)}),
        "conv.weight is no dense tensor: save the network's state_dict in float32",
    ),
    "int8": (lambda: pth({"conv.weight": STATE["conv.weight"].char()}), f"conv.weight holds int8, {FLOAT}"),
    "complex": (
        lambda: pth({"w.weight": torch.zeros(3, dtype=torch.complex64)}),
        f"w.weight holds complex64, {FLOAT}",
    ),
    "an optimizer alone": (
        lambda: pth(optimizer.state_dict()),
        "holds no tensors by name: save the network's state_dict",
    ),
    "a tuple": (lambda: pth((STATE, 3)), "holds no tensors by name"),
    "nothing": (lambda: b"", "is empty: get the file again"),
    "an array": (lambda: packed(lambda f: np.save(f, np.zeros(3))), f"is a NumPy array (.npy): {AGAIN}"),
    "arrays": (
        lambda: packed(lambda f: np.savez(f, a=np.zeros(3))),
        f"is an archive of NumPy arrays (.npz): {AGAIN}",
    ),
    "a zipped file": (
        lambda: zipped(best__last=b"", **{"best.pth": b""}),
        "is a ZIP archive around best.pth: unpack",
    ),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(20), "is compressed (gzip): unpack it"),
    "tar": (lambda: bytes(257) + b"ustar\x00" + bytes(200), "is an archive (tar): unpack it"),
    "GGUF": (lambda: b"GGUF\x03" + bytes(40), f"is a GGUF file (llama.cpp): {ORIGIN}"),
    "TensorFlow Lite": (lambda: b"\x1c\0\0\0TFL3" + bytes(40), f"is a TensorFlow Lite model: {ORIGIN}"),
    "SavedModel": (lambda: b"\x08\x01\x12\xd5\x03\x12\x07", f"is a SavedModel of TensorFlow: {AGAIN}"),
    "Flax": (lambda: b"\x81\xa6params\x83\xa5conv1", f"is a file of Flax's parameters (msgpack): {AGAIN}"),
    "Flax, many": (lambda: b"\xde\x00\x20\xa6params", f"is a file of Flax's parameters (msgpack): {AGAIN}"),
    "Git LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\noid", "fetch it with git lfs pull"),
    "a page": (
        lambda: b"\n<!DOCTYPE html><html>",
        "is a web page: the download went wrong, get the file again",
    ),
    "a configuration": (
        lambda: b'{"architecture": "x"}',
        "is text (JSON): name the file that has the weights",
    ),
    "OpenVINO": (
        lambda: b'<?xml version="1.0"?><net name="x">',
        "is text (XML), as OpenVINO describes networks in",
    ),
    "a photo": (
        lambda: b"\xff\xd8\xff\xe0" + bytes(20),
        "holds no weights that can be read, it begins with b'\\xff\\xd8",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_called_what_it_is(tmp_path: Path, what: str) -> None:
    make, sentence = REFUSED[what]
    path = written(tmp_path / "weights.pth", make())
    with pytest.raises(DepthwiseError) as raised:
        read_weights(path)
    assert sentence.format(path=str(path)) in str(raised.value)


def test_the_remedy_for_a_torchscript_program_works(tmp_path: Path) -> None:
    path = written(tmp_path / "program.pt", packed(script))
    with pytest.raises(DepthwiseError) as raised:
        read_weights(path)
    remedy = str(raised.value).partition("with ")[2].partition(", and give")[0]
    exec(remedy.replace("'weights.pth'", repr(str(tmp_path / "weights.pth"))), {"torch": torch})
    assert same(read_weights(tmp_path / "weights.pth"))


def test_an_onnx_model_under_any_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.onnx.export(NETWORK.eval(), (torch.zeros(1, 1, 8, 8),), buffer, dynamo=False)
    for name in ("model.onnx", "model.pth"):
        with pytest.raises(DepthwiseError, match="is an ONNX model: give the weights that it was made from"):
            read_weights(written(tmp_path / name, buffer.getvalue()))


def test_formats_without_a_mark_are_known_by_their_names(tmp_path: Path) -> None:
    for name, what in {
        "frozen.pb": "a graph of TensorFlow",
        "net.caffemodel": "a file of Caffe's parameters",
        "model.ckpt.data-00000-of-00001": "a part of TensorFlow's checkpoint",
        "model.ckpt.index": "an index of TensorFlow's checkpoint",
    }.items():
        with pytest.raises(DepthwiseError, match=f"is {what}: "):
            read_weights(written(tmp_path / name, b"\x0a\x20" + bytes(60)))


def test_weights_in_several_files(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "model-00002-of-00003.safetensors")
    with pytest.raises(DepthwiseError, match="is part 2 of 3 of the weights: join the tensors of all parts"):
        read_weights(tmp_path / "model-00002-of-00003.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(
        DepthwiseError, match="is a folder whose weights are divided over several files: join"
    ):
        read_weights(tmp_path)
    safetensors.torch.save_file(STATE, tmp_path / "model-00001-of-00001.safetensors")
    assert same(read_weights(tmp_path / "model-00001-of-00001.safetensors"))


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("saved_model.pb", "a SavedModel of TensorFlow: load it there and save the Keras model as .keras"),
        ("__0_0.distcp", "a distributed checkpoint of PyTorch: turn it into one file with"),
        ("ckpt-1.index", "a checkpoint of TensorFlow: save the weights"),
        ("bundle/config.json", "the directory of a training run, with a bundle already: use it as it is"),
    ],
)
def test_folders_are_called_what_they_are(tmp_path: Path, file: str, what: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(DepthwiseError) as raised:
        read_weights(tmp_path)
    assert f"{tmp_path} is {what}" in str(raised.value)


def test_safetensors_of_a_type_that_torch_lacks(tmp_path: Path) -> None:
    header = b'{"w": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}'
    with pytest.raises(
        DepthwiseError, match="w holds float4_e2m1fn_x2, weights are floating point of 8 bits"
    ):
        read_weights(written(tmp_path / "a", struct.pack("<Q", len(header)) + header + bytes(2)))
