"""A worker of an asynchronous run: what it makes of the weights that it pulls."""

from collections.abc import Sequence

from torch import Tensor

from depthwise.train.asynchronous.server import Piece
from depthwise.train.asynchronous.state import State, put
from depthwise.train.loop import Trainer


class Worker:
    """Computes gradients by a trainer of its own, which has the run's recipe and images, and the weights of a frozen
    backbone, which are not pulled."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def compute(self, batch: int, parts: Sequence[State]) -> tuple[Tensor, list[Piece]]:
        """What the batch of this number comes to at the weights of all shards, and each shard's part of its gradient.

        The first is float32 [3], what `Trainer.count` takes.
        """
        trainer = self.trainer
        state = {name: value for part in parts for name, value in part.items()}
        put(trainer.module, state)
        trainer.restart_window()
        trainer.gradient([next(trainer.passes([batch]))])
        parameters, buffers = dict(trainer.module.named_parameters()), dict(trainer.module.named_buffers())
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        return trainer.totals.cpu().clone(), [
            Piece(
                gradients={name: gradients[name].cpu().clone() for name in part if name in gradients},
                pulled={name: part[name] for name in part if name in buffers},
                buffers={name: buffers[name].cpu().clone() for name in part if name in buffers},
            )
            for part in parts
        ]
