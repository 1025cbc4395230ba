"""A real server on this machine's own address, and what is sent to it."""

import io
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from PIL import Image
from tests.processes import Forked, start


def png(number: int = 0, size: tuple[int, int] = (48, 40)) -> bytes:
    """A picture like no other number's."""
    picture = Image.linear_gradient("L").resize(size).rotate(37 * number)
    file = io.BytesIO()
    Image.merge("RGB", [picture, picture.rotate(90), picture.rotate(11 * number)]).save(file, "PNG")
    return file.getvalue()


def address(server: Forked) -> str:
    """Waits until it has been printed."""
    while not (found := re.search(r" at (https?://\S+)", server.printed[0])):
        assert not server.ended, server.printed
        time.sleep(0.02)
    return found[1]


@contextmanager
def serving(*arguments: str | Path) -> Iterator[tuple[httpx.Client, Forked]]:
    """`depthwise serve *arguments` on any free port, and a client of it; killed in the end if it has not ended."""
    server = start("serve", *map(str, arguments), "--port", "0", OMP_NUM_THREADS="1")
    try:
        with httpx.Client(base_url=address(server), timeout=60, trust_env=False) as client:
            yield client, server
    finally:
        if not server.ended:
            os.kill(server.pid, signal.SIGKILL)


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    """The sum of the lines of `name` that have the `labels`."""
    lines = re.findall(rf"^depthwise_{name}(?:{{(.*)}})? (\S+)$", client.get("/metrics").text, re.MULTILINE)
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(float(value) for found, value in lines if all(label in found for label in wanted))
