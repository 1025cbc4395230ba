"""How near `Predictor.stream` comes to what decoding and the network alone allow, over JPEG files, in turns.

    python benchmarks/predict_rate.py [--rounds 5] [--images 2000] [--network mobilenet_v1] [--out FILE]

JPEGs of 500x375 in a folder that is made for it, random weights, fp32 on the native kernels. In each round, with all of
PyTorch's threads: decoding alone, in threads; the network alone, on pixels that are there; one after the other, where
one thread decodes a batch and then the network runs on it; and `stream`, where threads decode the next batch meanwhile.
The bound is the seconds of decoding and of the network added up: what they take where no thread ever waits. Prints
images a second, and the median share of the bound, with its range.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from depthwise.bundle import BundleConfig, write_bundle
from depthwise.data import Preprocess
from depthwise.infer import Predictor
from depthwise.models import create_model
from depthwise.ship.load import load
from depthwise.timing import REST, in_turns, ratio, seconds
from serving import CLASSES, NETWORKS, jpeg

BATCH = 32


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="mobilenet_v1")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.jpg" for number in range(options.images)]
        for number, file in enumerate(files):
            file.write_bytes(jpeg(number))
        predictor = network(Path(folder) / "bundle", options.network)
        predictor(files[: 5 * BATCH], batch_size=BATCH)  # the plan is made
        found = measured(predictor, files, options.rounds)
    facts = {"arguments": sys.argv[1:], "threads": torch.get_num_threads()}
    text = json.dumps(facts | found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def network(path: Path, name: str) -> Predictor:
    """`name` with random weights, on the native kernels."""
    torch.manual_seed(0)
    module = create_model(name, num_classes=len(CLASSES))
    size = NETWORKS[name]
    write_bundle(path, BundleConfig(name, CLASSES, Preprocess((size, size), channels=3)), module.state_dict())
    return load(path, engine="native")


def measured(predictor: Predictor, files: Sequence[Path], rounds: int) -> dict[str, object]:
    """Images a second at best, and shares of the bound."""
    batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
    batch = torch.stack([pixels(predictor, file) for file in batches[0]])

    def decoding() -> None:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for _ in pool.map(lambda file: predictor.pixels(file), files):
                pass

    def alone() -> None:
        for part in batches:
            predictor.outputs(batch[: len(part)])

    def one_after_the_other() -> None:
        for part in batches:
            predictor.outputs(torch.stack([pixels(predictor, file) for file in part]))

    def stream() -> None:
        for _ in predictor.stream(files, batch_size=BATCH):
            pass

    measures = {
        "decoding": decoding,
        "network": alone,
        "one after the other": one_after_the_other,
        "stream": stream,
    }
    times = in_turns({key: lambda run=run: seconds(run) for key, run in measures.items()}, rounds, rest=REST)
    bound = [sum(pair) for pair in zip(times["decoding"], times["network"], strict=True)]
    return {
        "images a second": {key: round(len(files) / min(taken), 1) for key, taken in times.items()},
        "share of the bound": {key: ratio(bound, times[key]).to_json() for key in [*measures][2:]},
        "stream, times as fast as one after the other": ratio(
            times["one after the other"], times["stream"]
        ).to_json(),
    }


def pixels(predictor: Predictor, file: Path) -> Tensor:
    found = predictor.pixels(file)
    assert isinstance(found, Tensor)
    return found


if __name__ == "__main__":
    main()
