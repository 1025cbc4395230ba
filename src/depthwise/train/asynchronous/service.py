"""What a run with real workers is asked for: how many, and which of their gradients count."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Protocol

from depthwise.bounds import Bounds, check
from depthwise.errors import UsageError, unknown_name
from depthwise.train.asynchronous.ledger import Ledger


@dataclass(frozen=True)
class Service:
    """Workers on a cluster, and the servers that share the network's tensors out among them.

    workers, servers: how many. bound, divide, backup: as in a `Simulation`.
    """

    workers: Annotated[int, Bounds(1, 4096)] = 1
    servers: Annotated[int, Bounds(1, 4096)] = 1
    bound: Annotated[int, Bounds(0, 2**40)] | None = None
    divide: bool = False
    backup: Annotated[int, Bounds(0, 4096)] | None = None

    def __post_init__(self) -> None:
        check(self, "asynchronous")
        refuse_stale("asynchronous", self)

    @staticmethod
    def of(settings: Iterable[tuple[str, Any]]) -> "Service":
        """From pairs of a field and its value; raises UsageError, naming the nearest, for a field that is none."""
        return Service(**known_settings(Service, "--asynchronous", settings))

    @property
    def needed(self) -> int:
        """Gradients in an update."""
        return needed_of(self)

    @property
    def num_workers(self) -> int:
        """Workers in all."""
        return num_workers_of(self)

    @property
    def words(self) -> str:
        """It as it is typed."""
        return words_of(self, "workers")


class Workers(Protocol):
    """What made-up workers and real ones are alike in."""

    @property
    def workers(self) -> int: ...

    @property
    def bound(self) -> int | None: ...

    @property
    def divide(self) -> bool: ...

    @property
    def backup(self) -> int | None: ...


def refuse_stale(kind: str, asked: Workers) -> None:
    """Raise UsageError if workers that wait for each other are asked for what is of stale gradients."""
    if asked.backup is not None and (asked.divide or asked.bound is not None):
        raise UsageError(
            f"{kind}.backup makes all workers wait, and no gradient is stale then: leave bound and divide out"
        )


def needed_of(asked: Workers) -> int:
    """Gradients in an update."""
    return 1 if asked.backup is None else asked.workers


def num_workers_of(asked: Workers) -> int:
    """Workers in all, with those of which the last are not waited for."""
    return asked.workers + (asked.backup or 0)


def ledger_of(asked: Workers, num_updates: int) -> Ledger:
    """That of a run of so many updates."""
    needed, bound = needed_of(asked), asked.bound if asked.backup is None else 0
    return Ledger(num_updates * needed, bound=bound, needed=needed)


def known_settings(kind: Any, option: str, settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """`settings`, pairs of a field of the dataclass `kind` and its value; raises UsageError, naming the nearest, for a
    field that is none."""
    given = dict(settings)
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            raise unknown_name(f"setting of {option}", name, known)
    return given


def words_of(value: Any, always: str) -> str:
    """A dataclass's fields that are not as they are by default, and `always`, as they are typed."""
    plain = asdict(type(value)())
    return " ".join(
        f"{name}={each}" for name, each in asdict(value).items() if name == always or each != plain[name]
    )
