"""Images by URL: from hosts that are named, at public addresses, and from nowhere else."""

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from depthwise.errors import shown
from depthwise.serve.limits import RefusedError

PORTS = {"http": 80, "https": 443}


def is_public(address: str) -> bool:
    """Whether an IP address is anybody's in the world: no private, loopback, link-local or otherwise reserved one."""
    one = ipaddress.ip_address(address)
    mapped = getattr(one, "ipv4_mapped", None) or one
    return mapped.is_global and not mapped.is_multicast


def fetched(
    url: str,
    hosts: Collection[str],
    max_bytes: int,
    deadline: float,
    judge: Callable[[str], bool] = is_public,
) -> bytes:
    """The content of `url`, if its host is one of `hosts`, HOST or HOST:PORT. Raises RefusedError. Takes its time.

    The name is resolved once and the connection made to that address, so that it cannot be another one a moment later;
    redirections are not followed. judge: whether an address may be connected to.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        host = ""
    if not host or parts.scheme not in PORTS or parts.username is not None or not url.isascii():
        raise RefusedError(
            400, f"{shown(url)} is no address of an image: give http:// or https://, without a user"
        )
    named = host in hosts and port == PORTS[parts.scheme]
    if not named and f"{host}:{port}" not in hosts:
        raise RefusedError(
            403, f"images from {shown(f'{host}:{port}')} are not fetched here: send the file itself"
        )
    address = _resolved(host, port, judge)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        return _content(parts.scheme, host, address, target, max_bytes, deadline)
    except (OSError, http.client.HTTPException) as error:
        raise RefusedError(502, f"{shown(url)} was not sent ({error}): send the file itself") from None


def _resolved(host: str, port: int, judge: Callable[[str], bool]) -> tuple[str, int]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RefusedError(502, f"{host} is not found ({error.strerror}): send the file itself") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(map(judge, addresses)):
        raise RefusedError(403, f"{host} is at an address that is not public: send the file itself")
    return addresses[0], port


def _content(
    scheme: str, host: str, address: tuple[str, int], target: str, max_bytes: int, deadline: float
) -> bytes:
    def left() -> float:
        if (seconds := deadline - time.monotonic()) <= 0:
            raise TimeoutError("it took too long")
        return seconds

    connection = http.client.HTTPConnection(host, address[1])
    raw = socket.create_connection(address, left())
    try:
        if scheme == "https":
            raw = ssl.create_default_context().wrap_socket(raw, server_hostname=host)
        connection.sock = raw
        default = address[1] == PORTS[scheme]
        headers = {"Host": host if default else f"{host}:{address[1]}", "Accept-Encoding": "identity"}
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise http.client.HTTPException(f"status {answer.status}")
        parts, size = [], 0
        while part := answer.read1(65536):
            raw.settimeout(left())
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise http.client.HTTPException(f"over {max_bytes:,} bytes")
        return b"".join(parts)
    finally:
        raw.close()
