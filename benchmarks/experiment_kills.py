"""An experiment twice gives the same numbers, and so does one that is stopped ten times at random moments.

    python benchmarks/experiment_kills.py [--stops 10] [--seed 0]

Two arms with three seeds on scikit-learn's digits, two runs at once: once as it is, once more elsewhere, and once
stopped with Ctrl-C or kill -9, in turns, after a random time, and begun again each time. All that results.json says is
compared but the seconds; so are the SHA-256 of all weights.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "experiment-kills.json"
ARMS = (
    "--arm=x=samples=12800 eval_every=6400 log_every=1 middle=() width=1 entry=(64,) exit=(96,128)",
    "--arm=m=model=mobilenet_v1 samples=12800 eval_every=6400 log_every=1",
)
WORDS = ("experiment", "run", "compare", *ARMS, "--match", "parameters", "--data", "digits", "--seeds", "3")


def start(out: Path) -> subprocess.Popen[bytes]:
    """The command, in a session of its own, as a terminal has it."""
    words = [sys.executable, "-m", "depthwise", *WORDS, "--jobs", "2", "--out", str(out)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(words, stdout=quiet, stderr=quiet, start_new_session=True)


def numbers(out: Path) -> dict[str, Any]:
    """What has no clock in it, with the digests of all weights."""
    results = json.loads((out / "results.json").read_text())
    for arm in results["arms"]:
        del arm["seconds"]
        files = [out / "runs" / name / "bundle" / "model.safetensors" for name in arm["runs"]]
        arm["weights"] = [sha256(file.read_bytes()).hexdigest() for file in files]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    drawn = random.Random(options.seed)
    # A shell's background lets its children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        outs = {name: Path(folder) / name for name in ("unbroken", "again", "stopped")}
        took = []
        for name in ("unbroken", "again"):
            began = time.monotonic()
            assert start(outs[name]).wait() == 0
            took.append(time.monotonic() - began)
        stops = []
        while len(stops) < options.stops:
            process = start(outs["stopped"])
            seconds = drawn.uniform(1, 3 * max(took) / options.stops)  # much of it goes into beginning again
            how = signal.SIGKILL if len(stops) % 2 else signal.SIGINT
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(how)
                process.wait()
                stops.append({"signal": how.name, "after_seconds": round(seconds, 1)})
                time.sleep(2)  # for workers to end, once nobody asks them any more
                continue
            print("it ended before the next stop: give fewer --stops, or longer arms", file=sys.stderr)
            break
        assert start(outs["stopped"]).wait() == 0
        found = {name: numbers(out) for name, out in outs.items()}
    result = {
        "command": f"python benchmarks/experiment_kills.py --stops {options.stops} --seed {options.seed}",
        "runs": found["unbroken"]["runs"]["finished"],
        "seconds_unbroken": round(took[0], 1),
        "stops": stops,
        "again_equal": found["again"] == found["unbroken"],
        "stopped_equal": found["stopped"] == found["unbroken"],
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
