"""A bundle served by Ray Serve, written after its documentation: POST / of an image file, one replica, in batches.

    python benchmarks/peers/ray_app.py BUNDLE --port 8000 --threads 2 --temporary /tmp/r1

A cluster of its own, which ends with this process. Each request is decoded in a thread while the network runs on the
batch before, as the documentation has it for work that would block the event loop. batch_wait_timeout_s is Ray Serve's
default.
"""

import argparse
import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
import torch
from ray import serve
from starlette.requests import Request
from torch import Tensor

from depthwise.serve.schema import document
from depthwise.ship.load import load

MAX_BATCH = 16
WAIT = 0.01
"""Seconds that a request waits for others."""


@serve.deployment(num_replicas=1, max_ongoing_requests=8 * MAX_BATCH, health_check_timeout_s=600)
class Classifier:
    def __init__(self, bundle: str, threads: int) -> None:
        self.predictor = load(bundle)
        self.decoders = ThreadPoolExecutor(threads)
        self.network = ThreadPoolExecutor(1)
        self.network.submit(self.take_memory).result()

    def take_memory(self) -> None:
        """A plan takes its memory when it first meets a size of batch."""
        for images in range(1, MAX_BATCH + 1):
            self.predictor.outputs(torch.zeros((images, *self.predictor.preprocess.shape), dtype=torch.uint8))

    async def __call__(self, request: Request) -> dict[str, Any]:
        file = await request.body()
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self.decoders, self.predictor.pixels, file)
        if isinstance(pixels, Exception):
            raise pixels
        return await self.answer(pixels)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT)
    async def answer(self, pixels: list[Tensor]) -> list[dict[str, Any]]:
        return await asyncio.get_running_loop().run_in_executor(self.network, self.answers, pixels)

    def answers(self, pixels: list[Tensor]) -> list[dict[str, Any]]:
        probabilities = self.predictor.task.answer(self.predictor.outputs(torch.stack(pixels)))
        predictions = [self.predictor.prediction("image 0", each) for each in probabilities]
        return [{"images": [document("image 0", prediction)]} for prediction in predictions]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--temporary", required=True)
    options = parser.parse_args()
    ray.init(
        "local",
        num_cpus=options.threads,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=options.temporary,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    replica = Classifier.options(ray_actor_options={"num_cpus": options.threads})
    serve.run(replica.bind(options.bundle, options.threads))
    signal.pause()


if __name__ == "__main__":
    main()
