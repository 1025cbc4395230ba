"""A set of 200,000 small image files: memory and time of opening it and of `data check`, as a folder and as a manifest.

Each measurement is a process of its own; memory is its peak above what it had when this package and torch were
imported.
The images are noise of 8x8 pixels, each another; the manifest has one to six of 500 tags an image. README's shards of
200,000 files are packed from such a folder (`--folder`).

    python benchmarks/many_files.py [--files 200000] [--folder FOLDER] [--out benchmarks/results/many-files.json]
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, TAGS = 100, 500

MEASURE = """
import json, resource, sys, time
from depthwise.data import open_dataset
from depthwise.data.check import check
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, began = peak(), time.perf_counter()
check(sys.argv[2]) if sys.argv[1] == "check" else open_dataset(sys.argv[2])
seconds = round(time.perf_counter() - began, 1)
print(json.dumps({"seconds": seconds, "libraries_mb": round(before), "mb": round(peak() - before)}))
"""


def make(folder: Path, files: int) -> None:
    """FOLDER/cNN/NNNNNN.png and FOLDER/tags.csv."""
    noise = np.random.default_rng(0)
    chance = random.Random(0)
    for number in range(CLASSES):
        (folder / f"c{number:02}").mkdir(parents=True)
    with (folder / "tags.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(("path", "tags"))
        for number in range(files):
            path = f"c{number % CLASSES:02}/{number:06}.png"
            Image.fromarray(noise.integers(0, 256, (8, 8), np.uint8)).save(folder / path)
            tags = {f"tag{int(chance.paretovariate(0.6)) % TAGS}" for _ in range(6)}
            rows.writerow((path, ";".join(sorted(tags))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="where the set is made, and left")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch, "set")
        if not folder.exists():
            make(folder, arguments.files)
        environment = os.environ | {"XDG_CACHE_HOME": str(Path(scratch, "cache"))}
        found = {}
        for kind, spec in (("folder", folder), ("manifest", folder / "tags.csv")):
            for what in ("check", "open"):
                command = [sys.executable, "-c", MEASURE, what, str(spec)]
                result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                found[f"{kind}, {what}"] = json.loads(result.stdout)
                print(f"{kind:<9} {what:<6}", found[f"{kind}, {what}"], flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps({"files": arguments.files, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
