"""The service against the bare pipeline, in turns: throughput with clients that keep their connections, and latency.

    python benchmarks/serving.py [--rounds 9] [--images 256] [--clients 16] [--out FILE]

Xception at 299, MobileNet V1 at 224 pixels, random weights, bf16, 500x375 JPEGs. Bare is `Predictor` in this process:
it decodes files in threads beside the network, in batches of 16, and for the latency one file after the other. The
service is `depthwise serve` with the same number of threads, over loopback; its clients run on the same cores.
"""

import argparse
import http.client
import io
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import torch
from PIL import Image

from depthwise.bundle import BundleConfig, write_bundle
from depthwise.data import Preprocess
from depthwise.models import create_model
from depthwise.ship.load import load
from depthwise.timing import in_turns, ratio, seconds

NETWORKS = {"xception": 299, "mobilenet_v1": 224}
CLASSES = tuple(map(str, range(1000)))
LONE = 20


def main() -> None:
    """Measure each network, and print and write ratios of the bare pipeline to the service."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = {name: measured(name, size, options) for name, size in NETWORKS.items()}
    text = json.dumps({"arguments": sys.argv[1:], "threads": options.threads, **found}, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def measured(name: str, size: int, options: argparse.Namespace) -> dict[str, object]:
    """Shares of the bare pipeline's throughput, and multiples of its latency, with their ranges over the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        torch.manual_seed(0)
        module = create_model(name, num_classes=len(CLASSES))
        compiled = {"precision": "bf16", "engine": "native"}
        config = BundleConfig(name, CLASSES, Preprocess((size, size), channels=3), compiled=compiled)
        write_bundle(path, config, module.state_dict())
        files = [jpeg(number) for number in range(options.images)]
        predictor = load(path)
        command = [sys.executable, "-m", "depthwise", "serve", str(path), "--port", "0"]
        command += ["--threads", str(options.threads), "--seconds", "60"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            place = urlsplit(server.stdout.readline().split(" at ")[1].strip()).netloc
            times = in_turns(
                {
                    "bare": lambda: seconds(lambda: predictor(files, batch_size=16)),
                    "served": lambda: seconds(lambda: asked(place, files, options.clients)),
                    "bare, alone": lambda: seconds(lambda: [predictor(file) for file in files[:LONE]]),
                    "served, alone": lambda: seconds(lambda: asked(place, files[:LONE], 1)),
                },
                options.rounds,
            )
            server.terminate()
    return {
        "throughput, share of bare": ratio(times["bare"], times["served"]).to_json(),
        "latency, multiple of bare": ratio(times["served, alone"], times["bare, alone"]).to_json(),
        "images a second": {side: options.images / min(times[side]) for side in ("bare", "served")},
        "milliseconds alone": {
            side: 1000 * min(times[side]) / LONE for side in ("bare, alone", "served, alone")
        },
    }


def asked(place: str, files: list[bytes], clients: int) -> None:
    """All files answered, by as many clients with a connection each."""

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(place)
        for file in files[number::clients]:
            connection.request("POST", "/v1/predict", file)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200, content
        connection.close()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))


def jpeg(number: int) -> bytes:
    """A picture of 500x375 with about the detail of a photograph."""
    generator = torch.Generator().manual_seed(number)
    coarse = torch.rand((94, 125, 3), generator=generator).mul(255).to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse.numpy()).resize((500, 375)).save(file, "JPEG", quality=90)
    return file.getvalue()


if __name__ == "__main__":
    main()
