"""The service in a process: its socket, its signals, and its end."""

import asyncio
import logging
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import uvicorn

from depthwise.errors import DepthwiseError
from depthwise.serve.app import build
from depthwise.serve.service import Service

STOPS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Address:
    """Where the service listens; port 0 is any that is free. certificate, key: PEM files, for https."""

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: str | None = None
    key: str | None = None

    def url(self, port: int) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.certificate else ''}://{host}:{port}"


def bound(address: Address) -> socket.socket:
    """A socket that has the address, for nobody else to take it meanwhile. Raises DepthwiseError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((address.host, address.port))
    except OSError as error:
        one.close()
        raise DepthwiseError(
            f"{address.host}:{address.port} cannot be listened on ({error.strerror}): give another --port or --host"
        ) from None
    return one


def check_certificate(address: Address) -> None:
    """Raise DepthwiseError unless its certificate and key can be used, or there are none."""
    if address.certificate is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            address.certificate, address.key, password=lambda: b""
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DepthwiseError(
            f"{address.certificate} is no certificate of the key {address.key} ({reason}): give PEM files that "
            f"belong together"
        ) from None


@dataclass(frozen=True)
class Told:
    """Who is told what: ready, the address once requests are answered there; and sentences on the way."""

    ready: Callable[[str], None]
    note: Callable[[str], None]


def run(service: Service, address: Address, listening: socket.socket, told: Told, *, watch: bool) -> int:
    """Answer requests until a signal comes, and then finish what was taken; which signal it was.

    SIGHUP loads the models anew; with `watch` those are that have changed on disk, looked at every second.
    """
    config = uvicorn.Config(
        build(service),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(service.limits.seconds) + 5,
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
        http="httptools" if find_spec("httptools") else "h11",  # both have what `_close_silent` looks at
        ws="none",
    )
    for name in ("uvicorn", "python_multipart"):  # which warns of each form that is broken
        logging.getLogger(name).setLevel(logging.ERROR)
    server = uvicorn.Server(config)
    stopped: list[int] = []
    before = {number: signal.signal(number, lambda number, _: stopped.append(number)) for number in STOPS}
    if hasattr(signal, "SIGHUP"):
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: _reload(service, told.note, False))
    try:
        url = address.url(listening.getsockname()[1])
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(server, service, listening, told, url, watch))
    finally:
        service.models.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    return stopped[0] if stopped else 0


async def _serve(
    server: uvicorn.Server, service: Service, listening: socket.socket, told: Told, url: str, watch: bool
) -> None:
    watching = asyncio.create_task(_watch(server, service, lambda: told.ready(url)))
    looking = asyncio.create_task(_look(service, told.note)) if watch else None
    try:
        await server.serve([listening])  # which passes its signals on to the handlers of before
    finally:
        watching.cancel()
        if looking:
            looking.cancel()


async def _look(service: Service, note: Callable[[str], None]) -> None:
    """Load every second what has changed on disk."""
    while True:
        await asyncio.sleep(1)
        await asyncio.to_thread(_reloaded, service, note, True)


async def _watch(server: uvicorn.Server, service: Service, ready: Callable[[], None]) -> None:
    """Say when requests are answered, see the end coming, and close what sends no request."""
    while not server.started:
        await asyncio.sleep(0.005)
    ready()
    silent: dict[Any, float] = {}
    while True:
        service.ending = server.should_exit
        service.count_waiting()  # for whichever process is asked
        silent = _close_silent(server, silent, service.limits.seconds)
        await asyncio.sleep(0.05)


def _close_silent(server: uvicorn.Server, since: dict[Any, float], seconds: float) -> dict[Any, float]:
    """Close connections whose request's headers did not come within `seconds`; since when others are silent."""
    now = time.monotonic()
    silent = {}
    connections: list[Any] = list(server.server_state.connections)
    for connection in connections:
        # Between two requests uvicorn has a time limit of its own.
        if connection.cycle is not None and not connection.cycle.response_complete:
            continue
        if connection.timeout_keep_alive_task is not None:
            continue
        silent[connection] = since.get(connection, now)
        if now - silent[connection] > seconds:
            connection.transport.close()
    return silent


def _reload(service: Service, note: Callable[[str], None], changed_only: bool) -> None:
    """Load the models anew beside the requests."""
    threading.Thread(target=_reloaded, args=(service, note, changed_only), daemon=True).start()


def _reloaded(service: Service, note: Callable[[str], None], changed_only: bool) -> None:
    for sentence in service.models.reload(changed_only=changed_only):
        note(sentence)
