"""One engine in a process of its own: it gets ready, says so, and runs for every line that it is sent.

Of two runs, one right after the other, the second is timed: the first wakes the threads and brings the weights back.

Standard input: a line of JSON, {"name", "arguments", "seed", "shape", "engine", "threads", "logits"}, then an empty
line for every run. Standard output: a line of JSON, {"memory": bytes} or {"absent": why}, then the seconds of each run.
The engine "roofline" runs no network: it answers with its rates, a line of JSON a run.
"""

import ctypes
import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from depthwise import telemetry
from depthwise.errors import DepthwiseError
from depthwise.timing import seconds
from depthwise.words import in_a_shell

ROOFLINE = "roofline"

NORM_IMAGES = 8  # whose mean and variance the batch norms take


@in_a_shell()
def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what an engine prints is not an answer
    telemetry.switch_off()
    job = json.loads(sys.stdin.readline())
    import torch

    torch.set_num_threads(job["threads"])
    torch.set_grad_enabled(False)
    try:
        ready, turn = _roofline(job) if job["engine"] == ROOFLINE else _engine(job)
    except Exception as error:
        kind = "" if isinstance(error, DepthwiseError) else f"{type(error).__name__}: "
        answers.write(json.dumps({"absent": f"{kind}{error}".partition("\n")[0]}) + "\n")
        return
    answers.write(json.dumps(ready) + "\n")
    for _ in sys.stdin:
        answers.write(json.dumps(turn()) + "\n")


def _roofline(job: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], Any]]:
    from depthwise.bench.roofline import prepare

    return {}, prepare(job["threads"])


def _engine(job: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], Any]]:
    import torch

    from depthwise.bench.engines import ENGINES

    prepare = ENGINES[job["engine"]].prepare
    torch.manual_seed(job["seed"])
    x = torch.randn(job["shape"])
    small = torch.randn(len(x), x.shape[1], 8, 8)
    # Neither an engine's code nor PyTorch's is what a network takes: one that is next to nothing brings them in.
    prepare(_normed(_small(x.shape[1]), small), small, job["threads"])(small)
    before = _resident_bytes()
    run = prepare(_network(job), x, job["threads"])
    for _ in range(3):
        logits = run(x)
    torch.save(logits.clone(), job["logits"])
    del logits
    # PyTorch's export keeps the last network that it has seen, which running does not need.
    prepare(_small(x.shape[1]), small, job["threads"])
    after = _resident_bytes()

    def turn() -> float:
        run(x)
        return seconds(lambda: run(x))

    return {"memory": None if before is None or after is None else after - before}, turn


def _network(job: dict[str, Any]) -> Any:
    """The network of the catalogue, with random weights and batch norms that know the maps these make."""
    import torch

    from depthwise.models import create_model

    torch.manual_seed(job["seed"])
    network = create_model(job["name"], **job["arguments"])
    return _normed(network, torch.randn(NORM_IMAGES, *job["shape"][1:]))


def _normed(network: Any, images: Any) -> Any:
    """With batch norms that have seen the maps of `images`.

    With norms as they begin, values shrink from layer to layer to what no eight bits and at last no float can hold.
    """
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(images)
    return network.eval()


def _small(channels: int) -> Any:
    from torch import nn

    norms = [nn.BatchNorm2d(16) for _ in range(3)]
    parts: list[Any] = [nn.Conv2d(channels, 16, 3, 2, 1), norms[0], nn.ReLU()]
    parts += [nn.Conv2d(16, 16, 3, 1, 1, groups=16), norms[1], nn.Conv2d(16, 16, 1), norms[2], nn.ReLU()]
    parts += [nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(16, 16)).eval()


def _resident_bytes() -> int | None:
    """What of this process lies in memory, once all that is free has gone back to the system; None where none tells."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
