"""One engine in a process of its own: it gets ready, says so, and runs for every line that it is sent.

Of two runs behind one another the second is timed: the first wakes the threads and brings the weights back.

Standard input: a line of JSON, {"name", "arguments", "seed", "shape", "engine", "threads", "logits"}, then an empty
line for every run. Standard output: a line of JSON, {} or {"absent": why}, then the seconds of each run.
"""

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what an engine prints is not an answer
    job = json.loads(sys.stdin.readline())
    import torch

    torch.set_num_threads(job["threads"])
    torch.set_grad_enabled(False)
    try:
        run, x = _prepare(job)
        logits = run(x)
        for _ in range(2):
            run(x)
    except Exception as error:
        answers.write(json.dumps({"absent": f"{type(error).__name__}: {error}".partition("\n")[0]}) + "\n")
        return
    torch.save(logits, job["logits"])
    answers.write("{}\n")
    for _ in sys.stdin:
        run(x)
        began = time.perf_counter()
        run(x)
        answers.write(f"{time.perf_counter() - began}\n")


def _prepare(job: dict[str, Any]) -> Any:
    import torch

    from depthwise.bench.engines import ENGINES
    from depthwise.models import create_model

    torch.manual_seed(job["seed"])
    network = create_model(job["name"], **job["arguments"]).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.running_var is not None:
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    x = torch.randn(job["shape"])
    return ENGINES[job["engine"]].prepare(network, x, job["threads"]), x


if __name__ == "__main__":
    main()
