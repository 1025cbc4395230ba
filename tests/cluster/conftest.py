"""A Ray cluster for each file of tests: one that stays costs every other test."""

import os
from collections.abc import Iterator

import pytest
from tests.cluster.raylets import Raylets, cluster

# Clusters ask for a token, and what connects to them shows it, as processes inherit both. Ray reads these once.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a1b2c3d4" * 8}


@pytest.fixture(scope="module")
def raylets() -> Iterator[Raylets]:
    """Two nodes on this machine. A test that kills one starts another."""
    with cluster() as running:
        yield running
