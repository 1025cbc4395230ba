"""Where the order of an asynchronous run's pushes comes from: made-up workers, real ones, or the log of another run."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from depthwise.errors import DepthwiseError, UsageError
from depthwise.train.asynchronous.crew import Crew
from depthwise.train.asynchronous.descent import Asynchronous
from depthwise.train.asynchronous.pushes import Log, Push, PushLog, read_log
from depthwise.train.asynchronous.served import Served
from depthwise.train.asynchronous.service import Service
from depthwise.train.asynchronous.simulation import Simulation, simulated
from depthwise.train.recipe import Recipe, differences
from depthwise.train.resume import FREE

Order = Simulation | Service | Log


def order_json(order: Order) -> dict[str, Any]:
    """What run.json keeps of it."""
    if isinstance(order, Simulation):
        return {"simulate": asdict(order)}
    if isinstance(order, Service):
        return {"service": asdict(order)}
    return {"replay": {"log": str(order.path.absolute()), "sha256": order.sha256}}


def kept_order(values: Mapping[str, Any] | None) -> Order | None:
    """What `order_json` gave. Raises DepthwiseError if a log is not there any more, or has changed."""
    if not values:
        return None
    try:
        if "simulate" in values:
            return Simulation.of(values["simulate"].items())
        if "service" in values:
            return Service.of(values["service"].items())
        path, sha256 = Path(values["replay"]["log"]), values["replay"]["sha256"]
    except (LookupError, TypeError, AttributeError, UsageError) as error:
        raise DepthwiseError(
            f"run.json does not say how its asynchronous run goes ({error}): put the file back"
        ) from None
    log = read_log(path)
    if log.sha256 != sha256:
        raise DepthwiseError(
            f"{log.path} has changed since the run began to repeat it: put it back, or start anew with --force"
        )
    return log


def ordered(
    order: Order,
    recipe: Recipe,
    fingerprint: str,
    path: Path,
    crew: Crew | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Asynchronous | Served:
    """The descent of a run by `recipe`, which writes its log to `path`.

    crew: the real workers, if they are at hand. tell: hears of each that is lost.

    Raises UsageError for a recipe that cuts its batches, and for one, or a data set, that is not the repeated run's.
    """
    if recipe.virtual_shards > 1:
        raise UsageError(
            f"virtual_shards={recipe.virtual_shards} cut an update's batch for several processes, and an asynchronous "
            f"worker has a whole one: leave them out"
        )
    values = recipe.to_json()
    if isinstance(order, Simulation | Service):
        needed, divide = order.needed, order.divide
        apart = isinstance(order, Service) and order.backup is not None
    else:
        needed, divide, apart = order.head.needed, order.head.divide, order.head.apart
        _check_same(order, values, fingerprint)
        if order.path.absolute() == path.absolute():
            raise UsageError(f"{path} is the log of the run in --out itself: choose another --out")
    head = {"needed": needed, "divide": divide, "recipe": values, "fingerprint": fingerprint}
    log = PushLog(path, head | ({"apart": True} if apart else {}))
    if isinstance(order, Service):
        return Served(order, crew, log, tell)

    def pushes(updates: int) -> Sequence[Push]:
        return list(simulated(order, updates)) if isinstance(order, Simulation) else order.pushes

    return Asynchronous(pushes, needed=needed, divide=divide, apart=apart, log=log)


def asynchrony(path: Path, values: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the report tells of the run whose log is `path`; nothing of one that is not asynchronous.

    values: as `order_json` gave them.
    """
    if not values:
        return {}
    pushes = read_log(path).pushes
    counts = Counter(push.staleness for push in pushes if push.written)
    stale = sorted(counts)
    if "replay" in values:
        how = f"repeats {values['replay']['log']}"
    elif "service" in values:
        how = f"real workers: {Service.of(values['service'].items()).words}"
    else:
        how = f"made-up workers: {Simulation.of(values['simulate'].items()).words}"
    return {
        "how": how,
        "staleness": stale,
        "gradients": [counts[value] for value in stale],
        "dropped": len(pushes) - counts.total(),
    }


def _check_same(log: Log, recipe: Mapping[str, Any], fingerprint: str) -> None:
    changed = [
        difference
        for difference in differences(log.head.recipe, recipe)
        if difference.partition(":")[0] not in FREE
    ]
    if log.head.fingerprint != fingerprint:
        changed.append(f"data: {log.head.fingerprint} -> {fingerprint}")
    if changed:
        raise DepthwiseError(
            f"{log.path} is of a run by another recipe or on other images ({'; '.join(changed)}): give the same data, "
            f"and leave recipe, model and settings to the log"
        )
