"""The run directory: what a run writes, in files that a person, a program and the next `--resume` can read."""

import dataclasses
import json
import platform
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from depthwise.bundle import CONFIG
from depthwise.data.dataset import BadImage
from depthwise.errors import DepthwiseError
from depthwise.writing import written_whole

FORMAT = 1


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

    def create(self, *, force: bool) -> None:
        """Make the directory for a new run; `force` removes the run that is there, and nothing else.

        Raises DepthwiseError when a run is there and `force` is off, or when files are there that no run wrote.
        """
        if self.run.exists():
            if not force:
                raise DepthwiseError(
                    f"{self.root} holds a run already: go on with --resume, replace it with --force, or choose "
                    f"another --out"
                )
            self._remove_run()
        if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise DepthwiseError(f"{self.root} exists and holds no run: choose another --out")
        self.root.mkdir(parents=True, exist_ok=True)

    def _remove_run(self) -> None:
        for folder in (self.checkpoint.parent, self.bundle):
            shutil.rmtree(folder, ignore_errors=True)
        events = self.root.glob("events.out.tfevents.*")
        for file in (self.metrics, self.evaluation, self.report, self.bad_images, *events, self.run):
            file.unlink(missing_ok=True)

    def read_run(self) -> dict[str, Any]:
        """What run.json says. Raises DepthwiseError when there is no run, or one of another format."""
        if not self.run.is_file():
            raise DepthwiseError(f"{self.root} holds no run to resume: leave --resume out to start one")
        try:
            values = json.loads(self.run.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']!r} instead of {FORMAT}")
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DepthwiseError(f"{self.run} cannot be read ({error}): start anew with --force") from None
        return values

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


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line that a kill cut off is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def environment(device: torch.device, native: str) -> dict[str, str]:
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
    }


def _field(text: str) -> str:
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
