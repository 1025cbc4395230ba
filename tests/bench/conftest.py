"""How the tests of benchmarks start their workers."""

import pytest
from tests import processes

from depthwise.bench import compare, worker


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers do not import torch each: they are forked from a process that has. Other tests start them as they are."""

    def start(each: compare._Worker) -> None:
        each._started = processes.Piped(worker.main)  # type: ignore[assignment]

    monkeypatch.setattr(compare._Worker, "start", start)
