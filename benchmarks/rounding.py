"""Whether the native kernels change what is learned by more than rounding does: the losses of the first updates.

    python benchmarks/rounding.py [--steps 500] [--out benchmarks/results/rounding.json]

Fashion-MNIST, the default recipe of `xception`, seed 0, bfloat16, four times: with the kernels, with another rounding
of theirs (without the instruction for products of bfloat16), and on PyTorch's own operators with one thread and with
two, which add in different orders. Losses are means over 50 updates; what two runs differ by is the mean absolute
difference of these.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import combinations
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "rounding.json"
RUNS = {
    "kernels": ("best", 2),
    "kernels, other instructions": ("avx512", 2),
    "PyTorch, 1 thread": ("off", 1),
    "PyTorch, 2 threads": ("off", 2),
}
WINDOW = 50
BATCH = 128


def losses(path: str, threads: int, steps: int) -> list[float]:
    """Of each window of updates, from a training in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"samples={steps * BATCH}", f"batch_size={BATCH}", f"log_every={WINDOW}", "eval_every=1"]
        options = ["--data", "fashion-mnist", "--model", "xception", "--out", f"{folder}/run"]
        subprocess.run(
            [sys.executable, "-m", "depthwise", "train", *options, "--set", *settings, "eval_unit=epochs"],
            env={**os.environ, "DEPTHWISE_NATIVE": path, "OMP_NUM_THREADS": str(threads)},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        lines = map(json.loads, Path(folder, "run", "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if line["kind"] == "train" and line["step"] % WINDOW == 0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = {name: losses(*run, options.steps) for name, run in RUNS.items()}
    differences = {
        f"{one} / {other}": sum(abs(a - b) for a, b in zip(found[one], found[other], strict=True))
        / len(found[one])
        for one, other in combinations(RUNS, 2)
    }
    document = {"command": "python benchmarks/rounding.py", "losses": found, "mean_difference": differences}
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    for pair, difference in differences.items():
        print(f"{pair}: {difference:.4f}")
    print("last losses:", {name: round(run[-1], 4) for name, run in found.items()})


if __name__ == "__main__":
    main()
