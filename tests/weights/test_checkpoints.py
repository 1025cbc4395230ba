"""How weights come wrapped, each as the tool writes it: read, or refused with what it is and what to do."""

import argparse
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from depthwise.errors import DepthwiseError
from depthwise.weights.files import WeightsFile, read_weights
from depthwise.weights.layout import Layout
from depthwise.weights.torchvision import IMAGENET
from depthwise.weights.wrapping import Choice

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
LAYOUT = Layout("tiny", lambda: (("conv", "conv"), ("bn", "bn")), IMAGENET)
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


def taken_off(prefix: str, but: str = "") -> tuple[str, ...]:
    left = "; what stands beside is left out" if but else ""
    return (f"all its names{but} stand under {prefix}, which is taken off{left}",)


AVERAGE = "taken are averaged weights ({}), the only ones in the file"
COUNTED = {**{f"module.{name}": tensor for name, tensor in STATE.items()}, "n_averaged": torch.tensor(2)}

# What is read, and what is said of it.
READ: dict[str, tuple[Callable[[], bytes], tuple[str, ...]]] = {
    "a state_dict": (lambda: pth(STATE), ()),
    "in the format before PyTorch 1.6": (lambda: pth(STATE, _use_new_zipfile_serialization=False), ()),
    "Lightning": (
        lambda: pth(
            {
                "epoch": 3,
                "pytorch-lightning_version": "2.5.0",
                "state_dict": under("model."),
                "optimizer_states": [optimizer.state_dict()],
                "hyper_parameters": {"lr": 0.1},
            }
        ),
        taken_off("model."),
    ),
    "Lightning, a loss with weights": (
        lambda: pth({"state_dict": {**under("model."), "criterion.weight": torch.ones(3)}}),
        taken_off("model.", " but criterion.weight"),
    ),
    "Lightning, metrics that are not finite": (
        lambda: pth(
            {"state_dict": {"best.value": torch.tensor(-torch.inf), **under("net."), "a.b": torch.ones(1)}}
        ),
        taken_off("net.", " but best.value and 1 other"),
    ),
    "optimizer beside it": (
        lambda: pth({"model": STATE, "optimizer": optimizer.state_dict(), "epoch": 3}),
        (),
    ),
    "an optimizer's copy of the weights": (
        lambda: pth({"optimizer": {"master": under("module.")}, "weights": STATE}),
        (),
    ),
    "torchvision's and timm's scripts": (
        lambda: pth(
            {
                "model": STATE,
                "epoch": 3,
                "args": argparse.Namespace(lr=0.1, data_path="/data", nested=argparse.Namespace(a=1)),
            }
        ),
        (),
    ),
    "nested twice": (lambda: pth({"model": {"state_dict": under("module.")}}), taken_off("module.")),
    "AveragedModel": (
        lambda: pth(AveragedModel(NETWORK).state_dict()),
        (AVERAGE.format("AveragedModel"), *taken_off("module.")),
    ),
    "the counter alone": (
        lambda: pth({**STATE, "n_averaged": torch.tensor(2)}),
        (AVERAGE.format("AveragedModel"),),
    ),
    "an average without names beside it": (
        lambda: pth({"model": STATE, "ema": {"decay": 0.9, "shadow_params": list(STATE.values())}}),
        ("the averaged weights (ema) have no names and are passed over",),
    ),
    "an average under other names": (
        lambda: pth(
            {"model": STATE, "ema": {"convweight": torch.ones(1), "conv.bias2.weight": torch.ones(2)}}
        ),
        ("the averaged weights (ema) have other names and are passed over",),
    ),
    "parameters, not plain tensors": (
        lambda: pth({**dict(NETWORK.named_parameters()), **dict(NETWORK.named_buffers())}),
        (),
    ),
    "channels last": (
        lambda: pth(
            {k: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for k, t in STATE.items()}
        ),
        (),
    ),
    "safetensors": (lambda: safetensors.torch.save(STATE), ()),
    "safetensors, a prefix": (lambda: safetensors.torch.save(under("backbone.")), taken_off("backbone.")),
    "safetensors with metadata": (
        lambda: safetensors.torch.save(STATE, {"format": "pt", "licence": "mit"}),
        (),
    ),
    "float64": (lambda: pth(cast(torch.float64)), ()),
    **{
        f"under {prefix}": (lambda prefix=prefix: pth(under(prefix)), taken_off(prefix))  # type: ignore[misc]
        for prefix in (
            "module.",
            "_orig_mod.",
            "module._orig_mod.",
            "_orig_mod.module.",
            "model.",
            "model.module.",
            "net.",
            "backbone.",
            "student.encoder.",
            "0.",
        )
    },
    **{
        f"only {key} inside": (lambda key=key: pth({key: STATE, "epoch": 1}), ())  # type: ignore[misc]
        for key in ("params", "net", "weights", "model_state_dict", "generator", "state")
    },
    **{
        f"only {key} inside": (  # type: ignore[misc]
            lambda key=key: pth({key: COUNTED, "epoch": 1}),
            (AVERAGE.format(key), *taken_off("module.")),
        )
        for key in ("ema", "model_ema", "state_dict_ema", "params_ema", "swa_model")
    },
}


@pytest.mark.parametrize("layout", READ)
def test_it_is_read(tmp_path: Path, layout: str) -> None:
    make, notes = READ[layout]
    file = read_weights(written(tmp_path / "weights.pth", make()), layouts=[LAYOUT])
    assert same(file)
    assert file.notes == notes
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


ZEROS = {name: torch.zeros_like(tensor) for name, tensor in STATE.items()}
LEARNED = {name: STATE[name] for name, _ in NETWORK.named_parameters()}

# What is raw in each is zero. The keys of both kinds as the note has them.
BOTH: dict[str, tuple[Callable[[], Any], str, str]] = {
    "timm": (lambda: {"state_dict": ZEROS, "state_dict_ema": STATE}, "state_dict_ema", "state_dict"),
    "timm, distributed": (
        lambda: {"state_dict_ema": under("module."), "model_ema": ZEROS, "state_dict": ZEROS},
        "state_dict_ema",
        "state_dict",
    ),
    "torchvision": (lambda: {"model": ZEROS, "model_ema": COUNTED, "epoch": 1}, "model_ema", "model"),
    "ema, nested": (lambda: {"model": ZEROS, "ema": {"decay": 0.9, "shadow": STATE}}, "ema.shadow", "model"),
    "BasicSR": (lambda: {"params": ZEROS, "params_ema": STATE}, "params_ema", "params"),
    "beside the network's own names": (
        lambda: {**ZEROS, "ema_state_dict": STATE},
        "ema_state_dict",
        "the network itself",
    ),
    "Lightning, a module of its own": (
        lambda: {"state_dict": {**{f"model.{n}": t for n, t in ZEROS.items()}, **under("ema_model.module.")}},
        "ema_model",
        "state_dict",
    ),
    "Lightning's WeightAveraging": (
        lambda: {"state_dict": STATE, "current_model_state": ZEROS},
        "state_dict",
        "current_model_state",
    ),
}


@pytest.mark.parametrize("what", BOTH)
def test_of_raw_and_averaged_weights_the_averaged_are_taken_as_timm_does(tmp_path: Path, what: str) -> None:
    make, average, raw = BOTH[what]
    path = written(tmp_path / "last.pth", pth(make()))
    file = read_weights(path, layouts=[LAYOUT])
    assert same(file)
    assert file.notes[0] == (
        f"the file holds raw and averaged weights: taken are the averaged ones ({average}), as timm does; "
        f"--weights raw takes those of {raw}"
    )
    assert same(read_weights(path, "ema", [LAYOUT]))
    taken = read_weights(path, "raw", [LAYOUT]).tensors
    assert taken.keys() == STATE.keys()
    assert not any(tensor.any() for tensor in taken.values())


def test_what_timm_takes_is_what_is_taken(tmp_path: Path) -> None:
    for number, checkpoint in enumerate(
        (
            {"state_dict": STATE, "state_dict_ema": ZEROS},
            {"state_dict": STATE, "model_ema": ZEROS},
            {"state_dict": STATE, "state_dict_ema": None},
            {"model": STATE, "model_ema": ZEROS, "state_dict_ema": STATE},
            {"model": ZEROS, "state_dict": STATE},
        )
    ):
        path = written(tmp_path / f"{number}.pth", pth(checkpoint))
        found, expected = read_weights(path, layouts=[LAYOUT]).tensors, load_state_dict(str(path))
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_an_average_of_parameters_alone_is_completed(tmp_path: Path) -> None:
    raw = {
        name: tensor if "running" in name or "num_" in name else ZEROS[name] for name, tensor in STATE.items()
    }
    file = read_weights(written(tmp_path / "a.pth", pth({"model": raw, "ema": LEARNED})), layouts=[LAYOUT])
    assert same(file)
    assert file.notes[1] == "3 tensors of which no average is kept (bn.running_mean) are the raw"


@pytest.mark.parametrize(
    ("value", "choice", "sentence"),
    [
        (STATE, "ema", "holds no averaged weights: name a file that has them, or leave weights='ema' out"),
        ({"ema": STATE}, "raw", "holds averaged weights alone (ema): leave weights='raw' out"),
        (COUNTED, "raw", "holds averaged weights alone (AveragedModel)"),
        (
            {"student": STATE, "teacher": STATE},
            None,
            "holds tensors by name under student, teacher, and which are the network's is open: save those alone",
        ),
        (
            {**under("student."), **under("teacher.")},
            None,
            "holds a network under student. and another under teacher.: save one of them alone",
        ),
        (
            {"ema": {"shadow_params": [torch.ones(3)]}},
            None,
            "holds no tensors by name: save the network's state_dict",
        ),
    ],
)
def test_which_weights_are_meant_is_asked(
    tmp_path: Path, value: Any, choice: Choice | None, sentence: str
) -> None:
    path = written(tmp_path / "a.pth", pth(value))
    with pytest.raises(DepthwiseError) as raised:
        read_weights(path, choice, [LAYOUT])
    assert f"{path} {sentence}" in str(raised.value)


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
    safetensors.torch.save_file(STATE, tmp_path / "model-00001-of-00001.safetensors")
    assert same(read_weights(tmp_path / "model-00001-of-00001.safetensors"))


def divided(folder: Path, suffix: str, save: Callable[[Any, Path], Any], **changed: str) -> Path:
    """STATE over two files with their index, as the hub's tools write them."""
    folder.mkdir()
    names = {"model": ".safetensors", "pytorch_model": ".bin"}
    stem = next(stem for stem, end in names.items() if end == suffix)
    files = [f"{stem}-0000{number}-of-00002{suffix}" for number in (1, 2)]
    places = {name: files[name.startswith("bn")] for name in STATE}
    for file in files:
        save({name: STATE[name] for name in STATE if places[name] == file}, folder / file)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": {**places, **changed}}))
    return index


KINDS = {".safetensors": safetensors.torch.save_file, ".bin": torch.save}


@pytest.mark.parametrize("suffix", KINDS)
def test_weights_that_are_divided_over_files(tmp_path: Path, suffix: str) -> None:
    index = divided(tmp_path / "a", suffix, KINDS[suffix])
    (tmp_path / "a" / "config.json").write_text('{"architecture": "x"}')
    for path in (index, tmp_path / "a"):
        file = read_weights(path)
        assert same(file)
        assert file.config == {"architecture": "x"}
        assert len(file.files) == 3
    part = next((tmp_path / "a").glob(f"*-00002-of-00002{suffix}"))
    with pytest.raises(DepthwiseError, match=f"is part 2 of 2 of the weights: name {index}"):
        read_weights(part)
    part.unlink()
    with pytest.raises(DepthwiseError, match=f"names {part.name}, which is not beside it: get that file too"):
        read_weights(index)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"other": "model-00001-of-00002.safetensors"},
            "has no 'other', though model.safetensors.index.json says so",
        ),
        (
            {"other": "../secret.safetensors"},
            "names '../secret.safetensors', and the files of an index stand beside it",
        ),
        ({"other": "/etc/passwd"}, "the files of an index stand beside it"),
        ({"other": "config.json"}, "names config.json, which is not beside it"),
        ({"other": "copy.safetensors"}, "has 'bn.weight', as another file of model.safetensors.index.json"),
    ],
)
def test_an_index_that_is_wrong(tmp_path: Path, changed: dict[str, str], sentence: str) -> None:
    index = divided(tmp_path / "a", ".safetensors", safetensors.torch.save_file, **changed)
    safetensors.torch.save_file({**STATE, "other": torch.ones(1)}, tmp_path / "secret.safetensors")
    safetensors.torch.save_file(
        {"bn.weight": STATE["bn.weight"], "other": torch.ones(1)}, tmp_path / "a" / "copy.safetensors"
    )
    with pytest.raises(DepthwiseError) as raised:
        read_weights(index)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    "text", ["{}", "[1]", '{"weight_map": {"a": 1}}', '{"weight_map"', '{"weight_map": {}}']
)
def test_an_index_that_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(
        DepthwiseError, match=r"index.json (has no weight_map|is damaged).*: get the file again"
    ):
        read_weights(tmp_path)


def test_the_hubs_folder_of_either_format(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "x"}')
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    assert same(read_weights(tmp_path))
    assert read_weights(tmp_path).config == {"architecture": "x"}
    safetensors.torch.save_file(ZEROS, tmp_path / "model.safetensors")
    assert not read_weights(tmp_path).tensors["conv.weight"].any()


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
