"""What the front of a parameter server knows of its shards and workers, wherever they are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.train.asynchronous.server import Holding
from depthwise.train.recipe import Recipe


class LostServerError(DepthwiseError):
    """A shard of the parameter server has ended, hangs, or cannot be reached any more, and its weights are lost."""


@dataclass(frozen=True, eq=False)
class Brought:
    """What a worker brings: what its images came to, float32 [3], what their mean loss was divided by, and a gradient
    that may still be where it was computed."""

    window: Tensor
    weight: float
    gradient: Any


@dataclass(frozen=True, eq=False)
class Came:
    """What happened to a worker: it has `brought` something, it is gone for the reason `lost` and another has taken its
    place, or, with neither, it is ready."""

    worker: int
    brought: Brought | None = None
    lost: str = ""


class Crew(Protocol):
    """Shards and workers. What is asked of shards is done in the order of asking, and nobody waits for it.

    Raises LostServerError where a shard does not answer, and DepthwiseError for a worker that cannot work.
    """

    def open(
        self,
        holdings: Sequence[Holding],
        recipe: Recipe,
        tensors: Mapping[str, Tensor],
        version: int,
    ) -> None:
        """Begin with shards of these holdings as at `version`, by a Trainer's checkpoint, and with workers that are not
        ready yet. Again, when shards were lost: workers may be those of before, and bring nothing of then."""

    def send(self, worker: int, batch: int, version: int) -> None:
        """Let a worker pull what the shards have now, `version`, and compute."""

    def wait(self) -> Came:
        """The next that happens."""

    def apply(self, gradient: Any, lr: float | None, version: int) -> None:
        """Let all shards have a gradient of the update that makes `version`, and with the last of them, which has its
        learning rate, take the step."""

    def tensors(self, version: int) -> dict[str, Tensor]:
        """What a checkpoint has of all shards."""

    def close(self) -> None:
        """End them all, if they have begun."""


Hire = Callable[[Mapping[str, Any], int], Crew]
"""Makes a crew for a run, of what `together.wanted` tells of it, with so many workers."""
