"""Traces kept in the user's cache, because tracing a network takes seconds."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depthwise.data.cache import cache_folder
from depthwise.errors import DepthwiseError
from depthwise.infer import trace
from depthwise.infer.graph import Graph
from depthwise.infer.lower import lowered
from depthwise.reading import read_regular
from depthwise.writing import written_whole

MOST_KEPT = 200
"""Files; beyond that the oldest are removed."""

# What a trace depends on besides the network's name and arguments.
_SOURCES = (
    "layers.py",
    "models/*.py",
    "native/fused.py",
    "native/chains.py",
    "infer/trace.py",
    "infer/constants.py",
)


class Keeper:
    """A `lower` that keeps traces, for the network that `identity` describes completely except for its weights.

    A trace in the cache is text and numbers with their digest. It is lowered and checked as a new one is, with the
    module's own weights. A trace that is damaged, belongs to another network or cannot be read is made again. A cache
    that cannot be written is not used.
    """

    def __init__(self, identity: Mapping[str, Any]) -> None:
        about = {"torch": torch.__version__, "depthwise": version("depthwise"), "sources": _sources()}
        self.key = _digest(json.dumps([about, identity], sort_keys=True, default=str))

    def lower(self, module: nn.Module, example: Tensor) -> Graph:
        """As `lower.lower`."""
        shape = tuple(example.shape[1:])
        try:
            graph = lowered(self._read(shape), module)
            if graph.shapes[0] == shape:
                return graph
        except DepthwiseError:
            raise  # the network has no compiled form, and a new trace would not change that
        except Exception:
            pass  # there is no trace, or it is damaged
        traced = trace.trace(module, example)
        values = trace.to_json(traced)
        if values is not None:
            self._write(shape, json.dumps(values))
        return lowered(traced, module)

    def has(self, shape: tuple[int, ...]) -> bool:
        """Whether a trace for images [C, H, W] is kept."""
        return self._file(shape).is_file()

    def forget(self, shape: tuple[int, ...]) -> None:
        """Remove the trace for images [C, H, W]."""
        with suppress(OSError):
            self._file(shape).unlink()

    def _file(self, shape: tuple[int, ...]) -> Path:
        return cache_folder() / "traces" / f"{self.key}-{'x'.join(map(str, shape))}.json"

    def _read(self, shape: tuple[int, ...]) -> trace.Trace:
        seal, _, text = read_regular(self._file(shape)).decode().partition("\n")
        if seal != _digest(self._file(shape).name + text):
            raise ValueError("damaged")
        return trace.from_json(json.loads(text))

    def _write(self, shape: tuple[int, ...], text: str) -> None:
        file = self._file(shape)
        with suppress(OSError, DepthwiseError):
            with written_whole(file) as written:
                written.write(f"{_digest(file.name + text)}\n{text}".encode())
            files = sorted(file.parent.glob("*.json"), key=os.path.getmtime)
            for old in files[:-MOST_KEPT]:
                old.unlink()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def _sources() -> str:
    root = Path(__file__).parent.parent
    files = sorted(file for pattern in _SOURCES for file in root.glob(pattern))
    return _digest("".join(file.read_text("utf-8") for file in files))
