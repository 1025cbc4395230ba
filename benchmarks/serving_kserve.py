"""A service asked by the client of the kserve package, in the Open Inference Protocol v2.

    depthwise serve a=BUNDLE --port 8000 &
    pip install kserve && python benchmarks/serving_kserve.py http://127.0.0.1:8000 a

The package may be in an environment of its own: this imports nothing of depthwise. It asks whether server and model are
ready, and for a picture as pixels and as a file, each in JSON and in binary: four answers that must be equal. Writes
benchmarks/results/serving-kserve.json.
"""

import asyncio
import base64
import io
import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from PIL import Image

RESULTS = Path(__file__).parent / "results/serving-kserve.json"


async def main(url: str, model: str) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    assert await client.is_server_ready(url)
    assert await client.is_server_live(url)
    assert await client.is_model_ready(url, model)
    picture, file = Image.linear_gradient("L").resize((64, 64)).convert("RGB"), io.BytesIO()
    picture.save(file, "PNG")
    answers = {}
    for binary in (False, True):
        pixels = InferInput("pixels", [1, 64, 64, 3], "UINT8")
        pixels.set_data_from_numpy(np.asarray(picture)[None], binary_data=binary)
        image = InferInput("image", [1], "BYTES")
        data = file.getvalue() if binary else base64.b64encode(file.getvalue())
        image.set_data_from_numpy(np.array([data], dtype=object), binary_data=binary)
        for given in (pixels, image):
            request = InferRequest(model_name=model, infer_inputs=[given], request_id="7")
            answer = await client.infer(url, request, model_name=model)
            assert answer.id == "7"
            (probabilities,) = (o.as_numpy() for o in answer.outputs if o.name == "probabilities")
            answers[f"{given.name}, {'binary' if binary else 'JSON'}"] = probabilities
    first, *others = answers.values()
    assert all(np.abs(first - other).max() < 1e-6 for other in others)
    found = {"kserve": metadata.version("kserve"), "alike": list(answers), "classes": first.shape[1]}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
