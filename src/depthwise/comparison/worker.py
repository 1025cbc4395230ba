"""A process that does runs of an experiment, one after the other, until nobody asks for more.

Standard input: a line of JSON a run, {"out", "data", "recipe", "workers", "device", "columns", "simulate"}. Standard
output: lines of JSON, {"step", "of"} on the way, then {"ended": true}, {"failed": the sentence}, {"busy": the sentence}
if another process has the run's directory, or {"diverged": the sentence}. When standard input ends, and so when the
program that asked is gone however it went, the run under way is stopped at its next update.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from depthwise import telemetry
from depthwise.errors import DepthwiseError, DivergedError
from depthwise.stops import released
from depthwise.words import in_a_shell
from depthwise.writing import BusyError, disk_full

SAY_SECONDS = 1.0
POLL_SECONDS = 0.1


@in_a_shell()
def main() -> None:
    """Do what is asked for until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is not an answer
    # Ctrl-C reaches all processes of a terminal: who asked answers it, by ending standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    released()
    telemetry.switch_off()
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    while line := asked.get():
        _answer(answers, _done(json.loads(line), answers))


def _listen(asked: "queue.SimpleQueue[str]") -> None:
    """Hand on what comes; at its end stop the run under way, as a terminal does, and say that there is no more."""
    for line in sys.stdin:
        asked.put(line)
    asked.put("")
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # until a run that begins has its own handler
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _done(run: dict[str, Any], answers: TextIO) -> dict[str, Any]:
    from depthwise.data.columns import Columns
    from depthwise.job import Job
    from depthwise.train.asynchronous.simulation import Simulation
    from depthwise.train.options import Options
    from depthwise.train.recipe import Recipe

    out = Path(run["out"])
    options = Options(workers=run["workers"], device=run["device"], checkpoint_minutes=1.0)
    columns = run["columns"] and Columns.from_json(run["columns"])
    try:
        if (out / "run.json").exists():
            Job(out, run["data"], options=options).do("resume", watcher=_Told(answers))
        else:
            recipe = Recipe.from_json(run["recipe"])
            simulate = run["simulate"] and Simulation(**run["simulate"])
            job = Job(
                out, run["data"], recipe=recipe, columns=columns, options=options, simulate=simulate or None
            )
            job.do(watcher=_Told(answers))
    except DivergedError as error:
        return {"diverged": str(error)}
    except BusyError as error:
        return {"busy": str(error)}
    except DepthwiseError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and disk_full(cause):  # of which the run says to resume it
            return {
                "failed": "no space is left: free some, then give the command again, and it goes on there"
            }
        return {"failed": str(error)}
    except KeyboardInterrupt:
        return {"stopped": True}
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}
    return {"ended": True}


class _Told:
    """A Watcher that says how far the run is."""

    def __init__(self, answers: TextIO) -> None:
        self._answers, self._total, self._said = answers, 0, 0.0

    def looking(self, done: int, total: int) -> None: ...

    def start(self, total_steps: int, start_step: int = 0, accuracy: str = "") -> None:
        self._total = total_steps
        self._say(start_step)

    def step(self, step: int, loss: float, accuracy: float, images_per_second: float) -> None:
        if time.monotonic() - self._said >= SAY_SECONDS:
            self._say(step)

    def evaluated(self, line: dict[str, Any]) -> None: ...

    def message(self, text: str) -> None: ...

    def close(self) -> None: ...

    def _say(self, step: int) -> None:
        self._said = time.monotonic()
        _answer(self._answers, {"step": step, "of": self._total})


def _answer(answers: TextIO, document: dict[str, Any]) -> None:
    try:
        answers.write(json.dumps(document) + "\n")
    except OSError:  # nobody listens any more; standard input ends, too
        return


if __name__ == "__main__":
    main()
