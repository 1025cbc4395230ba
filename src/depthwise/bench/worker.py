"""One engine in a process of its own: it gets ready, says so, and runs for every line that it is sent.

Of two runs, one right after the other, the second is timed: the first wakes the threads and brings the weights back.
Updates of a training that are short are timed several in a row.

Standard input: a line of JSON, {"kind", "threads", ...}, then an empty line for every run. Standard output: a line of
JSON, what is known of the engine or {"absent": why}, then the seconds of each run. By kind:

inference: {"name", "arguments", "seed", "shape", "engine", "logits": file} -> {"memory": bytes, "logits": file}
training: {"name", "arguments", "seed", "shape", "num_classes", "engine"} -> {"memory": most bytes, "losses": list}
roofline: {} -> {}; it answers with its rates, a line of JSON a run.
"""

import ctypes
import gc
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from depthwise import telemetry
from depthwise.errors import DepthwiseError
from depthwise.timing import seconds
from depthwise.words import in_a_shell

Turn = Callable[[], Any]

NORM_IMAGES = 8  # whose mean and variance the batch norms take
UPDATES = 3  # of a training, before it is timed
LEAST_SECONDS = 0.3  # of updates that are timed together


@in_a_shell()
def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what an engine prints is not an answer
    telemetry.switch_off()
    job = json.loads(sys.stdin.readline())
    import torch

    torch.set_num_threads(job["threads"])
    try:
        ready, turn = KINDS[job["kind"]](job)
    except Exception as error:
        kind = "" if isinstance(error, DepthwiseError) else f"{type(error).__name__}: "
        answers.write(json.dumps({"absent": f"{kind}{error}".partition("\n")[0]}) + "\n")
        return
    answers.write(json.dumps(ready) + "\n")
    for _ in sys.stdin:
        answers.write(json.dumps(turn()) + "\n")


def _roofline(job: dict[str, Any]) -> tuple[dict[str, Any], Turn]:
    from depthwise.bench.roofline import prepare

    return {}, prepare(job["threads"])


def _inference(job: dict[str, Any]) -> tuple[dict[str, Any], Turn]:
    import torch

    from depthwise.bench.engines import ENGINES

    torch.set_grad_enabled(False)
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

    return {"memory": _grown(before, after), "logits": job["logits"]}, turn


def _training(job: dict[str, Any]) -> tuple[dict[str, Any], Turn]:
    import torch

    from depthwise.bench.training import LOOPS

    loop, num_classes = LOOPS[job["engine"]], job["num_classes"]
    generator = torch.Generator().manual_seed(job["seed"])
    images = torch.randint(256, job["shape"], dtype=torch.uint8, generator=generator)
    targets = torch.randint(num_classes, (len(images),), generator=generator)
    # As in inference: what loops and PyTorch bring in is not what a network takes.
    small = _small_network(images.shape[1], num_classes)
    loop.prepare(small, images[..., :8, :8].clone(), targets, num_classes)()
    network = loop.architecture(job["name"], job["arguments"])
    before = _resident_bytes()
    torch.manual_seed(job["seed"])
    update = loop.prepare(network.build(), images, targets, num_classes)
    losses = [update() for _ in range(UPDATES)]
    if not all(map(math.isfinite, losses)):
        raise DepthwiseError(f"its losses are {losses}")
    watched = _watch_peak()
    steps = math.ceil(LEAST_SECONDS / seconds(update))
    memory = _grown(before, _most_resident_bytes() if watched else None)

    def turn() -> float:
        update()
        return seconds(lambda: [update() for _ in range(steps)]) / steps

    return {"memory": memory, "losses": losses}, turn


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

    parts = [*_small_parts(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 16)]
    return nn.Sequential(*parts).eval()


def _small_parts(channels: int) -> list[Any]:
    from torch import nn

    norms = [nn.BatchNorm2d(16) for _ in range(3)]
    parts: list[Any] = [nn.Conv2d(channels, 16, 3, 2, 1), norms[0], nn.ReLU()]
    parts += [nn.Conv2d(16, 16, 3, 1, 1, groups=16), norms[1], nn.Conv2d(16, 16, 1), norms[2], nn.ReLU()]
    return [*parts, nn.MaxPool2d(3, 2, 1)]


def _small_network(channels: int, num_classes: int) -> Any:
    """As those of the catalogue are, and next to nothing."""
    from torch import nn

    from depthwise.models.network import Network, Stage

    stage = Stage("small", nn.Sequential(*_small_parts(channels)), 16, 4)
    return Network([stage], num_classes=num_classes, in_channels=channels, input_size=8, min_size=1)


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


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _watch_peak() -> bool:
    """Let `_most_resident_bytes` begin anew; whether the system does it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _most_resident_bytes() -> int | None:
    """The most of this process that lay in memory at once."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return None


KINDS = {"inference": _inference, "training": _training, "roofline": _roofline}


if __name__ == "__main__":
    main()
