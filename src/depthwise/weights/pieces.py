"""Weights as the hub keeps them: a folder with one file or several, and an index that says which tensor is where."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from depthwise.errors import DepthwiseError, shown
from depthwise.reading import parse_json, read_regular
from depthwise.weights import formats

INDEX = ".index.json"
MOST_PIECES = 1000
NAMES = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")


def file_in(folder: Path) -> Path:
    """The file of weights, or the index of several, in the folder. Raises DepthwiseError if there is none."""
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(folder.glob(f"*{INDEX}"))
    if len(others) == 1:
        return others[0]
    raise formats.refuse_folder(folder)


def is_index(path: Path) -> bool:
    return path.name.endswith(INDEX)


def pieces_of(index: Path) -> dict[Path, list[str]]:
    """The files that an index names, all of its folder, and which tensors it says are in each.

    Raises DepthwiseError for an index that cannot be read, and for a file that is missing or stands elsewhere.
    """
    try:
        values = parse_json(read_regular(index))
    except OSError as error:
        raise DepthwiseError(f"{index} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise formats.damaged(index, error) from None
    places = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(of, str) for of in places.values()):
        raise DepthwiseError(f"{index} has no weight_map from tensors to files: get the file again")
    found: dict[Path, list[str]] = {}
    for name, file in places.items():
        if file in ("", ".", "..") or "/" in file or "\\" in file or "\0" in file:
            raise DepthwiseError(
                f"{index} names {shown(file)}, and the files of an index stand beside it: get the file again"
            )
        found.setdefault(index.with_name(file), []).append(name)
    if len(found) > MOST_PIECES:
        raise DepthwiseError(f"{index} names {len(found)} files, over {MOST_PIECES}: get the file again")
    for piece in found:
        if not piece.is_file():
            raise DepthwiseError(f"{index} names {piece.name}, which is not beside it: get that file too")
    return found


def joined(index: Path, load: Callable[[Path], Any]) -> tuple[dict[str, Tensor], tuple[Path, ...]]:
    """The tensors of all files that the index names, each loaded by `load`; and the files.

    Raises DepthwiseError for a tensor that is in two of them, or not where the index says it is.
    """
    tensors: dict[str, Tensor] = {}
    pieces = pieces_of(index)
    for piece, names in pieces.items():
        loaded = load(piece)
        own = (
            {name: t for name, t in loaded.items() if isinstance(t, Tensor)}
            if isinstance(loaded, dict)
            else {}
        )
        absent = next((name for name in names if name not in own), None)
        if absent is not None:
            raise DepthwiseError(
                f"{piece} has no {shown(absent)}, though {index.name} says so: get both files again"
            )
        twice = next((name for name in own if name in tensors), None)
        if twice is not None:
            raise DepthwiseError(
                f"{piece} has {shown(twice)}, as another file of {index.name}: get the files again"
            )
        tensors |= own
    return tensors, tuple(pieces)
