"""What the service counts, for Prometheus; one registry a service."""

import os
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""The environment's name for a folder in which processes of one service count together; prometheus_client heeds it."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The counters of a service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered.", "path", "code")
        self.images = self._counter("images", "Images answered, and refused one by one.", "model", "outcome")
        self.shed = self._counter("images_shed", "Images refused because too many waited.", "model")
        self.dropped = self._counter(
            "images_dropped", "Images taken, and dropped because nobody waited for them any more.", "model"
        )
        self.bytes = self._counter("request_bytes", "Bytes of the bodies of requests.")
        self.seconds = self._histogram("request_seconds", "From a request to its answer.", SECONDS, "path")
        self.queue = self._histogram(
            "queue_seconds", "From an image's arrival to the network.", SECONDS, "model"
        )
        self.decoding = self._histogram("decode_seconds", "Decoding an image.", SECONDS, "model")
        self.network = self._histogram("network_seconds", "A batch in the network.", SECONDS, "model")
        self.batches = self._histogram("batch_images", "Images of a batch.", BATCHES, "model")
        self.depth = Gauge(
            "depthwise_queue_images",
            "Images taken and not answered.",
            ["model"],
            registry=self.registry,
            multiprocess_mode="livesum",
        )

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"depthwise_{name}", help, labels, registry=self.registry)

    def _histogram(self, name: str, help: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"depthwise_{name}", help, labels, buckets=buckets, registry=self.registry)

    def request(self, path: str, code: int, seconds: float) -> None:
        """One was answered with `code`; path: that of the operation, not what was asked for."""
        self.requests.labels(path, str(code)).inc()
        self.seconds.labels(path).observe(seconds)

    def answer(self, model: str, answered: int, refused: int) -> None:
        """Images of a request that was answered."""
        for outcome, images in (("answered", answered), ("refused", refused)):
            if images:
                self.images.labels(model, outcome).inc(images)

    def refuse(self, model: str, images: int) -> None:
        """There was no room for them."""
        self.shed.labels(model).inc(images)

    def watch(self, model: str) -> "Watched":
        """Who is told of the images of `model`."""
        return Watched(self, model)

    def depths(self, depths: Sequence[tuple[str, int]]) -> None:
        """Of each model's queue, now."""
        for model, depth in depths:
            self.depth.labels(model).set(depth)

    def text(self) -> bytes:
        """The exposition format, of all processes of the service together."""
        if folder := os.environ.get(SHARED):
            together = CollectorRegistry()
            MultiProcessCollector(together, folder)
            return generate_latest(together)
        return generate_latest(self.registry)


class Watched:
    """The counters of one model."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._decoding = metrics.decoding.labels(model)
        self._batches = metrics.batches.labels(model)
        self._queue = metrics.queue.labels(model)
        self._network = metrics.network.labels(model)
        self._dropped = metrics.dropped.labels(model)

    def decoded(self, seconds: float) -> None:
        self._decoding.observe(seconds)

    def batch(self, images: int, waited: Sequence[float], seconds: float) -> None:
        self._batches.observe(images)
        self._network.observe(seconds)
        for each in waited:
            self._queue.observe(each)

    def dropped(self, images: int) -> None:
        self._dropped.inc(images)
