"""A worker of an asynchronous run: what it makes of the weights that it pulls."""

from collections.abc import Sequence

from depthwise.train.asynchronous.crew import Brought
from depthwise.train.asynchronous.server import Piece
from depthwise.train.asynchronous.state import State, gradients_of, put
from depthwise.train.loop import Trainer


class Worker:
    """Computes gradients by a trainer of its own, which has the run's recipe and images, and the weights of a frozen
    backbone, which are not pulled. It has as many gradients in an update as the run, for these say what a batch is."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def compute(self, batch: int, parts: Sequence[State]) -> Brought:
        """What the batch of this number comes to at the weights of all shards; its gradient is a Piece for each."""
        trainer = self.trainer
        state = {name: value for part in parts for name, value in part.items()}
        put(trainer.module, state)
        trainer.restart_window()
        drawn = next(trainer.passes([batch]))
        trainer.gradient([drawn])
        trainer.clip()
        weight = trainer.weight(drawn[1])
        gradients, buffers = gradients_of(trainer.module), dict(trainer.module.named_buffers())
        pieces = [
            Piece(
                batch,
                weight,
                gradients={name: gradients[name].cpu().clone() for name in part if name in gradients},
                pulled={name: part[name] for name in part if name in buffers},
                buffers={name: buffers[name].cpu().clone() for name in part if name in buffers},
            )
            for part in parts
        ]
        return Brought(trainer.totals.cpu().clone(), weight, pieces)
