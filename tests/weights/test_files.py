"""Every format is read as it was written; a hostile or damaged file is refused in a sentence, and nothing runs."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.weights.files import read_weights
from depthwise.weights.layout import Layout
from depthwise.weights.torchvision import IMAGENET

STATE = {"conv.weight": torch.randn(8, 3, 3, 3), "conv.bias": torch.randn(8)}


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], t) for name, t in expected.items()
    )


def refusal(path: Path) -> str:
    with pytest.raises(DepthwiseError) as raised:
        read_weights(path)
    sentence = str(raised.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


def save_h5(target: Any, arrays: dict[str, np.ndarray]) -> None:
    with h5py.File(target, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def keras_archive(path: Path, weights: bytes, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"config.json": b"{}", "model.weights.h5": weights, **entries}.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def h5_bytes() -> bytes:
    buffer = io.BytesIO()
    save_h5(buffer, {"layers/dense/vars/0": np.ones((4, 2), np.float32)})
    return buffer.getvalue()


def test_safetensors_and_both_kinds_of_pth(tmp_path: Path) -> None:
    # The name says nothing: the first bytes do.
    safetensors.torch.save_file(STATE, tmp_path / "a.pth")
    torch.save(STATE, tmp_path / "b.bin")
    torch.save(STATE, tmp_path / "c.safetensors", _use_new_zipfile_serialization=False)
    for path in sorted(tmp_path.iterdir()):
        file = read_weights(path)
        assert file.kind == "torch"
        assert equal(file.tensors, STATE)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": t for name, t in state.items()}},
        lambda state: {f"_orig_mod.{name}": t.double() for name, t in state.items()},
    ],
    ids=["state_dict", "data parallel", "compiled, float64"],
)
def test_what_training_scripts_wrap_around_weights_is_taken_off(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any]
) -> None:
    torch.save(wrap(STATE), tmp_path / "last.pth")
    layout = Layout("tiny", lambda: (("conv", "conv"),), IMAGENET)
    found = read_weights(tmp_path / "last.pth", layouts=[layout]).tensors
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert equal(found, STATE)


def test_the_hubs_folder_with_its_config(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "resnet50"}')
    assert read_weights(tmp_path).config == {"architecture": "resnet50"}


def test_bfloat16_and_numbered_layers_of_keras(tmp_path: Path) -> None:
    values = torch.randn(4, 3).bfloat16()
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        for name in ("layers/dense_10", "layers/dense", "layers/dense_2"):
            file[f"{name}/vars/0"] = np.ones(3, np.float32)
        raw = file.create_dataset("layers/dense_11/vars/0", data=values.view(torch.int16).numpy().view("V2"))
        raw.attrs["dtype"] = "bfloat16"
        file["layers/seed_generator/vars/0"] = np.array([1, 2], np.uint32)
        file["optimizer/vars/0"] = np.ones(9, np.float32)
    found = read_weights(tmp_path / "a.weights.h5").tensors
    assert [name.split("/")[2] for name in found] == ["dense", "dense_2", "dense_10", "dense_11"]
    assert torch.equal(found["/layers/dense_11/vars/0"], values.float())


class Payload:
    """What a pickle can do: run a command when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new", [True, False])
def test_a_pickles_payload_does_not_run(tmp_path: Path, new: bool) -> None:
    torch.save({"w": Payload(tmp_path / "ran")}, tmp_path / "evil.pth", _use_new_zipfile_serialization=new)
    sentence = refusal(tmp_path / "evil.pth")
    assert "is a pickle that wants to run code" in sentence
    assert "none was run" in sentence
    assert ".safetensors" in sentence
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=2))
    refusal(tmp_path / "evil.pkl")
    (tmp_path / "evil4.pkl").write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=4))
    assert "is a pickle of protocol 4, which can run code and is not opened" in refusal(
        tmp_path / "evil4.pkl"
    )
    assert not (tmp_path / "ran").exists()


def test_a_whole_network_is_a_pickle_too(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "network.pth")
    assert "torch.nn.modules.linear.Linear" in refusal(tmp_path / "network.pth")


def test_a_torchscript_program_is_not_run(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        archive.writestr("program/data.pkl", b"")
        archive.writestr("program/constants.pkl", b"")
    assert "is a TorchScript program and is not run" in refusal(tmp_path / "program.pt")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    for name in ("model.weights.h5", "archive/data.pkl"):
        path = tmp_path / name.replace("/", "-")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.json", "{}")
            archive.writestr(name, bytes(50_000_000))
        assert "would unpack from" in refusal(path)


def test_a_compressed_pth_is_not_unpacked(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as archive,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    assert "is compressed, which torch.save never does" in refusal(tmp_path / "b.pth")


def test_an_archive_with_an_entry_twice_is_refused(tmp_path: Path, h5_bytes: bytes) -> None:
    path = keras_archive(tmp_path / "a.keras", h5_bytes)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", b'{"other": 1}')
    assert "holds config.json twice" in refusal(path)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.jpg", b"\xff\xd8\xff")
    assert "is an archive without config.json" in refusal(tmp_path / "photos.zip")


def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path) -> None:
    def write(name: str, shape: list[int], end: int) -> Path:
        header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        (tmp_path / name).write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
        return tmp_path / name

    for path in (write("larger", [10**9], 16), write("beyond", [8], 32), write("negative", [4], -1)):
        assert "is damaged or cut off" in refusal(path)
    (tmp_path / "header").write_bytes(struct.pack("<Q", 2**62) + b"{}" + bytes(16))
    assert "is damaged or cut off" in refusal(tmp_path / "header")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_a_tensor_that_claims_more_than_the_file_has_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "view.pth")
    assert "claims the shape [1000000, 1000000]" in refusal(tmp_path / "view.pth")
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "sparse.pth")
    assert "no dense tensor" in refusal(tmp_path / "sparse.pth")


def test_an_h5_that_claims_more_than_it_has_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "hollow.h5", "w") as file:
        file.create_dataset("layers/dense/vars/0", (10**6, 10**6), np.float32)  # no value is ever written
    assert "claims the shape [1000000, 1000000]" in refusal(tmp_path / "hollow.h5")
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        file.create_dataset(
            "layers/dense/vars/0", data=np.zeros((4000, 4000), np.float32), compression="gzip"
        )
    assert "is stored in pieces or compressed" in refusal(tmp_path / "bomb.h5")


def test_an_h5_that_points_elsewhere_is_not_followed(tmp_path: Path) -> None:
    save_h5(tmp_path / "secret.h5", {"w": np.ones(3, np.float32)})
    (tmp_path / "secret.bin").write_bytes(np.ones(3, np.float32).tobytes())
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["layers/dense/vars/0"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "w")
    assert "points out of the file and is not followed" in refusal(tmp_path / "link.h5")
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("w", (3,), np.float32, external=str(tmp_path / "secret.bin"))
    assert "has its values in another file" in refusal(tmp_path / "external.h5")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((3,), np.float32)
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "w", (3,))
        file.create_virtual_dataset("w", layout)
    assert "has its values in another file" in refusal(tmp_path / "virtual.h5")
    with h5py.File(tmp_path / "circle.h5", "w") as file:
        file["layers/dense"] = file["/"]
    assert "leads in a circle" in refusal(tmp_path / "circle.h5")


def test_an_h5_that_is_nested_is_no_circle(tmp_path: Path) -> None:
    save_h5(tmp_path / "deep.h5", {f"{'layers/' * 30}dense/vars/0": np.ones((4, 2), np.float32)})
    assert len(read_weights(tmp_path / "deep.h5").tensors) == 1
    save_h5(tmp_path / "deeper.h5", {f"{'layers/' * 90}dense/vars/0": np.ones((4, 2), np.float32)})
    assert "holds groups over 64 deep" in refusal(tmp_path / "deeper.h5")


def test_an_h5_of_something_else_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file["layers/dense/vars/0"] = "import os"
    assert "weights are floating point" in refusal(tmp_path / "text.h5")
    with h5py.File(tmp_path / "names.h5", "w") as file:
        file.attrs["layer_names"] = ["dense"]
    assert "is damaged or cut off" in refusal(tmp_path / "names.h5")
    with h5py.File(tmp_path / "config.h5", "w") as file:
        file.attrs["model_config"] = "{" * 9
    assert "is not JSON" in refusal(tmp_path / "config.h5")


def test_wrong_endianness_is_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 0.1, (64, 64)).astype(np.float32)
    save_h5(tmp_path / "declared.h5", {"layers/dense/vars/0": values.astype(">f4")})
    assert "is big-endian (>f4)" in refusal(tmp_path / "declared.h5")
    save_h5(tmp_path / "swapped.h5", {"layers/dense/vars/0": values.byteswap()})
    assert "the bytes are in the wrong order" in refusal(tmp_path / "swapped.h5")
    swapped = {"w": torch.from_numpy(values.byteswap())}
    safetensors.torch.save_file(swapped, tmp_path / "swapped.safetensors")
    assert "the bytes are in the wrong order" in refusal(tmp_path / "swapped.safetensors")
    torch.save(swapped, tmp_path / "swapped.pth")
    assert "the bytes are in the wrong order" in refusal(tmp_path / "swapped.pth")


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.tensor([1.0, float("nan")])}, tmp_path / "nan.safetensors")
    assert "w holds nan" in refusal(tmp_path / "nan.safetensors")


@pytest.mark.parametrize("fraction", [0.999, 0.5, 0.1])
def test_truncated_files_are_refused(tmp_path: Path, fraction: float) -> None:
    tensors = {"w": torch.randn(100, 100)}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "a.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_h5(tmp_path / "a.h5", {"layers/dense/vars/0": tensors["w"].numpy()})
    keras_archive(tmp_path / "a.keras", (tmp_path / "a.h5").read_bytes())
    for path in sorted(tmp_path.iterdir()):
        os.truncate(path, int(path.stat().st_size * fraction))
        assert "is damaged or cut off" in refusal(path)


def test_what_is_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.h5").write_text("<!DOCTYPE html>")
    assert "is a web page: the download went wrong" in refusal(tmp_path / "page.h5")
    (tmp_path / "noise.pth").write_bytes(b"\x7fELF" + bytes(20))
    assert "holds no weights that can be read, it begins with b'\\x7fELF" in refusal(tmp_path / "noise.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    assert "holds no tensors by name" in refusal(tmp_path / "list.pth")
    assert "cannot be read: No such file" in refusal(tmp_path / "absent.pth")
    assert "is a folder without model.safetensors" in refusal(tmp_path)


def test_without_h5py_keras_files_name_the_extra(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros(3, np.float32)
    program = "import sys; sys.modules['h5py'] = None\nfrom depthwise.cli.app import run\nsys.exit(run(sys.argv[1:]))"
    command = ["import", "a.h5", "--model", "xception", "--out", "b"]
    done = subprocess.run(
        [sys.executable, "-c", program, *command], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: a.h5 is of Keras, whose files are read by an optional package: pip install 'depthwise[keras]'\n"
    )
