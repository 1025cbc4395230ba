"""What the processes of a run do together beside its updates: begin from one state, and measure a network."""

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from depthwise.data.dataset import BadImage, Dataset, Split
from depthwise.evaluate.meters import answering, evaluation_of, run_meters
from depthwise.train.checkpoint import Checkpoint, packed
from depthwise.train.loop import Trainer, for_evaluation
from depthwise.train.recipe import Recipe
from depthwise.train.signals import StopRequest
from depthwise.train.world import Order

Turn = Callable[[], None]


def wanted(recipe: Recipe, dataset: Dataset, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the others need to know of a run: its recipe, the data in `before`, the run.json that it goes on from, and
    by what they see that they have the same images."""
    data = before.get("data") if before else None
    return {"recipe": recipe.to_json(), "data": data, "fingerprint": dataset.fingerprint}


def begin_alike(trainer: Trainer) -> None:
    """Let every process go on from the leader's state; the others are in `follow`."""
    if trainer.world.alone:
        return
    whole = packed(trainer.checkpoint({}))
    trainer.world.lead("begin", {"step": trainer.step, "bytes": len(whole)})
    trainer.world.share_bytes(whole)


def measure(
    trainer: Trainer,
    dataset: Dataset,
    split: Split,
    module: nn.Module,
    meters: Any,
    *,
    precision: str,
    workers: int,
    progress: Callable[..., None],
) -> Any:
    """On the leader, what `meters` make of a `split` of `dataset`, whose batches all processes answer in turns.

    They come in the order in which one process would have them, and each is answered as it would be there.
    """
    if trainer.world.alone:
        batches = for_evaluation(trainer.recipe, dataset, trainer.task, split, workers)
        try:
            return run_meters(
                module, batches, meters, device=trainer.device, precision=precision, progress=progress
            )
        finally:
            batches.close()
    name = next(name for name, known in dataset.splits.items() if known is split)
    own = {id(module): kind for kind, module in trainer.weights.items()}.get(id(module))
    state = module.state_dict()
    trainer.world.lead("measure", {"split": name, "weights": own, "precision": precision})
    if own is None:
        trainer.world.share_tensors(state)

    def turn() -> None:
        progress()
        trainer.world.lead("answer")

    for parts in _rounds(trainer, dataset, name, module, precision, workers, turn):
        for part in parts:
            if len(part["indices"]):
                meters.update(part["output"], part["targets"], part["indices"])
    return evaluation_of(meters)


def all_bad_images(trainer: Trainer) -> list[BadImage]:
    """On the leader, the images of the training that any process could not read."""
    trainer.world.lead("bad")
    return _told_bad(trainer)


def _told_bad(trainer: Trainer) -> list[BadImage]:
    texts = trainer.world.texts(json.dumps([[bad.path, bad.reason] for bad in trainer.batches.bad]))
    return list(dict.fromkeys(BadImage(*bad) for text in texts for bad in json.loads(text)))


def follow(trainer: Trainer, dataset: Dataset, *, workers: int) -> dict[str, Any]:
    """Do what the leader says, until it says what the run has come to.

    Raises KeyboardInterrupt where the leader was stopped before, and LostProcessError.
    """
    world = trainer.world
    with StopRequest() as stop:
        while True:
            order = world.follow(stopping=stop.requested)
            values = order.values
            if order.name == "update":
                trainer.update()
            elif order.name == "begin":
                tensors = safetensors.torch.load(world.share_bytes(bytes(values["bytes"])))
                trainer.restore(Checkpoint({"step": values["step"]}, tensors))
            elif order.name == "bad":
                _told_bad(trainer)
            elif order.name == "measure":
                _answer(trainer, dataset, values, workers, stop)
            elif _is_end(order):
                return values


def _answer(
    trainer: Trainer, dataset: Dataset, values: dict[str, Any], workers: int, stop: StopRequest
) -> None:
    module = trainer.weights.get(values["weights"])
    if module is None:
        module = copy.deepcopy(trainer.module)
        trainer.world.share_tensors(module.state_dict())

    def turn() -> None:
        _is_end(trainer.world.follow(stopping=stop.requested))

    for _ in _rounds(trainer, dataset, values["split"], module, values["precision"], workers, turn):
        pass


def _is_end(order: Order) -> bool:
    if order.name == "stop":
        raise KeyboardInterrupt("process 0 has stopped the run, and says how to go on")
    return order.name == "end"


def _rounds(
    trainer: Trainer,
    dataset: Dataset,
    split: str,
    module: nn.Module,
    precision: str,
    workers: int,
    turn: Turn,
) -> Any:
    """On the leader, the answers to `size` batches at a time; `turn` comes before each round."""
    world = trainer.world
    batches = for_evaluation(trainer.recipe, dataset, trainer.task, dataset.splits[split], workers)
    try:
        with answering(module, trainer.device, precision) as answer:
            stream = batches.epoch(0, world.rank, world.size)
            for _ in range(-(-len(batches) // world.size)):
                turn()
                batch = next(stream, None)
                if batch is None or not len(batch.targets):
                    none = torch.zeros(0)
                    yield world.collect({"output": none, "targets": none, "indices": none})
                    continue
                output: Tensor = answer(batch.images)
                yield world.collect({"output": output, "targets": batch.targets, "indices": batch.indices})
    finally:
        batches.close()
