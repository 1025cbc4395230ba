"""A training run's whole state in one safetensors file: whole or absent, and nothing in it can run code.

Its metadata hold a SHA-256 of everything else, so that no changed bit goes unnoticed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.writing import written_whole

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """`state` is what JSON can hold (step, counters); `tensors` the network, its average, the optimiser's slots."""

    state: dict[str, Any]
    tensors: dict[str, Tensor]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `path` whole or not at all; raises what `written_whole` does."""
    with written_whole(path) as file:
        file.write(packed(checkpoint))


def packed(checkpoint: Checkpoint) -> bytes:
    """The bytes of a checkpoint's file."""
    dense = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()}
    state = json.dumps(checkpoint.state)
    metadata = {"format": str(FORMAT), "state": state, "digest": _digest(state, dense)}
    return safetensors.torch.save(dense, metadata=metadata)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote. Raises DepthwiseError for a file that is absent, damaged or of another format.

    One of an older version, without a digest, is read unchecked.
    """
    if not path.is_file():
        raise DepthwiseError(f"{path} is missing: put the file back, or start the run again with --force")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if metadata.get("format") != str(FORMAT):
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT}")
        # A name that is not known is a known one with a changed bit.
        if metadata.keys() - {"format", "state", "digest"}:
            raise ValueError("its metadata are not those of a checkpoint")
        state = metadata["state"]
        if metadata.get("digest", None) not in (None, _digest(state, tensors)):
            raise ValueError("its content is not what was written, by its SHA-256")
        return Checkpoint(json.loads(state), tensors)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        raise DepthwiseError(
            f"{path} cannot be read ({error}): start the run again with --force, or put the file back"
        ) from None


def _digest(state: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the state and of each tensor's name, type, shape and values."""
    found = hashlib.sha256(state.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(repr((name, str(tensor.dtype), list(tensor.shape))).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def module_tensors(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """The module's state, each name behind `prefix` and a dot."""
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def restore_module(prefix: str, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what `module_tensors` took, into the memory layout that the module has now."""
    start = len(prefix) + 1
    module.load_state_dict(
        {name[start:]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The optimiser's slots by the names of their parameters: `optimizer.<parameter>/<slot>`."""
    return {
        f"optimizer.{name}/{slot}": value
        for name, parameter in module.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, module: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` took."""
    parameters = dict(module.named_parameters())
    for key, value in tensors.items():
        if not key.startswith("optimizer."):
            continue
        name, slot = key.removeprefix("optimizer.").rsplit("/", 1)
        parameter = parameters[name]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter).copy_(value)
        optimizer.state[parameter][slot] = value
