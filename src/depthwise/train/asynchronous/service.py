"""What a run with real workers is asked for: how many, and which of their gradients count."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

from depthwise.bounds import Bounds, check
from depthwise.errors import unknown_name


@dataclass(frozen=True)
class Service:
    """Workers on a cluster, and the servers that share the network's tensors out among them.

    workers, servers: how many. bound, divide: as in a `Simulation`.
    """

    workers: Annotated[int, Bounds(1, 4096)] = 1
    servers: Annotated[int, Bounds(1, 4096)] = 1
    bound: Annotated[int, Bounds(0, 2**40)] | None = None
    divide: bool = False
    needed = 1

    def __post_init__(self) -> None:
        check(self, "asynchronous")

    @staticmethod
    def of(settings: Iterable[tuple[str, Any]]) -> "Service":
        """From pairs of a field and its value; raises UsageError, naming the nearest, for a field that is none."""
        return Service(**known_settings(Service, "--asynchronous", settings))

    @property
    def words(self) -> str:
        """It as it is typed."""
        return words_of(self, "workers")


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
