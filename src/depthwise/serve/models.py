"""The models that a service has, by name: each with its predictor and its batcher, replaced while requests come in."""

import hashlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from depthwise.bundle import CONFIG, BundleConfig, find_bundle
from depthwise.data.image import Decoding
from depthwise.errors import DepthwiseError, shown
from depthwise.examples import FOLDER, example_files
from depthwise.infer import Predictor
from depthwise.infer.eventual import Eventual
from depthwise.reading import parse_json, read_regular
from depthwise.serve.batcher import Batcher, Source, Watch, nothing, sizes
from depthwise.serve.limits import Limits, RefusedError
from depthwise.serve.sharing import divided
from depthwise.ship.load import Engine, costs, load

PHOTOGRAPH = (500, 375)
"""Width and height of the JPEG that decoding is measured on: ImageNet's median."""


@dataclass(frozen=True)
class Loading:
    """How bundles are loaded: `engine` and `precision` as in `load`, `threads` of each model, and the limits."""

    limits: Limits
    threads: int
    engine: Engine = "auto"
    precision: Literal["fp32", "bf16"] | None = None


@dataclass(frozen=True)
class Model:
    """A bundle at work. version: of its config, which has the other files' digests. stamp: what changes with them.
    examples: pictures to try it on, by their paths in their folder."""

    name: str
    path: Path
    version: str
    stamp: tuple[int, ...]
    predictor: Predictor
    batcher: Batcher
    config: BundleConfig
    examples: Mapping[str, Path]

    @cached_property
    def costs(self) -> tuple[int, int]:
        """Parameters, and multiply-adds of an image; counted, for up to seconds, when first asked for."""
        return costs(self.config)


def open_model(name: str, path: str | os.PathLike[str], loading: Loading, watch: Watch) -> Model:
    """The bundle or run `path`, loaded and run once on each size of batch. Raises DepthwiseError."""
    stamp, said = stamp_of(path), _said(path)
    decoding = Decoding(max_pixels=loading.limits.max_pixels)
    predictor = load(path, engine=loading.engine, precision=loading.precision, decoding=decoding)
    network_seconds = _warm(predictor, loading.limits.max_batch)
    threads = divided(loading.threads, _decoding_seconds(predictor), network_seconds)
    config, version = BundleConfig.from_json(parse_json(said)), hashlib.sha256(said).hexdigest()[:12]
    batcher = Batcher(predictor, loading.limits, threads, watch)
    bundle = find_bundle(path)
    found = example_files(bundle, lambda file: isinstance(predictor.pixels(str(file)), Tensor))
    examples = {file.relative_to(bundle / FOLDER).as_posix(): file for file in found}
    return Model(name, Path(path), version, stamp, predictor, batcher, config, examples)


def _warm(predictor: Predictor, max_batch: int) -> float:
    """Have the plan made; the seconds of an image on one thread."""
    images = nothing(predictor, sizes(max_batch)[-1])
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        while isinstance(predictor.module, Eventual) and not predictor.module.decided:
            predictor.outputs(images)
        return _seconds(lambda: predictor.outputs(images)) / len(images)
    finally:
        torch.set_num_threads(before)


def _decoding_seconds(predictor: Predictor) -> float:
    generator = torch.Generator().manual_seed(0)
    width, height = PHOTOGRAPH
    noise = torch.rand((height // 8, width // 8, 3), generator=generator).mul(255).to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(noise.numpy()).resize(PHOTOGRAPH).save(file, "JPEG")
    return _seconds(lambda: predictor.pixels(file.getvalue()))


def _seconds(work: Callable[[], object]) -> float:
    """The shorter of two times."""
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def stamp_of(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """What changes when the bundle's files are replaced, without reading them."""
    status = (find_bundle(path) / CONFIG).stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _said(path: str | os.PathLike[str]) -> bytes:
    """The bundle's config as it is on disk."""
    try:
        return read_regular(find_bundle(path) / CONFIG)
    except OSError as error:
        raise DepthwiseError(f"{path}: {error.strerror}: give a bundle that can be read") from error


def unknown_model(name: str | None, models: "Iterable[Model]") -> RefusedError:
    known = ", ".join(model.name for model in models)
    return RefusedError(404, f"there is no model {shown(name)}: ask for one of {known}")


class Models:
    """The models by name, the first of them the one that is meant where none is named."""

    def __init__(self, paths: Mapping[str, str], loading: Loading, watch: Callable[[str], Watch]) -> None:
        self.paths, self.loading, self.watch = paths, loading, watch
        self._models = {name: open_model(name, path, loading, watch(name)) for name, path in paths.items()}
        self._alone = threading.Lock()
        self._failed: dict[str, tuple[int, ...]] = {}

    def __iter__(self) -> Iterator[Model]:
        return iter(list(self._models.values()))

    def get(self, name: str | None = None) -> Model | None:
        """The model of this name as it is now, or the first; None if there is none."""
        return self._models.get(next(iter(self._models)) if name is None else name)

    def submit(
        self, name: str | None, sources: Sequence[Source], deadline: float
    ) -> "tuple[Model, list[Future[Tensor]]]":
        """The model as it is now, and a future of its batcher for each source; raises RefusedError as that does."""
        while True:
            model = self.get(name)
            if model is None:
                raise unknown_model(name, self)
            try:
                return model, model.batcher.submit(sources, deadline)
            except RefusedError:
                if self.get(name) is model:
                    raise  # else another has just taken its place

    def reload(self, *, changed_only: bool) -> list[str]:
        """Load anew what is on disk, or only what has changed there, in the place of what runs; that finishes first.

        Takes as long as loading does. Returns a sentence for each model: it was loaded, or could not be and answers as
        before; with `changed_only` once for each state of its files.
        """
        said = []
        with self._alone:
            for name, model in list(self._models.items()):
                try:
                    stamp = stamp_of(model.path)
                    if changed_only and stamp in (model.stamp, self._failed.get(name)):
                        continue
                    self._failed[name] = stamp
                    after = open_model(name, self.paths[name], self.loading, self.watch(name))
                except (DepthwiseError, OSError) as error:
                    if not (changed_only and isinstance(error, OSError)):  # it is being replaced
                        said.append(f"{name} was not loaded anew and answers as before: {error}")
                    continue
                self._models[name] = after
                del self._failed[name]
                model.batcher.close()
                said.append(f"{name} was loaded anew, version {after.version}")
        return said

    def close(self) -> None:
        """Finish what was taken."""
        for model in self:
            model.batcher.close()
