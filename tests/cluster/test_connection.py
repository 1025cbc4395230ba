"""A cluster is there, or a sentence says what is missing."""

import socket
import sys

import pytest

from depthwise.cluster.connection import connected
from depthwise.errors import DepthwiseError, UsageError


def enter(address: str) -> None:
    with connected(address):
        pass


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
