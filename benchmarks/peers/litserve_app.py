"""A bundle served by LitServe, written after its documentation: POST /predict of an image file, in batches.

    python benchmarks/peers/litserve_app.py BUNDLE --port 8000 --workers 1

The body comes to the worker as it is, without base64 or a form. A worker takes one batch after the other, so the
Predictor decodes the whole batch in threads: decode_request is called for one image at a time. batch_timeout is how
long a worker collects a batch; with the default of 0 an idle worker asks its queue without a pause, which takes a core.
fast_queue is what the documentation has for more than 100 requests a second.
"""

import argparse
from typing import Annotated, Any

import litserve
import torch
from fastapi import Body

from depthwise.infer import Prediction
from depthwise.serve.schema import document
from depthwise.ship.load import load

MAX_BATCH = 16
WAIT = 0.01
"""Seconds that a batch is collected for."""


class Classifier(litserve.LitAPI):
    bundle: str

    def setup(self, device: str) -> None:
        self.predictor = load(self.bundle)
        for images in range(1, MAX_BATCH + 1):  # a plan takes its memory when it first meets a size of batch
            self.predictor.outputs(torch.zeros((images, *self.predictor.preprocess.shape), dtype=torch.uint8))

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, files: list[bytes]) -> list[Prediction]:
        return self.predictor(files, batch_size=MAX_BATCH)

    def unbatch(self, output: list[Prediction]) -> list[Prediction]:
        return output

    def encode_response(self, prediction: Prediction) -> Any:
        return {"images": [document("image 0", prediction)]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    api = Classifier(max_batch_size=MAX_BATCH, batch_timeout=WAIT)
    api.bundle = options.bundle
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=options.workers, fast_queue=True, timeout=60
    )
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
