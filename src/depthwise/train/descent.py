"""How the updates of a network come about: of which batches, and at which weights their gradients are taken."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from depthwise.data.loader import Batch
from depthwise.train.checkpoint import Checkpoint

if TYPE_CHECKING:
    from depthwise.train.loop import Trainer

Passes = list[list[Batch]]
"""The passes of an update or a push, for each of them the shards that this process holds."""


class Descent(Protocol):
    """What does the updates of a Trainer.

    needed: the gradients, each of `accumulate` passes, of which an update is the mean. position, take_window: what
    lines of metrics say beside, of where the run is, and of the updates since the last line. fixed: whether what is
    done depends on how many updates are still to come. first: the images of the last update's first pass, None if not
    one of them could be read. settle: lets the trainer have the state after its last update, where that is elsewhere.
    """

    needed: int
    fixed: bool

    @property
    def position(self) -> dict[str, Any]: ...

    def update(self, trainer: "Trainer") -> None: ...

    def first(self, trainer: "Trainer") -> Batch | None: ...

    def settle(self, trainer: "Trainer") -> None: ...

    def take_window(self) -> dict[str, Any]: ...

    def checkpoint(self) -> Checkpoint: ...

    def restore(self, trainer: "Trainer", checkpoint: Checkpoint) -> None: ...

    def close(self) -> None: ...


class Synchronous:
    """Each gradient is taken at the weights that it changes; batches come in their order."""

    needed, fixed = 1, False

    def __init__(self) -> None:
        self.position: dict[str, Any] = {}
        self._stream: Iterator[tuple[int, Passes]] | None = None
        self._first: Batch | None = None

    def update(self, trainer: "Trainer") -> None:
        self._first = trainer.gradient([self._drawn(trainer)])
        trainer.apply(max_norm=trainer.recipe.clip_norm)

    def first(self, trainer: "Trainer") -> Batch | None:
        return self._first

    def settle(self, trainer: "Trainer") -> None: ...

    def _drawn(self, trainer: "Trainer") -> tuple[int, Passes]:
        drawn = next(self._stream, None) if self._stream else None
        if drawn is None:  # also after the last update, where a measurement goes on
            self._stream = trainer.passes(range(trainer.step, max(trainer.total_steps, trainer.step + 1)))
            drawn = next(self._stream)
        return drawn

    def take_window(self) -> dict[str, Any]:
        return {}

    def checkpoint(self) -> Checkpoint:
        return Checkpoint({}, {})

    def restore(self, trainer: "Trainer", checkpoint: Checkpoint) -> None:
        self._stream = None

    def close(self) -> None: ...
