"""The service with four times as much to do as it can, and with requests that mean it harm.

    python benchmarks/serving_overload.py [--seconds 60] [--requests 10000]

MobileNet V1 at 224 pixels, random weights, 500x375 JPEGs. First what 16 clients get done is measured; then requests
come at four times that rate, whatever becomes of those before, for so many seconds. Then so many come from 8 clients,
of which one in 20 is hostile: bombs, truncated files, 100,000x1 pixels, no images, wrong JSON, too many bytes,
bodies that never come, connections that are closed early. Clients run on the same cores.
"""

import argparse
import base64
import http.client
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import torch

from depthwise.bundle import BundleConfig, write_bundle
from depthwise.data import Preprocess
from depthwise.models import create_model
from serving import jpeg

RESULTS = Path(__file__).parent / "results/serving-overload.json"
DEADLINE, MOST_BYTES, CLIENTS, OPEN = 2.0, 2**20, 16, 256
TIMES, ONE_IN = 4, 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        classes = tuple(map(str, range(1000)))
        module = create_model("mobilenet_v1", num_classes=len(classes))
        config = BundleConfig("mobilenet_v1", classes, Preprocess((224, 224), channels=3))
        write_bundle(Path(folder) / "bundle", config, module.state_dict())
        command = [sys.executable, "-m", "depthwise", "serve", f"{folder}/bundle", "--port", "0"]
        command += ["--seconds", f"{DEADLINE:g}", "--max-bytes", str(MOST_BYTES)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            place = urlsplit(server.stdout.readline().split(" at ")[1].strip()).netloc
            found = {
                "command": " ".join(["python benchmarks/serving_overload.py", *sys.argv[1:]]),
                "overload": overload(place, server.pid, options.seconds),
                "hostile": hostile(place, server.pid, options.requests),
            }
            server.terminate()
            found["ended with"] = server.wait()
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(RESULTS.read_text())


def overload(place: str, pid: int, seconds: float) -> dict[str, object]:
    """Codes, times of answers, memory, and whether the service counted what its clients did."""
    files = [jpeg(number) for number in range(64)]
    until = time.monotonic() + 10
    done = sum(each(CLIENTS, lambda number: kept_asking(place, files, number, until)))
    rate = TIMES * done / 10
    before, memory, counted = requests(place), [rss(pid)], Counter[str]()
    taken: list[float] = []
    begun, turns, lock = time.monotonic(), iter(range(int(rate * seconds))), threading.Lock()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(place, timeout=60)
        while True:
            with lock:
                turn = next(turns, None)
            if turn is None:
                return
            time.sleep(max(0.0, begun + turn / rate - time.monotonic()))
            asked = time.monotonic()
            code = str(post(connection, files[turn % len(files)]))
            with lock:
                counted[code] += 1
                if code == "200":
                    taken.append(time.monotonic() - asked)
                if turn % 500 == 0:
                    memory.append(rss(pid))

    each(OPEN, client)
    lasted = time.monotonic() - begun
    after = requests(place)
    taken.sort()
    return {
        "requests a second that it can": done / 10,
        "requests a second that came": sum(counted.values()) / lasted,
        "codes": dict(counted),
        "milliseconds of an answer, median and 99%": [
            1000 * taken[int(len(taken) * share)] for share in (0.5, 0.99)
        ],
        "deadline, milliseconds": 1000 * DEADLINE,
        "counted alike": {code: after[code] - before[code] for code in counted} == dict(counted),
        "MiB at the start, half-way, at the end": [memory[0], memory[len(memory) // 2], rss(pid)],
    }


def hostile(place: str, pid: int, number: int) -> dict[str, object]:
    """What became of each kind of request, and what is left of them in the service."""
    files = [jpeg(each) for each in range(8)]
    drawn = random.Random(0)
    kinds = [drawn.choice([*HARM]) if drawn.random() < 1 / ONE_IN else "image" for _ in range(number)]
    turns, lock = iter(kinds), threading.Lock()
    became = {kind: Counter[str]() for kind in ("image", *HARM)}
    before = threads(pid), files_open(pid), rss(pid)

    def client(own: int) -> None:
        connection = http.client.HTTPConnection(place, timeout=60)
        while True:
            with lock:
                kind = next(turns, None)
            if kind is None:
                return
            code = HARM[kind](place) if kind in HARM else post(connection, files[own])
            with lock:
                became[kind][str(code)] += 1

    each(8, client)
    time.sleep(DEADLINE + 1)
    after = threads(pid), files_open(pid), rss(pid)
    labels = ("threads", "open files", "MiB")
    return {
        "codes": {kind: dict(codes) for kind, codes in became.items()},
        **{label: [a, b] for label, a, b in zip(labels, before, after, strict=True)},
    }


def each(number: int, client: Callable[[int], object]) -> list[Any]:
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(client, range(number)))


def kept_asking(place: str, files: list[bytes], number: int, until: float) -> int:
    connection, done = http.client.HTTPConnection(place, timeout=60), 0
    while time.monotonic() < until:
        done += post(connection, files[(number + done) % len(files)]) == 200
    return done


def post(
    connection: http.client.HTTPConnection, body: bytes, kind: str = "application/octet-stream"
) -> int | str:
    """The status, or what became of the connection, which is a new one then."""
    try:
        connection.request("POST", "/v1/predict", body, {"Content-Type": kind})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return type(error).__name__


def sent(place: str, body: bytes, kind: str = "application/octet-stream") -> int | str:
    return post(http.client.HTTPConnection(place, timeout=60), body, kind)


def png(width: int, height: int) -> bytes:
    """A PNG of so many pixels, all black: few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packed = zlib.compressobj(9)
    row = bytes(1 + width)
    rows = b"".join(packed.compress(row) for _ in range(min(height, 64))) + packed.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def never_comes(place: str) -> int | str:
    """Headers, and a body that stops after its first bytes: what is answered, or that the connection was closed."""
    host, _, port = place.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\nfirst bytes")
        answer = connection.recv(4096)
    return int(answer.split()[1]) if answer else "closed"


def half_a_header(place: str) -> int | str:
    host, _, port = place.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-")
        answer = connection.recv(4096)
    return int(answer.split()[1]) if answer else "closed"


def gone_early(place: str) -> str:
    """Closed as soon as the image is sent."""
    host, _, port = place.partition(":")
    body = jpeg(0)
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
    return "gone"


JSON = "application/json"
HARM: dict[str, Callable[[str], int | str]] = {
    "bomb of 60,000x60,000": lambda place: sent(place, png(60_000, 60_000)),
    "100,000x1": lambda place: sent(place, png(100_000, 1)),
    "truncated JPEG": lambda place: sent(place, jpeg(1)[:9000]),
    "text": lambda place: sent(place, b"no image at all"),
    "nothing": lambda place: sent(place, b""),
    "broken JSON": lambda place: sent(place, b'{"images": [', JSON),
    "JSON of wrong types": lambda place: sent(place, b'{"images": {"a": [1, null]}}', JSON),
    "JSON, base64 of nothing": lambda place: sent(
        place, b'{"images": ["%s"]}' % base64.b64encode(b"x"), JSON
    ),
    "too many bytes": lambda place: sent(place, bytes(MOST_BYTES + 1)),
    "a form of nothing": lambda place: sent(place, b"--x--", "multipart/form-data; boundary=x"),
    "a body that never comes": never_comes,
    "half a header": half_a_header,
    "gone early": gone_early,
}


def requests(place: str) -> Counter[str]:
    """What the service has counted, by code."""
    text = urlopen(f"http://{place}/metrics").read().decode()
    found = re.findall(r'^depthwise_requests_total\{code="(\d+)",path="/v1/predict"\} (\S+)$', text, re.M)
    return Counter({code: int(float(value)) for code, value in found})


def rss(pid: int) -> float:
    """MiB in memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    return round(int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024, 1)


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def files_open(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


if __name__ == "__main__":
    main()
