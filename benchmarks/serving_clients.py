"""The service and what nobody here wrote: schemathesis over its OpenAPI document, and Triton's client.

    pip install 'depthwise[serve]' schemathesis 'tritonclient[http]'
    python benchmarks/serving_clients.py [--examples 100] [--schemathesis COMMAND]

A small network of random weights is served on this machine's own address. Of schemathesis' checks one is left out,
that what fits the document is answered: that bytes are an image, no schema can say. 413 and 408 are refusals, too.
"""

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import tritonclient.http
from PIL import Image

from depthwise.bundle import BundleConfig, write_bundle
from depthwise.data import Preprocess
from depthwise.models import create_model

REFUSALS = [400, 401, 403, 404, 405, 406, 408, 413, 422, 428, "5xx"]
CONFIG = f"""[checks]
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = {json.dumps(REFUSALS)}
"""
RESULTS = Path(__file__).parent / "results/serving-clients.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--schemathesis", default="schemathesis")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = {"width": 0.25, "middle": (), "stem": "small"}
        module = create_model("xception", num_classes=3, **size)
        config = BundleConfig("xception", ("a", "b", "c"), Preprocess((64, 64), channels=3), size)
        write_bundle(Path(folder) / "bundle", config, module.state_dict())
        command = [sys.executable, "-m", "depthwise", "serve", f"a={folder}/bundle", "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout
            url = server.stdout.readline().split(" at ")[1].strip()
            found = {
                "command": f"python benchmarks/serving_clients.py --examples {options.examples}",
                "schemathesis": schemathesis(options.schemathesis, url, options.examples, Path(folder)),
                "triton": triton(url),
            }
        finally:
            server.terminate()
            code = server.wait()
    RESULTS.write_text(json.dumps({**found, "server ended with": code}, indent=1) + "\n")
    print(RESULTS.read_text())


def schemathesis(command: str, url: str, examples: int, folder: Path) -> dict[str, int | str]:
    """How many cases it made, and how many of them failed."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    words = [command, f"--config-file={config}", "run", f"{url}/openapi.json", f"--max-examples={examples}"]
    done = subprocess.run([*words, "--no-color", "--seed=0"], capture_output=True, text=True, cwd=folder)
    print(done.stdout)
    version = subprocess.run([command, "--version"], capture_output=True, text=True).stdout.split()[-1]
    cases = re.search(r"(\d+) generated", done.stdout)
    failed = re.search(r"found (\d+) unique", done.stdout)
    return {
        "version": version,
        "cases": int(cases[1]) if cases else 0,
        "failures": int(failed[1]) if failed else 0,
        "code": done.returncode,
    }


def triton(url: str) -> str:
    """Health, metadata and inference by files, pixels and numbers agree. Raises where they do not."""
    client = tritonclient.http.InferenceServerClient(urlsplit(url).netloc)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("a")
    assert [each["name"] for each in client.get_model_metadata("a")["inputs"]] == ["image", "pixels", "input"]
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    file = io.BytesIO()
    picture.save(file, "PNG")
    image = tritonclient.http.InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([file.getvalue()], dtype=object))
    pixels = tritonclient.http.InferInput("pixels", [1, 64, 64, 3], "UINT8")
    pixels.set_data_from_numpy(np.asarray(picture)[None])
    answers = [client.infer("a", [each], request_id="7") for each in (image, pixels)]
    assert {answer.get_response()["id"] for answer in answers} == {"7"}
    first, second = (answer.as_numpy("probabilities") for answer in answers)
    assert first.shape == (1, 3)
    assert np.abs(first - second).max() < 1e-5
    likeliest = tritonclient.http.InferRequestedOutput("probabilities", class_count=1)
    named = client.infer("a", [pixels], outputs=[likeliest]).as_numpy("probabilities")[0][0].decode()
    assert named.split(":")[2] == "abc"[int(first.argmax())]
    return f"tritonclient {metadata.version('tritonclient')}: all as it should be"


if __name__ == "__main__":
    main()
