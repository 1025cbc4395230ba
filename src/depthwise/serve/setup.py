"""What a service is asked to be, and how it comes to be in a process."""

import logging
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from depthwise.serve.limits import Limits
from depthwise.serve.metrics import Metrics
from depthwise.serve.models import Loading, Models
from depthwise.serve.server import Address, Told, run
from depthwise.serve.service import Service
from depthwise.ship.load import Engine


@dataclass(frozen=True)
class Setup:
    """The models' paths by their names, and what the options of `depthwise serve` say; `threads` are of one process."""

    paths: Mapping[str, str]
    limits: Limits
    address: Address
    threads: int
    engine: Engine = "auto"
    precision: Literal["fp32", "bf16"] | None = None
    topk: int | None = None
    hosts: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    watch: bool = False
    access_log: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Setup":
        of = {"limits": Limits(**values["limits"]), "address": Address(**values["address"])}
        several = {name: tuple(values[name]) for name in ("hosts", "tokens")}
        return Setup(**{**values, **of, **several})


def serve(setup: Setup, listening: socket.socket, told: Told) -> int:
    """Load the models and answer requests at the socket until a signal comes; which signal it was.

    Raises DepthwiseError for a model that cannot be loaded.
    """
    metrics = Metrics()
    loading = Loading(setup.limits, setup.threads, setup.engine, setup.precision)
    models = Models(setup.paths, loading, metrics.watch)
    tokens = tuple(token.encode("ascii") for token in setup.tokens)
    service = Service(models, setup.limits, metrics, setup.topk, frozenset(setup.hosts), tokens)
    if setup.access_log:
        _print_lines("depthwise.serve.access")
    return run(service, setup.address, listening, told, watch=setup.watch)


def _print_lines(name: str) -> None:
    """What is logged under this name goes to standard error as it is."""
    logger = logging.getLogger(name)
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False
