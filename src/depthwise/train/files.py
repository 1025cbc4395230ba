"""The run directory: what a run writes, in files that a person, a program and the next `--resume` can read."""

import dataclasses
import json
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch

from depthwise.bundle import CONFIG, is_replaceable
from depthwise.data.dataset import BadImage
from depthwise.errors import DepthwiseError
from depthwise.train.record import read_run
from depthwise.writing import leftover_of, locked, named, written_whole

LOCK = ".lock"
_REMEDY = "wait until it ends, or choose another --out"


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The paths inside the run directory `root`."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def pushes(self) -> Path:
        """Of an asynchronous run: what workers brought, in the order in which it counted."""
        return self.root / "pushes.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoints" / "last.safetensors"

    @property
    def best(self) -> Path:
        return self.root / "checkpoints" / "best.safetensors"

    @property
    def next_best(self) -> Path:
        """What `best` will be as soon as `checkpoint` knows of it."""
        return self.root / "checkpoints" / "next-best.safetensors"

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def bad_images(self) -> Path:
        return self.root / "bad-images.tsv"

    @property
    def finished(self) -> bool:
        """Whether the run left all that it should: the report is written last."""
        return self.report.is_file() and (self.bundle / CONFIG).is_file()

    def begun_by(self, launch: str | None) -> bool:
        """Whether the run that is here was begun by this `launch` of several processes."""
        return self.run.is_file() and self.read_run().get("launch") == launch

    @property
    def starting(self) -> Path:
        """What marks a run that was begun and has no checkpoint yet; see `create`."""
        return self.root / ".starting"

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """This process alone writes in the directory inside the `with`; false where the file system has no locks.

        The directory is made. Raises DepthwiseError if another process has it, or if it cannot be made.
        """
        if self.root.exists() and not self.root.is_dir():
            raise DepthwiseError(f"{self.root} exists and holds no run: choose another --out")
        with ExitStack() as stack:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(locked(self.root / LOCK, self.root, _REMEDY))
            except OSError as error:
                raise named(error, self.root) from error
            lock.sign()
            yield lock.held

    def check_free(self, *, force: bool) -> None:
        """Raise, before anybody waits for it, what `locked` and `create` would."""
        if self.root.exists():
            with self.locked():
                self._refuse_existing(force=force)
            return
        folder = next(parent for parent in self.root.absolute().parents if parent.exists())
        try:
            TemporaryFile(dir=folder).close()
        except OSError as error:
            raise named(error, self.root) from error

    def _refuse_existing(self, *, force: bool) -> None:
        if self.run.exists() and not force:
            raise DepthwiseError(
                f"{self.root} holds a run already: go on with --resume, replace it with --force, or choose "
                f"another --out"
            )
        begun = self.run.exists() or self.starting.exists()
        if not begun and not all(map(self._is_leftover, self.root.iterdir())):
            raise DepthwiseError(f"{self.root} exists and holds no run: choose another --out")

    def create(self, *, force: bool) -> None:
        """Make room for a new run, inside `locked`; `force` removes the run that is there, and nothing else.

        However the process ends, what is there then is the old run, or no run, or the new one: `starting`, which the
        old run.json becomes, is there as long as nothing else in the directory counts; once there is a run.json
        beside it, the new run can be resumed, from its very start; when it has a checkpoint, `starting` goes.

        Raises DepthwiseError when a run is there and `force` is off, or when files are there that no run wrote.
        """
        self._refuse_existing(force=force)
        if self.run.exists():
            self.run.replace(self.starting)
        elif not self.starting.exists():
            self.starting.touch()
        self._remove(path for path in self.root.iterdir() if self._is_own(path))

    def sweep(self) -> None:
        """Take away, inside `locked`, what a process that was killed left unfinished."""
        folders = (self.root, self.checkpoint.parent)
        found = (path for folder in folders if folder.is_dir() for path in folder.iterdir())
        self._remove(path for path in found if leftover_of(path.name) in self._names)

    def _remove(self, paths: Iterable[Path]) -> None:
        try:
            for path in [*paths]:
                if not path.name.endswith(LOCK):  # some process may have it
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as error:
            raise named(error, self.root) from error

    def read_run(self) -> dict[str, Any]:
        """What run.json says. Raises DepthwiseError unless there is a run to go on with, whose end can be written."""
        if self.run.is_file():
            if not self.checkpoint.is_file() and not self.starting.exists():
                raise DepthwiseError(
                    f"{self.checkpoint} is missing, and only from there could the run go on: put the file back, or "
                    f"start anew with --force"
                )
            self._check_places()
            return read_run(self.run)
        present = self.root.is_dir() and not self.starting.exists()
        if present and (self.checkpoint.exists() or self.metrics.exists()):
            raise DepthwiseError(
                f"{self.run} is missing: put the file back, or choose another --out to start anew"
            )
        raise DepthwiseError(f"{self.root} holds no run to resume: leave --resume out to start one")

    def _check_places(self) -> None:
        """Raise DepthwiseError, before anybody waits for an end, if what is written there could not take its place."""
        if not is_replaceable(self.bundle):
            raise DepthwiseError(
                f"{self.bundle} has no {CONFIG}, so it is no bundle and the run does not replace it: move it away"
            )
        for file in (self.metrics, self.evaluation, self.report, self.bad_images):
            if file.is_dir():
                raise DepthwiseError(f"{file} is a folder, and the run writes a file there: move it away")

    @property
    def _names(self) -> set[str]:
        """What is written whole: its leftovers are known by these names."""
        files = (self.run, self.metrics, self.pushes, self.evaluation, self.report, self.bad_images)
        return {file.name for file in (*files, self.bundle, self.checkpoint, self.best, self.next_best)}

    def _is_own(self, path: Path) -> bool:
        """Whether a run writes `path`, in the directory; run.json and what marks its start apart."""
        names = self._names - {self.run.name} | {self.checkpoint.parent.name, f".{self.bundle.name}.previous"}
        return path.name in names or path.name.startswith("events.out.tfevents.") or self._is_leftover(path)

    def _is_leftover(self, path: Path) -> bool:
        """Whether a process that was killed before it had written anything whole leaves `path` in the directory."""
        if path == self.checkpoint.parent:
            return path.is_dir() and all(map(self._is_leftover, path.iterdir()))
        return path.name == LOCK or leftover_of(path.name) in self._names

    def write_bad_images(self, bad: Iterable[BadImage]) -> None:
        """bad-images.tsv: path, tab, reason; one line an image that was left out. No file when there is none."""
        lines = [f"{_field(image.path)}\t{_field(image.reason)}\n" for image in bad]
        if lines:
            write_text(self.bad_images, "".join(["path\treason\n", *lines]))


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; raises what `written_whole` does."""
    with written_whole(path) as file:
        file.write(text.encode("utf-8", errors="surrogateescape"))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def environment(device: torch.device, native: str, decoder: str) -> dict[str, str]:
    """What a run's bits depend on besides recipe and data: versions, processor, threads."""
    import torchvision

    import depthwise

    return {
        "depthwise": depthwise.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
        "native": native,
        "jpeg": decoder,
    }


def _field(text: str) -> str:
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
