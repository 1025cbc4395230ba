"""A Ray cluster for each file of tests: one that stays costs every other test."""

from collections.abc import Iterator

import pytest
from tests.cluster.raylets import Raylets, cluster


@pytest.fixture(scope="module")
def raylets() -> Iterator[Raylets]:
    """Two nodes on this machine. A test that kills one starts another."""
    with cluster() as running:
        yield running
