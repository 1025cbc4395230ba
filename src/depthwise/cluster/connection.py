"""The connection to a Ray cluster that runs already: nothing here starts one, nor anything that phones home."""

import logging
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from depthwise.errors import DepthwiseError, UsageError

SECONDS = 10.0
"""In which the cluster's head must answer."""


@dataclass(frozen=True)
class Cluster:
    """A cluster as it is now: Ray's module, and its CPUs and GPUs."""

    ray: Any
    cpus: int
    gpus: int


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """This process as a driver of the cluster at `address`, "auto" or HOST:PORT, inside the `with`.

    "auto" is the cluster of this machine, or the one that RAY_ADDRESS names. What workers print stays in Ray's logs. A
    connection that there is already is used, and stays. The handler of SIGTERM stays too.

    Raises UsageError for another kind of address, DepthwiseError where Ray is not installed or nobody answers.
    """
    host, port = _parts(address)
    ray = _ray()
    own = not ray.is_initialized()
    if own:
        if host:
            _reach(host, port, address)
        _connect(ray, address)
    try:
        there = ray.get_runtime_context().gcs_address
        if host and not own and there != address:
            raise DepthwiseError(
                f"--ray {address}: this program is connected to the cluster at {there} already: give that one, or auto"
            )
        found = ray.cluster_resources()
        yield Cluster(ray, int(found.get("CPU", 0)), int(found.get("GPU", 0)))
    finally:
        if own:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace="depthwise")
    except (ConnectionError, RuntimeError, TimeoutError, ValueError, ray.exceptions.RayError) as error:
        if "authentication token" in f"{error} {error.__cause__}".lower():  # from Ray 2.60 on
            raise DepthwiseError(
                f"--ray {address}: the cluster asks for its token: set RAY_AUTH_MODE=token here, and RAY_AUTH_TOKEN to "
                f"it unless it is in ~/.ray/auth_token"
            ) from None
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise DepthwiseError(
            f"--ray {address}: no cluster can be used ({reason:.200}): start one by Ray's own command, ray start, with "
            f"the same versions of Ray and Python"
        ) from None
    finally:
        # Ray puts one of its own there, from the main thread. None is one that Python does not know.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _parts(address: str) -> tuple[str, int]:
    """Host and port; "" and 0 for "auto"."""
    if address == "auto":
        return "", 0
    match = re.fullmatch(r"\[?([^\s\[\]/]+)\]?:(\d{1,5})", address)
    if not match or "//" in address:
        raise UsageError(f"--ray {address} is no address of a cluster's head: give HOST:PORT, or auto")
    return match[1], int(match[2])


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise DepthwiseError(
            "--ray needs Ray, which is not installed: pip install 'depthwise[cluster]'"
        ) from None
    return ray


def _reach(host: str, port: int, address: str) -> None:
    """Find out in seconds what Ray would try for minutes."""
    try:
        socket.create_connection((host, port), SECONDS).close()
    except (OSError, OverflowError) as error:
        raise DepthwiseError(
            f"--ray {address}: nobody answers there ({error}): start one by Ray's own command, ray start"
        ) from None
