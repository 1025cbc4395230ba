"""From a file of weights, whatever its format, to named tensors; nothing in the file can run code or fill the memory.

The format is told by the first bytes, never by the name. What a file declares is checked against its size before
it is believed; what it holds is checked for plausibility, which is where bytes in the wrong order show.
"""

import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.reading import open_regular, parse_json, read_regular
from depthwise.weights import formats, pieces
from depthwise.weights.layout import Layout
from depthwise.weights.wrapping import LEAVES, Choice, unwrap

# Trained weights and statistics stay many orders of magnitude below; a float32 read backwards is above it every
# other time.
LARGEST = 1e20

_ZIP, _HDF5, _PICKLE = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x80\x02"


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """A file's tensors by name, in float32 and in the file's order, and what it says about the network.

    kind: "torch" (PyTorch's layout of tensors) or "keras". config: Keras' model configuration, or the hub's
    config.json beside a timm file; empty if there is none. notes: what a person should know of the choice made in it.
    beside: names of what stood beside the network and was left out. files: all that were read.
    """

    path: Path
    kind: str
    tensors: dict[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def read_weights(path: Path, choice: Choice | None = None, layouts: Sequence[Layout] = ()) -> WeightsFile:
    """Read a .safetensors, .pth, .keras or .h5 file, the index of several, or a folder of the hub's with one of them.

    choice: of raw and averaged weights, see `wrapping.unwrap`. layouts: the networks whose names a prefix is told by.
    Raises DepthwiseError, naming the file, for what is missing, damaged, hostile or of another format.
    """
    if path.is_dir():
        path = pieces.file_in(path)
    files: tuple[Path, ...] = (path,)
    kind, config = "torch", dict[str, Any]()
    if pieces.is_index(path):
        loaded, parts = pieces.joined(path, lambda piece: _load(piece)[1])
        files = (path, *parts)
    else:
        formats.refuse_piece(path)
        kind, loaded, config = _load(path)
    if kind == "keras":
        if choice == "ema":
            raise DepthwiseError(f"{path} holds no averaged weights apart: leave --weights=ema out")
        return WeightsFile(path, kind, _plausible(path, loaded), config, files=files)
    if path.name in pieces.NAMES or pieces.is_index(path):
        config = _hub_config(path.with_name("config.json"))
    found = unwrap(path, loaded, choice, layouts)
    _check_dense(path, found.tensors, sum(file.stat().st_size for file in files))
    return WeightsFile(path, kind, _plausible(path, found.tensors), config, found.notes, found.beside, files)


def _load(path: Path) -> tuple[str, Any, dict[str, Any]]:
    """What kind of file it is, what it holds, and the configuration that is in it or beside it."""
    head = _head(path)
    if head.startswith(_HDF5):
        return "keras", *_hdf5(path).read_h5(path, str(path))
    if head.startswith(_ZIP):
        names = _zip_names(path)
        formats.refuse_archive(path, names)
        if not any(name.endswith("/data.pkl") for name in names):
            return "keras", *_hdf5(path).read_keras(path)
        return "torch", _read_torch(path), {}
    if head.startswith(_PICKLE):
        return "torch", _read_torch(path), {}
    if head[8:9] == b"{":
        return "torch", _read_safetensors(path), _hub_config(path.with_name("config.json"))
    raise formats.refuse_file(path, head)


def _hdf5(path: Path) -> ModuleType:
    """What reads Keras' files. Raises DepthwiseError where the library that it stands on is not installed."""
    try:
        from depthwise.weights import hdf5
    except ImportError:
        raise DepthwiseError(
            f"{path} is of Keras, whose files are read by an optional package: pip install 'depthwise[keras]'"
        ) from None
    return hdf5


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
    formats.check_archive(path, entries)
    return [entry.filename for entry in entries]


def _read_torch(path: Path) -> Any:
    """What a file of torch.save holds."""
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
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle makes torch raise nearly anything
        raise _refused_pickle(path, error) from None


def _check_dense(path: Path, tensors: dict[str, Tensor], size: int) -> None:
    """Raise DepthwiseError for a tensor that is none of plain numbers, or of more than the file's `size` in bytes."""
    for name, tensor in tensors.items():
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
    """The tensors in float32 (counters as they are)."""
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
        elif name.rpartition(".")[2] in LEAVES:
            raise _no_float(path, name, tensor)
        result[name] = tensor
    return result


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
