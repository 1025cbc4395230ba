"""How a run is done, apart from what it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from depthwise.bounds import Bounds, check

PATIENCE = 120.0


@dataclass(frozen=True)
class Options:
    """How a run is done on this machine; none of it changes a bit of the result but the device.

    workers: processes that decode images; 0 does it in the training process. checkpoint_minutes, checkpoint_steps:
    how often the state is saved (0 = not by that count). device: "auto" is an accelerator if there is one. processes:
    how many train together on this machine. patience: seconds after which one that says nothing is given up. command,
    spec: what the person typed and what they called the data, for the report.
    """

    workers: Annotated[int, Bounds(0, 256)] = 0
    checkpoint_minutes: Annotated[float, Bounds(0, 1e6)] = 5.0
    checkpoint_steps: Annotated[int, Bounds(0, 2**40)] = 0
    device: str = "auto"
    processes: Annotated[int, Bounds(1, 4096)] = 1
    patience: Annotated[float, Bounds(1, 1e6)] = PATIENCE
    command: Sequence[str] = ()
    spec: str = ""

    def __post_init__(self) -> None:
        check(self)
