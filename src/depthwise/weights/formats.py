"""What a file or folder is that holds no weights which can be read, and where its weights are to be had."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from depthwise.errors import DepthwiseError

HEAD = 300
"""So many of a file's first bytes are looked at."""

MOST_EXPANSION = 20
MOST_OBJECTS = 100_000

_SAVE_AGAIN = "save the weights from the framework that made it as .safetensors, .pth, .keras or .h5"
_ORIGIN = "give the weights that it was made from, as .safetensors, .pth, .keras or .h5"
_UNPACK = "unpack it and name the file of weights inside"

# Where the bytes stand, what they are, what has them, what to do.
_BYTES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"GGUF", "a GGUF file (llama.cpp)", _ORIGIN),
    (0, b"ggjt", "a GGML file (llama.cpp)", _ORIGIN),
    (0, b"lmgg", "a GGML file (llama.cpp)", _ORIGIN),
    (0, b"\x93NUMPY", "a NumPy array (.npy)", _SAVE_AGAIN),
    (4, b"TFL3", "a TensorFlow Lite model", _ORIGIN),
    (4, b"ET1", "an ExecuTorch program", _ORIGIN),
    (0, b"ftrt", "a TensorRT engine", _ORIGIN),
    (0, b"ptrt", "a TensorRT engine", _ORIGIN),
    (0, b"\x12\x01\0\0\0\0\0\0", "a file of MXNet's parameters", _SAVE_AGAIN),
    (0, b"MATLAB 5.0", "a MATLAB file", _SAVE_AGAIN),
    (
        0,
        b"version https://git-lfs",
        "a pointer of Git LFS, not the file itself",
        "fetch it with git lfs pull",
    ),
    (0, b"\x1f\x8b", "compressed (gzip)", _UNPACK),
    (0, b"\xfd7zXZ", "compressed (xz)", _UNPACK),
    (0, b"BZh", "compressed (bzip2)", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed (Zstandard)", _UNPACK),
    (0, b"7z\xbc\xaf", "an archive (7z)", _UNPACK),
    (0, b"Rar!", "an archive (RAR)", _UNPACK),
    (257, b"ustar", "an archive (tar)", _UNPACK),
)

# Formats without a mark of their own, by what their files are called.
_SUFFIXES: dict[str, tuple[str, str]] = {
    ".onnx": ("an ONNX model", _ORIGIN),
    ".pb": ("a graph of TensorFlow", _SAVE_AGAIN),
    ".mlmodel": ("a Core ML model", _ORIGIN),
    ".caffemodel": ("a file of Caffe's parameters", _SAVE_AGAIN),
    ".engine": ("a TensorRT engine", _ORIGIN),
    ".msgpack": ("a file of Flax's parameters (msgpack)", _SAVE_AGAIN),
    ".index": ("an index of TensorFlow's checkpoint", _SAVE_AGAIN),
}

# A file or folder (a pattern) that only such a folder has.
_FOLDERS: tuple[tuple[str, str, str], ...] = (
    ("bundle/config.json", "the directory of a training run, with a bundle already", "use it as it is"),
    ("saved_model.pb", "a SavedModel of TensorFlow", "load it there and save the Keras model as .keras"),
    (
        "*.distcp",
        "a distributed checkpoint of PyTorch",
        "turn it into one file with torch.distributed.checkpoint.format_utils.dcp_to_torch_save",
    ),
    ("*.index", "a checkpoint of TensorFlow", _SAVE_AGAIN),
    ("*.ocdbt", "a checkpoint of Orbax (JAX)", _SAVE_AGAIN),
    ("_METADATA", "a checkpoint of Orbax (JAX)", _SAVE_AGAIN),
)

# An entry that only such an archive has, and how its state_dict is had in Python.
_PROGRAMS: tuple[tuple[str, str, str], ...] = (
    (r"(^|/)(constants|bytecode)\.pkl$", "a TorchScript program", "torch.jit.load({}).state_dict()"),
    (
        r"(^|/)(models/[^/]+\.json|serialized_exported_program\.json)$",
        "a program of torch.export",
        "torch.export.load({}).state_dict",
    ),
    (
        r"/\.data/(extern_modules|python_version)$",
        "an archive of torch.package",
        "torch.package.PackageImporter({}).load_pickle(PACKAGE, NAME).state_dict()",
    ),
)

_WEIGHTS = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".keras", ".onnx", ".pb")


def damaged(name: object, error: Exception) -> DepthwiseError:
    """The error for a file of a known format that its reader stumbled over."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    reason = re.sub(r"(?i)\bunexpected (EOF|end of file)", "it ends early", reason)
    return DepthwiseError(f"{name} is damaged or cut off ({reason}): get the file again")


def refuse_folder(path: Path) -> DepthwiseError:
    """The error for a folder without model.safetensors, which says what the folder is."""
    for pattern, what, remedy in _FOLDERS:
        if any(path.glob(pattern)):
            return DepthwiseError(f"{path} is {what}: {remedy}")
    return DepthwiseError(f"{path} is a folder without model.safetensors: name the file that has the weights")


def refuse_piece(path: Path) -> None:
    """Raise DepthwiseError if the name says that the file holds one of several parts of the weights."""
    found = re.search(r"-(\d{5})-of-(\d{5})\.", path.name)
    if found and int(found[2]) > 1:
        for index in sorted(path.parent.glob("*.index.json")):
            raise DepthwiseError(
                f"{path} is part {int(found[1])} of {int(found[2])} of the weights: name {index}"
            )
        raise DepthwiseError(
            f"{path} is part {int(found[1])} of {int(found[2])} of the weights: join the tensors of all parts into "
            f"one .safetensors file"
        )


def refuse_file(path: Path, head: bytes) -> DepthwiseError:
    """The error for a file that begins with `head`, as no file of weights does."""
    what, remedy = _described(path, head)
    return DepthwiseError(f"{path} is {what}: {remedy}" if what else _unknown(path, head))


def _described(path: Path, head: bytes) -> tuple[str, str]:
    if not head:
        return "empty", "get the file again"
    for place, mark, what, remedy in _BYTES:
        if head[place:].startswith(mark):
            return what, remedy
    if re.match(rb"\x80[\x03-\x05]", head):
        # The reader that runs nothing knows protocol 2, PyTorch's own.
        return (
            f"a pickle of protocol {head[1]}, which can run code and is not opened",
            "save the state_dict with torch.save and its own protocol, or as .safetensors",
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page", "the download went wrong, get the file again"
    if text.startswith(b"<?xml"):
        return "text (XML), as OpenVINO describes networks in", _ORIGIN
    if text.startswith((b"{", b"[")):
        return "text (JSON)", "name the file that has the weights"
    if re.match(rb"[\x81-\x8f\xde\xdf].{0,4}?[\xa1-\xbf\xd9][a-z]", head, re.DOTALL):
        return _SUFFIXES[".msgpack"]
    if ".data-" in path.name and "-of-" in path.name:
        return "a part of TensorFlow's checkpoint", _SAVE_AGAIN
    if path.suffix.lower() in _SUFFIXES:
        return _SUFFIXES[path.suffix.lower()]
    # Protocol buffers have no mark; both begin with a version, TensorFlow's is 1, and what follows it.
    if head.startswith(b"\x08\x01\x12"):
        return "a SavedModel of TensorFlow", _SAVE_AGAIN
    if re.match(rb"\x08[\x03-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42]", head):
        return _SUFFIXES[".onnx"]
    return "", ""


def _unknown(path: Path, head: bytes) -> str:
    return (
        f"{path} holds no weights that can be read, it begins with {head[:9]!r}: "
        f"give a .safetensors, .pth, .keras or .h5 file"
    )


def refuse_archive(path: Path, names: Sequence[str]) -> None:
    """Raise DepthwiseError if a ZIP archive with entries of these names holds something else than weights."""
    for pattern, what, load in _PROGRAMS:
        if any(re.search(pattern, name) for name in names):
            raise DepthwiseError(
                f"{path} is {what} and is not run: save its weights where you trust it, with "
                f"torch.save({load.format(repr(str(path)))}, 'weights.pth'), and give weights.pth"
            )
    if names and all(name.endswith(".npy") for name in names):
        raise DepthwiseError(f"{path} is an archive of NumPy arrays (.npz): {_SAVE_AGAIN}")
    inside = [name for name in names if name.lower().endswith(_WEIGHTS)]
    if inside:
        raise DepthwiseError(f"{path} is a ZIP archive around {inside[0]}: {_UNPACK}")


def check_archive(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Raise DepthwiseError for an archive that would grow beyond measure, or that has an entry twice."""
    size = path.stat().st_size
    declared = sum(entry.file_size for entry in entries)
    if declared > MOST_EXPANSION * size:
        raise DepthwiseError(
            f"{path} would unpack from {size:,} to {declared:,} bytes and is not unpacked, weights do not shrink "
            f"like that: get the file from its author again"
        )
    names = [entry.filename for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(names) < MOST_OBJECTS else names
    if twice:
        raise DepthwiseError(f"{path} holds {twice[0]} twice, and which counts is open: get the file again")
