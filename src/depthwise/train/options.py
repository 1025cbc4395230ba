"""How a run is done, apart from what it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from depthwise.bounds import Bounds, check
from depthwise.errors import UsageError

PATIENCE = 120.0


@dataclass(frozen=True)
class Options:
    """How a run is done on this machine; none of it changes a bit of the result but the device.

    workers: processes that decode images; 0 does it in the training process. checkpoint_minutes, checkpoint_steps:
    how often the state is saved (0 = not by that count). device: "auto" is an accelerator if there is one. processes:
    how many train together on this machine, or on a cluster, where there may be as few as `fewest` (0 = no fewer).
    patience: seconds after which one that says nothing is given up. command,
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
    fewest: Annotated[int, Bounds(0, 4096)] = 0

    def __post_init__(self) -> None:
        check(self)


def processes_asked(text: str) -> tuple[int, int]:
    """`Options.fewest` and `processes` of N, or of MIN:MAX where a cluster decides how many there are."""
    fewest, colon, most = text.rpartition(":")
    if not most.isdecimal() or (colon and not fewest.isdecimal()):
        raise UsageError(
            f"--processes {text} is no number of processes: give N, from 1, or MIN:MAX with --ray"
        )
    if colon and not 1 <= int(fewest) <= int(most):
        raise UsageError(f"--processes {text}: give the smaller number first, from 1")
    return int(fewest or 0), int(most)
