"""From a file of weights, whatever its format, to named tensors; nothing in the file can run code or fill the memory.

The format is told by the first bytes, never by the name. What a file declares is checked against its size before
it is believed; what it holds is checked for plausibility, which is where bytes in the wrong order show.
"""

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.reading import open_regular, read_regular
from depthwise.weights import hdf5

# Trained weights and statistics stay many orders of magnitude below; a float32 read backwards is above it every
# other time.
LARGEST = 1e20

_ZIP, _HDF5, _PICKLE = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x80\x02"
_STATE_DICTS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """A file's tensors by name, in float32 and in the file's order, and what it says about the network.

    kind: "torch" (PyTorch's layout of tensors) or "keras". config: Keras' model configuration, or the hub's
    config.json beside a timm file; empty if there is none.
    """

    path: Path
    kind: str
    tensors: dict[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)


def read_weights(path: Path) -> WeightsFile:
    """Read a .safetensors, .pth, .keras or .h5 file, or a folder with the hub's model.safetensors and config.json.

    Raises DepthwiseError, naming the file, for what is missing, damaged, hostile or of another format.
    """
    config: Mapping[str, Any] = {}
    if path.is_dir():
        if not (path / "model.safetensors").is_file():
            raise DepthwiseError(
                f"{path} is a folder without model.safetensors: name the file that has the weights"
            )
        path = path / "model.safetensors"
    try:
        with open_regular(path) as file:
            head = file.read(9)
    except OSError as error:
        raise DepthwiseError(f"{path} cannot be read: {error.strerror}") from None
    kind = "torch"
    if head.startswith(_HDF5):
        kind = "keras"
        tensors, config = hdf5.read_h5(path, str(path))
    elif head.startswith(_ZIP):
        names = _zip_names(path)
        if any(name.endswith("/data.pkl") for name in names):
            tensors = _read_torch(path)
        else:
            kind = "keras"
            tensors, config = hdf5.read_keras(path)
    elif head.startswith(_PICKLE):
        tensors = _read_torch(path)
    elif head[8:] == b"{":
        tensors = _read_safetensors(path)
        config = _hub_config(path.with_name("config.json"))
    else:
        raise DepthwiseError(
            f"{path} holds no weights that can be read, it begins with {head!r}: "
            f"give a .safetensors, .pth, .keras or .h5 file"
        )
    return WeightsFile(path, kind, _plausible(path, tensors), config)


def _zip_names(path: Path) -> list[str]:
    """The archive's entries, once what they declare is believable."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(path, error) from None
    hdf5.check_archive(path, entries)
    return [entry.filename for entry in entries]


def _read_torch(path: Path) -> dict[str, Tensor]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise DepthwiseError(
                    f"{path} is compressed, which torch.save never does, and is not unpacked: save it again"
                )
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise DepthwiseError(
                    f"{path} is a TorchScript program and is not run: save its state_dict as .safetensors"
                )
    try:
        with path.open("rb") as file:  # of a name, torch.load believes the suffix
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle makes torch raise nearly anything
        asked = re.search(r"GLOBAL (\S+)|builtin (?:\S+ )?function (\S+)", str(error))
        if asked or "weights_only" in str(error):
            what = f" ({asked.group(1)})" if asked and asked.group(1) else ""
            raise DepthwiseError(
                f"{path} is a pickle that wants to run code{what}, and none was run: "
                f"ask for the weights as .safetensors, or save the state_dict alone"
            ) from None
        raise _damaged(path, error) from None
    state = _state_dict(loaded)
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
    return state


def _state_dict(loaded: Any) -> dict[str, Tensor]:
    """The named tensors in what torch.load gave: itself, or what a training script wrapped around them."""
    for key in _STATE_DICTS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        return {}
    return {name: t for name, t in loaded.items() if isinstance(name, str) and isinstance(t, Tensor)}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise _damaged(path, error) from None


def _hub_config(path: Path) -> dict[str, Any]:
    """The config.json that the hub keeps beside the weights; empty if there is none to be read."""
    try:
        config = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _plausible(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in float32 (counters as they are) without what wrappers put before every name."""
    result = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensor = tensor.float()
            largest = tensor.abs().max().item() if tensor.numel() else 0.0
            if not largest < LARGEST:
                raise DepthwiseError(
                    f"{path}: {name} holds {largest:g}, which no trained network has: the bytes are in the wrong "
                    f"order, or the training diverged; get the file again or save it anew"
                )
        result[name] = tensor
    for prefix in _PREFIXES:
        if result and all(name.startswith(prefix) for name in result):
            result = {name.removeprefix(prefix): tensor for name, tensor in result.items()}
    return result


def _damaged(path: Path, error: Exception) -> DepthwiseError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return DepthwiseError(f"{path} is damaged or cut off ({reason}): get the file again")
