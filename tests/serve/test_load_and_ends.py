"""A server with more to do than it can, and servers that are stopped."""

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from tests.serve.serving import metric, png, serving

from depthwise.cli.app import run


def hammer(client: httpx.Client, until: threading.Event, codes: Counter[str], image: bytes) -> None:
    """Requests, one after the other, on a connection of its own."""
    with httpx.Client(base_url=client.base_url, timeout=60, trust_env=False) as own:
        while not until.is_set():
            try:
                answer = own.post("/v1/predict", content=image)
            except httpx.TransportError:
                codes["broken"] += 1
                continue
            codes[str(answer.status_code)] += 1
            if answer.status_code == 503:
                assert answer.headers["Retry-After"] == "1"
                time.sleep(0.005)


def hammered(
    client: httpx.Client, clients: int, image: bytes
) -> tuple[list[threading.Thread], list[Counter[str]], threading.Event]:
    until, counts = threading.Event(), [Counter[str]() for _ in range(clients)]
    threads = [threading.Thread(target=hammer, args=(client, until, codes, image)) for codes in counts]
    for thread in threads:
        thread.start()
    return threads, counts, until


def test_more_than_it_can_do(tiny_bundle: Path) -> None:
    options = ("--max-queue", "3", "--max-batch", "4", "--seconds", "30")
    with serving(tiny_bundle, *options) as (client, server):
        threads, counts, until = hammered(client, 10, png(0, (700, 600)))
        while sum(map(sum, (codes.values() for codes in counts))) < 300:
            time.sleep(0.05)
        until.set()
        for thread in threads:
            thread.join()
        codes = sum(counts, Counter())
        assert set(codes) == {"200", "503"}
        broken = {"Content-Type": "multipart/form-data; boundary=x"}
        assert client.post("/v1/predict", content=b"no form", headers=broken).status_code == 400
        for code, number in codes.items():
            assert metric(client, "requests_total", code=code, path="/v1/predict") == number
        assert metric(client, "images_total", outcome="answered") == codes["200"]
        assert metric(client, "batch_images_sum") == codes["200"]
        assert metric(client, "images_shed_total") == codes["503"]
        assert metric(client, "queue_images") == 0
        os.kill(server.pid, signal.SIGTERM)
        assert server.code() == 0
        # And no word of other libraries' loggers.
        assert server.printed[1] == "stopped, all that was taken is answered\n"


@pytest.mark.parametrize(
    ("stop", "code", "sentence"), [("SIGTERM", 0, "stopped"), ("SIGINT", 130, "interrupted")]
)
def test_what_was_taken_is_answered_before_it_ends(
    tiny_bundle: Path, stop: str, code: int, sentence: str
) -> None:
    with serving(tiny_bundle) as (client, server):
        threads, counts, until = hammered(client, 4, png(0, (700, 600)))
        while sum(map(sum, (codes.values() for codes in counts))) < 20:
            time.sleep(0.05)
        # This one is taken, and its body comes only after the stop.
        begun = threading.Event()

        def slowly() -> object:
            begun.set()
            yield png()[:50]
            time.sleep(1)
            yield png()[50:]

        slow: list[int] = []
        sender = threading.Thread(
            target=lambda: slow.append(
                httpx.post(f"{client.base_url}/v1/predict", content=slowly(), trust_env=False).status_code  # type: ignore[arg-type]
            )
        )
        sender.start()
        begun.wait(60)
        time.sleep(0.3)
        os.kill(server.pid, getattr(signal, stop))
        sender.join()
        assert slow == [200]
        assert server.code(60) == code
        until.set()
        for thread in threads:
            thread.join()
        assert set(sum(counts, Counter())) <= {"200", "broken"}
        assert sentence in server.printed[1]


def test_what_cannot_be_served(tiny_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: object) -> tuple[int, str]:
        code = run(["serve", *map(str, arguments)])
        return code, capfd.readouterr().err

    assert said(f"a={tiny_bundle}", f"a={tiny_bundle}") == (
        2,
        "error: two models are called 'a': name them apart, as NAME=PATH\n",
    )
    assert "gives no name that an address can have" in said(f"a/b={tiny_bundle}")[1]
    assert said("nowhere")[0] == 1
    assert said(tiny_bundle, "--allow-urls", "http://a.example/", "--port", 0)[0] == 2
    with serving(tiny_bundle) as (client, _):
        assert client.get("/", headers={"X-Long": 70_000 * "a"}).status_code == 431
        code, sentence = said(tiny_bundle, "--port", client.base_url.port)
        assert code == 1
        assert "cannot be listened on (Address already in use): give another --port or --host" in sentence
