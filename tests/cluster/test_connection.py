"""A cluster is there, or a sentence says what is missing."""

import signal
import socket
import sys
from pathlib import Path

import pytest
from tests.cluster.raylets import CPUS, Raylets
from tests.processes import start

from depthwise.cluster.connection import connected
from depthwise.errors import DepthwiseError, UsageError


def enter(address: str) -> None:
    with connected(address):
        pass


def test_connected_and_left(raylets: Raylets) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with connected(raylets.address) as cluster:
        assert cluster.cpus == 2 * CPUS
        assert cluster.gpus == 0
        # As in a program that has connected itself.
        enter("auto")
        enter(raylets.address)
        with pytest.raises(DepthwiseError, match=f"is connected to the cluster at {raylets.address} already"):
            enter("127.0.0.9:1")
        assert cluster.ray.is_initialized()
    assert not cluster.ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_cluster_that_asks_for_its_token_is_told_of(raylets: Raylets, tmp_path: Path) -> None:
    words = ("--data", "digits", "--out", str(tmp_path / "run"), "--ray", raylets.address)
    driver = start("train", *words, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="", HOME=str(tmp_path))
    assert driver.code() == 1
    assert driver.printed[1].endswith(  # after lines of Ray's own
        f"error: --ray {raylets.address}: the cluster asks for its token: set RAY_AUTH_MODE=token here, and "
        "RAY_AUTH_TOKEN to it unless it is in ~/.ray/auth_token\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["local", "ray://127.0.0.1:10001", "127.0.0.1", "127.0.0.1:port", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is no address of a cluster's head: give HOST:PORT, or auto"):
        enter(address)


def test_where_nobody_answers_that_is_said_at_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(DepthwiseError, match=f"ray=127.0.0.1:{port}: nobody answers there"):
            enter(f"127.0.0.1:{port}")


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DepthwiseError, match=r"pip install 'depthwise\[cluster\]'"):
        enter("auto")
