"""A service in two processes: each answers, they count together, one that dies is replaced, none outlives it."""

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.serve.serving import metric, png, serving
from tests.serve.test_load_and_ends import hammered

from depthwise.cli.app import run

TWO = ("--processes", "2", "--threads", "2")


def children(pid: int) -> set[int]:
    """The processes of the service that it has started and that are there."""
    started = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(each) for each in started if b"serve.process" in Path(f"/proc/{each}/cmdline").read_bytes()}


def wait_for(what: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def answer(client: httpx.Client) -> int:
    """The status of a request on a connection of its own."""
    return httpx.post(f"{client.base_url}/v1/predict", content=png(), timeout=30, trust_env=False).status_code


def test_each_answers_they_count_together_and_a_dead_one_is_replaced(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, *TWO) as (client, server):
        first = children(server.pid)
        assert len(first) == 2
        for one in first:
            os.kill(one, signal.SIGSTOP)
            assert answer(client) == 200
            os.kill(one, signal.SIGCONT)
        threads, counts, until = hammered(client, 4, png())
        wait_for(lambda: sum(sum(counts, Counter()).values()) > 100)
        until.set()
        for thread in threads:
            thread.join()
        assert set(codes := sum(counts, Counter())) == {"200"}
        assert metric(client, "requests_total", path="/v1/predict") == codes["200"] + 2
        assert metric(client, "images_total", outcome="answered") == codes["200"] + 2
        wait_for(lambda: metric(client, "queue_images") == 0)
        killed = first.pop()
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: len(children(server.pid)) == 2 and killed not in children(server.pid))
        assert "a process of the service ended (signal 9): another takes its place" in server.printed[1]
        [new] = children(server.pid) - first
        os.kill(first.pop(), signal.SIGSTOP)
        assert answer(client) == 200  # by the new one, once it is ready
        for one in children(server.pid) - {new}:
            os.kill(one, signal.SIGCONT)
        assert metric(client, "requests_total", path="/v1/predict") == codes["200"] + 3
        threads, counts, until = hammered(client, 4, png(0, (700, 600)))
        wait_for(lambda: sum(sum(counts, Counter()).values()) > 20)
        left = children(server.pid)
        os.kill(server.pid, signal.SIGTERM)
        assert server.code(60) == 0
        until.set()
        for thread in threads:
            thread.join()
        assert set(sum(counts, Counter())) <= {"200", "broken"}
        assert server.printed[1].endswith("stopped, all that was taken is answered\n")
        assert not any(Path(f"/proc/{one}").exists() for one in left)


def test_a_bundle_is_loaded_anew_by_each_and_none_outlives_who_started_it(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, path)
    with serving(f"a={path}", *TWO) as (_, server):
        both = children(server.pid)
        (path / "model.safetensors").write_bytes(b"broken")
        os.utime(path / "config.json")
        os.kill(server.pid, signal.SIGHUP)
        wait_for(lambda: "a was not loaded anew and answers as before" in server.printed[1])
        time.sleep(1)
        assert server.printed[1].count("was not loaded anew") == 1
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: not any(Path(f"/proc/{one}").exists() for one in both))


def test_what_cannot_begin_is_said_once(
    tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, path)
    (path / "model.safetensors").write_bytes(b"broken")
    assert run(["serve", str(path), "--port", "0", *TWO]) == 1
    assert capfd.readouterr().err.count("error: ") == 1
    assert run(["serve", str(tiny_bundle), "--processes", "3", "--threads", "2"]) == 2
    assert "--processes 3 cannot share 2 threads: give fewer, or more --threads" in capfd.readouterr().err
