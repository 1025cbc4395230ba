"""One Ray cluster for all tests of this folder: it takes seconds to start."""

from collections.abc import Iterator

import pytest
from tests.cluster.raylets import Raylets, cluster


@pytest.fixture(scope="session")
def raylets() -> Iterator[Raylets]:
    """Two nodes on this machine. A test that kills one starts another."""
    with cluster() as running:
        yield running
