"""Keras' files: HDF5 in the legacy layout (.h5) and in Keras 3's (.weights.h5), and the archive around it (.keras)."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from depthwise.errors import DepthwiseError, shown
from depthwise.reading import parse_json
from depthwise.weights.formats import MOST_OBJECTS, damaged

CONFIG, WEIGHTS = "config.json", "model.weights.h5"

# Keras stores its archives uncompressed and trained weights hardly shrink; a bomb grows a thousandfold.
MOST_CONFIG = 64 << 20
MOST_DEPTH = 64

Tensors = dict[str, Tensor]


def read_keras(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and the model configuration of a .keras archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in (CONFIG, WEIGHTS):
                if name not in names:
                    raise DepthwiseError(
                        f"{path} is an archive without {name}: give a .keras file saved by model.save, or the "
                        f"weights that save_weights wrote"
                    )
            if archive.getinfo(CONFIG).file_size > MOST_CONFIG:
                raise DepthwiseError(f"{path}: {CONFIG} is over {MOST_CONFIG:,} bytes: get the file again")
            config, weights = archive.read(CONFIG), archive.read(WEIGHTS)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        raise damaged(path, error) from None
    tensors, _ = read_h5(io.BytesIO(weights), f"{path}: {WEIGHTS}")
    return tensors, parse_config(config, f"{path}: {CONFIG}")


def parse_config(text: str | bytes, name: str) -> dict[str, Any]:
    """Keras' configuration as plain values: nothing of it is built or run."""
    try:
        config = parse_json(text)
    except ValueError as error:
        raise DepthwiseError(f"{name} is not JSON ({error}): get the file again") from None
    if not isinstance(config, dict):
        raise DepthwiseError(f"{name} is no JSON object: get the file again")
    return config


def read_h5(file: Path | io.BytesIO, name: str) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of an HDF5 file of Keras, in the order of its layers, and its configuration if it has one.

    A tensor is named by its path in the file, which ends in layer/variable. `name` is what an error calls the file.
    """
    size = file.getbuffer().nbytes if isinstance(file, io.BytesIO) else file.stat().st_size
    try:
        with h5py.File(file, "r") as root:
            config = root.attrs.get("model_config")
            parsed = parse_config(config, f"{name}: model_config") if config is not None else {}
            _check_links(root, name)
            group = root.get("model_weights", root)
            legacy = _names(group, "layer_names")
            datasets = _legacy(group, legacy) if legacy else _numbered(group)
            tensors = {}
            for dataset in datasets:
                tensor = _read(dataset, name, size)
                if tensor is not None:
                    tensors[dataset.name] = tensor
            return tensors, parsed
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise damaged(name, error) from None


def _check_links(root: h5py.Group, name: str) -> None:
    """Raise DepthwiseError for links out of the file or in a circle, before any is followed."""
    seen: set[int] = set()
    waiting = [(root, 0)]
    while waiting:
        group, depth = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            raise DepthwiseError(
                f"{name}: {shown(group.name)} leads in a circle, Keras writes no such file: get it again"
            )
        if depth > MOST_DEPTH or len(seen) > MOST_OBJECTS:
            raise DepthwiseError(
                f"{name} holds groups over {MOST_DEPTH} deep or over {MOST_OBJECTS:,} of them, more than networks "
                f"have: get the file again"
            )
        seen.add(address)
        for key in group:
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise DepthwiseError(
                    f"{name}: {group.name}/{key} points out of the file and is not followed: get the file again"
                )
            if group.get(key, getclass=True) is h5py.Group:
                waiting.append((group[key], depth + 1))


def _legacy(group: h5py.Group, layers: list[str]) -> Iterator[h5py.Dataset]:
    """As the attributes list them: they, not the groups, are in the network's order."""
    for layer in layers:
        for weight in _names(group[layer], "weight_names"):
            yield group[layer][weight]


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names among the attributes, which Keras cuts into pieces (name0, name1, ...) when it is long."""
    pieces = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(pieces)}" in group.attrs:
        pieces.append(f"{attribute}{len(pieces)}")
    values = [value for piece in pieces for value in group.attrs[piece]]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _numbered(group: h5py.Group) -> Iterator[h5py.Dataset]:
    """Keras 3 numbers the layers of a class in the network's order: conv2d, conv2d_1, ..., conv2d_10."""
    for key in sorted(group, key=_natural):
        if key in ("optimizer", "optimizer_weights"):
            continue
        child = group[key]
        if isinstance(child, h5py.Group):
            yield from _numbered(child)
        elif isinstance(child, h5py.Dataset):
            yield child


def _natural(key: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.*?)_?(\d+)", key)
    return (match.group(1), int(match.group(2))) if match else (key, -1)


def _read(dataset: h5py.Dataset, name: str, file_size: int) -> Tensor | None:
    """The dataset's values, or None for those of a random number generator or a counter."""
    what = f"{name}: {dataset.name}"
    if not isinstance(dataset, h5py.Dataset):
        raise DepthwiseError(f"{what} is no array, Keras writes no such file: get it again")
    if dataset.dtype.kind in "iub":
        return None
    bfloat16 = dataset.dtype.kind == "V" and dataset.dtype.itemsize == 2
    if dataset.dtype.kind != "f" and not bfloat16:
        raise DepthwiseError(f"{what} holds {dataset.dtype}, weights are floating point: get the file again")
    if dataset.dtype.byteorder == ">":
        raise DepthwiseError(
            f"{what} is big-endian ({dataset.dtype.str}), which Keras writes on no machine of today: save the weights "
            f"again with Keras"
        )
    if dataset.external or dataset.is_virtual:
        raise DepthwiseError(
            f"{what} has its values in another file, which is not opened: get the file again"
        )
    if dataset.chunks is not None:
        raise DepthwiseError(
            f"{what} is stored in pieces or compressed, which Keras never does, and is not unpacked: save the weights "
            f"again with Keras"
        )
    declared = dataset.size * dataset.dtype.itemsize
    if declared > min(file_size, max(dataset.id.get_storage_size(), 0)):
        raise DepthwiseError(
            f"{what} claims the shape {list(dataset.shape)}, {declared:,} bytes, more than there are in the file: "
            f"get the file again"
        )
    values = np.asarray(dataset[()])
    if bfloat16:
        return (
            torch.from_numpy(np.atleast_1d(values).view(np.int16)).view(torch.bfloat16).reshape(values.shape)
        )
    return torch.from_numpy(np.ascontiguousarray(values)).reshape(values.shape)
