"""Running plans by the kernels: the memory that they need, and an error if a caller has less."""

import ctypes
from collections.abc import Sequence

from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.native import structs
from depthwise.native.library import library

LACKS = (
    "",
    "bytes of a map",
    "bytes or channels of its numbers",
    "rows or columns of a map",
    "bytes of scratch",
    "bytes of memory",
)
"""By native/kernels.h's Lack."""


def arrays(**tensors: Tensor | None) -> dict[str, object]:
    """The fields of structs.Step that point to `tensors`, by their names, and the lengths of these in bytes."""
    of_step = {name: tensors.get(name) for name in structs.ARRAYS.split()}
    given = [0 if tensor is None else tensor.nbytes for tensor in of_step.values()]
    addresses = {name: None if tensor is None else tensor.data_ptr() for name, tensor in of_step.items()}
    return {**addresses, "given": (structs.I64 * len(given))(*given)}


def scratch_bytes(run: structs.Run) -> int:
    """The bytes of scratch that each thread of `run` needs; the run's own memory need not be set yet."""
    assert library.handle is not None
    return int(library.handle.depthwise_scratch_bytes(ctypes.byref(run)))


def run_plans(runs: Sequence[structs.Run]) -> list[bool]:
    """Run several plans at the same time, each on one thread, or one plan on any number of threads.

    Returns for each whether all values were finite. If not, its result means nothing, and PyTorch must compute it.
    Raises DepthwiseError, before anything is read or written, if a buffer is smaller than the kernels would use it.
    """
    assert library.handle is not None
    calls, fault = (structs.Run * len(runs))(*runs), structs.Fault()
    lack = library.handle.depthwise_run_plans(calls, len(calls), ctypes.byref(fault))
    if lack:
        raise DepthwiseError(
            f"step {fault.step} of this network needs {fault.needed} {LACKS[lack]} and has {fault.given}, so the "
            f'native kernels do not run it: this is a fault of depthwise, report it, and compile with engine="torch"'
        )
    return [bool(call.finite) for call in calls]
