"""From a file of weights, whatever its format, to named tensors; nothing in the file can run code or fill the memory.

The format is told by the first bytes, never by the name. What a file declares is checked against its size before
it is believed; what it holds is checked for plausibility, which is where bytes in the wrong order show.
"""

import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.reading import open_regular, parse_json, read_regular
from depthwise.weights import formats, hdf5

# Trained weights and statistics stay many orders of magnitude below; a float32 read backwards is above it every
# other time.
LARGEST = 1e20
MOST_WRAPPERS = 5

_ZIP, _HDF5, _PICKLE = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x80\x02"
# What training scripts call the weights among the rest of a checkpoint, and their average if they keep one.
_STATE_DICTS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
)
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_AVERAGED = "n_averaged"  # torch.optim.swa_utils' counter beside the averaged weights
_LEAVES = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """A file's tensors by name, in float32 and in the file's order, and what it says about the network.

    kind: "torch" (PyTorch's layout of tensors) or "keras". config: Keras' model configuration, or the hub's
    config.json beside a timm file; empty if there is none. notes: what a person should know of the choice made in it.
    """

    path: Path
    kind: str
    tensors: dict[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_weights(path: Path) -> WeightsFile:
    """Read a .safetensors, .pth, .keras or .h5 file, or a folder with the hub's model.safetensors and config.json.

    Raises DepthwiseError, naming the file, for what is missing, damaged, hostile or of another format.
    """
    config: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()
    if path.is_dir():
        if not (path / "model.safetensors").is_file():
            raise formats.refuse_folder(path)
        path = path / "model.safetensors"
    formats.refuse_piece(path)
    head = _head(path)
    kind = "torch"
    if head.startswith(_HDF5):
        kind = "keras"
        tensors, config = hdf5.read_h5(path, str(path))
    elif head.startswith(_ZIP):
        names = _zip_names(path)
        formats.refuse_archive(path, names)
        if any(name.endswith("/data.pkl") for name in names):
            tensors, notes = _read_torch(path)
        else:
            kind = "keras"
            tensors, config = hdf5.read_keras(path)
    elif head.startswith(_PICKLE):
        tensors, notes = _read_torch(path)
    elif head[8:9] == b"{":
        tensors = _read_safetensors(path)
        config = _hub_config(path.with_name("config.json"))
    else:
        raise formats.refuse_file(path, head)
    return WeightsFile(path, kind, _plausible(path, tensors), config, notes)


def _head(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(formats.HEAD)
    except OSError as error:
        raise DepthwiseError(f"{path} cannot be read: {error.strerror}") from None


def _zip_names(path: Path) -> list[str]:
    """The archive's entries, once what they declare is believable."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise formats.damaged(path, error) from None
    hdf5.check_archive(path, entries)
    return [entry.filename for entry in entries]


def _read_torch(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a file of torch.save, and remarks on which of several were taken."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise DepthwiseError(
                    f"{path} is compressed, which torch.save never does, and is not unpacked: save it again"
                )
    try:
        # Of a name, torch.load believes the suffix.
        # The arguments that torchvision's and timm's scripts save with the weights are names with values, no more.
        with (
            path.open("rb") as file,
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals([Namespace]),
        ):
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle makes torch raise nearly anything
        raise _refused_pickle(path, error) from None
    state, notes = _state_dict(loaded)
    if not state:
        raise DepthwiseError(f"{path} holds no tensors by name: save the network's state_dict")
    size = path.stat().st_size
    for name, tensor in state.items():
        # A view can claim any shape over one number.
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise DepthwiseError(
                f"{path}: {name} is no dense tensor: save the network's state_dict in float32"
            )
        if tensor.numel() * tensor.element_size() > size:
            raise DepthwiseError(
                f"{path}: {name} claims the shape {list(tensor.shape)}, more than the file's {size} bytes: "
                f"get the file again"
            )
    return state, notes


def _refused_pickle(path: Path, error: Exception) -> DepthwiseError:
    """Why torch.load, which runs nothing, did not read the file."""
    text = str(error)
    protocol = re.search(r"pickle protocol (\d)|Unsupported operand 149", text)
    if protocol:
        return DepthwiseError(
            f"{path} is pickled by another protocol than PyTorch's 2, and others can run code: save the state_dict "
            f"with torch.save and its own protocol, or as .safetensors"
        )
    asked = re.search(r"GLOBAL (\S+)|builtin (?:\S+ )?function (\S+)", text)
    if asked or "weights_only" in text:
        what = f" ({asked.group(1) or asked.group(2)})" if asked else ""
        return DepthwiseError(
            f"{path} is a pickle that wants to run code{what}, and none was run: "
            f"ask for the weights as .safetensors, or save the state_dict alone"
        )
    return formats.damaged(path, error)


def _state_dict(loaded: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The named tensors in what torch.load gave: itself, or what a training script wrapped around them."""
    notes: list[str] = []
    for _ in range(MOST_WRAPPERS):
        inner = [
            key
            for key in _STATE_DICTS + _AVERAGES
            if isinstance(loaded, dict) and isinstance(loaded.get(key), dict)
        ]
        if not inner:
            break
        unused = [key for key in inner[1:] if key in _AVERAGES]
        if unused:
            notes.append(
                f"the file holds averaged weights too ({unused[0]}): taken are those of {inner[0]}, save the others "
                f"alone to take them"
            )
        loaded = loaded[inner[0]]
    if not isinstance(loaded, dict):
        return {}, ()
    tensors = {
        name: t.detach() for name, t in loaded.items() if isinstance(name, str) and isinstance(t, Tensor)
    }
    return tensors, tuple(notes)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise formats.damaged(path, error) from None


def _hub_config(path: Path) -> dict[str, Any]:
    """The config.json that the hub keeps beside the weights; empty if there is none to be read."""
    try:
        config = parse_json(read_regular(path))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _plausible(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in float32 (counters as they are) under the network's own names."""
    result = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensor = _float32(path, name, tensor)
            largest = tensor.abs().max().item() if tensor.numel() else 0.0
            if not largest < LARGEST:
                raise DepthwiseError(
                    f"{path}: {name} holds {largest:g}, which no trained network has: the bytes are in the wrong "
                    f"order, or the training diverged; get the file again or save it anew"
                )
        elif name.rpartition(".")[2] in _LEAVES:
            raise _no_float(path, name, tensor)
        result[name] = tensor
    return _unwrapped(result)


def _float32(path: Path, name: str, tensor: Tensor) -> Tensor:
    try:
        return tensor.float()
    except NotImplementedError:  # types of less than a byte, several numbers in one
        raise _no_float(path, name, tensor) from None


def _no_float(path: Path, name: str, tensor: Tensor) -> DepthwiseError:
    return DepthwiseError(
        f"{path}: {name} holds {str(tensor.dtype).removeprefix('torch.')}, weights are floating point of 8 bits at "
        f"least: save the network's state_dict in float32"
    )


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that the network gives them, without what wrappers put before every one."""
    if any(name.startswith("module.") for name in tensors):
        tensors.pop(_AVERAGED, None)
    for _ in range(MOST_WRAPPERS):
        for prefix in _PREFIXES:
            if tensors and all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
