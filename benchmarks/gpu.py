"""What only a GPU can show of this project: one JSON document and one page. Without a CUDA device it says so and ends.

    python benchmarks/gpu.py [--out runs/gpu]

1. Training parity: the losses of the same updates on the CPU and on the GPU, in float32 without TF32 and in bfloat16.
2. Inference parity: the logits of the network trained so, in float32, bfloat16 and float16.
3. Speed beside the same networks in timm and torchvision, training and inference in bfloat16, channels last, in turns,
   also with Triton's convolutions.
4. A sweep over batch sizes, with the peak of memory.
5. Triton's depthwise convolution against cuDNN's, by shape, as `DEPTHWISE_TRITON=measure` chooses.

A part that fails says why, and the others are measured all the same. Tolerances were set before any measurement on
a GPU: losses and logits of two devices differ by rounding, which grows with each update.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depthwise.analysis.cost import without_memory
from depthwise.bench.machine import machine
from depthwise.bench.peers import Architecture, peer
from depthwise.data.dataset import ArraySplit, Dataset
from depthwise.data.transform import Augment, Preprocess
from depthwise.evaluate.report import page_environment, page_part
from depthwise.gpu.calls import shapes
from depthwise.gpu.choice import FRAMEWORK, Choices, chosen, measured
from depthwise.gpu.depthwise import available, version
from depthwise.models import create_model
from depthwise.timing import in_turns, ratio, seconds
from depthwise.train.loop import Trainer
from depthwise.train.optimizer import SGD
from depthwise.train.recipe import Recipe

Row = dict[str, Any]

LOSSES = {"float32": 1e-2, "bfloat16": 1e-1}
"""How far losses may be from the CPU's in float32, in parts of these."""
LOGITS = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
"""How far logits may be, in parts of the largest."""


@dataclass(frozen=True)
class Load:
    """A network of ours on square images of `size` pixels."""

    model: str
    size: int
    classes: int = 1000
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return create_model(self.model, num_classes=self.classes, **self.arguments)

    @property
    def peer(self) -> Architecture:
        """The same network of somebody else's."""
        return peer(self.model, {"num_classes": self.classes, **self.arguments})


@dataclass(frozen=True)
class Plan:
    """What is measured: parity on one network, speed and convolutions of `loads`, a sweep of the first of them.

    least: the seconds that a round of a program should take.
    """

    parity: Load
    parity_batch: int
    steps: int
    loads: tuple[Load, ...]
    batch: int
    sweep: tuple[int, ...]
    rounds: int
    least: float


FULL = Plan(
    parity=Load("xception", 128, classes=10, arguments={"width": 0.25, "dropout": 0.0}),
    parity_batch=32,
    steps=50,
    loads=(
        Load("xception", 299),
        Load("mobilenet_v1", 224),
        Load("mobilenet_v2", 224),
    ),
    batch=64,
    sweep=(1, 4, 16, 32, 64, 128, 256),
    rounds=9,
    least=0.5,
)


def trainer(
    load: Load, batch: int, device: torch.device, precision: str, convolutions: Choices = FRAMEWORK
) -> Trainer:
    """Our loop on images of noise in memory."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4 * batch, 3, load.size, load.size), dtype=torch.uint8, generator=generator)
    split = ArraySplit(images, torch.randint(load.classes, (4 * batch,), generator=generator), "noise")
    dataset = Dataset("noise", tuple(map(str, range(load.classes))), {"train": split}, 3, "", "")
    recipe = Recipe(
        name="gpu",
        preprocess=Preprocess((load.size,) * 2, crop_fraction=1.0),
        augment=Augment("none", flip=False),
        batch_size=batch,
        optimizer=SGD(lr=0.01, momentum=0.9),
        norm_momentum=0.1,  # so that the statistics are the trained network's after a few updates
        precision=precision,
    )
    found = Trainer(recipe, load.build(), dataset, device=device)
    found.convolutions = convolutions
    return found


def losses(
    load: Load, batch: int, steps: int, device: torch.device, precision: str
) -> tuple[list[float], nn.Module]:
    """The loss of each update, and the network after them."""
    ours = trainer(load, batch, device, precision)
    found = []
    for _ in range(steps):
        ours.update()
        found.append(ours.take_window().loss)
    ours.close()
    return found, ours.module


@contextmanager
def no_tf32() -> Iterator[None]:
    """float32 is float32: by default cuDNN multiplies it with 10 bits of mantissa."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def parity(plan: Plan, device: torch.device) -> tuple[list[Row], list[Row]]:
    """Of training and of inference, the largest differences from the CPU in float32."""
    cpu, (load, batch) = torch.device("cpu"), (plan.parity, plan.parity_batch)
    expected, module = losses(load, batch, plan.steps, cpu, "float32")
    training = []
    with no_tf32():
        for precision, tolerance in LOSSES.items():
            found, _ = losses(load, batch, plan.steps, device, precision)
            apart = max(abs(a - b) / b for a, b in zip(found, expected, strict=True))
            lasts = {"last_loss_cpu": expected[-1], "last_loss": found[-1]}
            training.append({"precision": precision, **lasts, **verdict(apart, tolerance)})
        inference = logits(module, load, batch, device)
    return training, inference


def logits(module: nn.Module, load: Load, batch: int, device: torch.device) -> list[Row]:
    """How far those of `module`, which is on the CPU, are from the CPU's, and how many images get another class."""
    images = torch.randn(batch, 3, load.size, load.size, generator=torch.Generator().manual_seed(1))
    expected = module.eval()(images).detach()
    module.to(device)
    rows = []
    for precision, tolerance in LOGITS.items():
        found = answering(module, images.to(device), precision)().float().cpu()
        apart = float((found - expected).abs().max() / expected.abs().max())
        others = int((found.argmax(1) != expected.argmax(1)).sum())
        rows.append({"precision": precision, "other_classes": others, **verdict(apart, tolerance)})
    return rows


def verdict(apart: float, tolerance: float) -> Row:
    return {"largest_difference": apart, "tolerance": tolerance, "holds": apart <= tolerance}


def answering(module: nn.Module, images: Tensor, precision: str) -> Callable[[], Tensor]:
    """A forward pass in evaluation, channels last."""
    images, module = images.contiguous(memory_format=torch.channels_last), module.eval()
    dtype = getattr(torch, precision)

    def answer() -> Tensor:
        with (
            torch.inference_mode(),
            torch.autocast(images.device.type, dtype, enabled=dtype is not torch.float32),
        ):
            return module(images)

    return answer


def peer_training(load: Load, batch: int, device: torch.device) -> Callable[[], None]:
    """An update of the peer in a plain loop, as a tutorial has it, on one batch in the device's memory."""
    module = placed(load.peer.build().train(), device)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, load.size, load.size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(load.classes, (batch,), device=device)

    def update() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            output = module(images)
        loss = F.cross_entropy(output.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return update


def peer_answering(load: Load, batch: int, device: torch.device) -> Callable[[], Tensor]:
    return answering(placed(load.peer.build(), device), noise(load, batch, device), "bfloat16")


def placed(module: nn.Module, device: torch.device) -> nn.Module:
    return module.to(device=device, memory_format=torch.channels_last)


def noise(load: Load, batch: int, device: torch.device) -> Tensor:
    return torch.randn(batch, 3, load.size, load.size, device=device)


def speed(plan: Plan, device: torch.device) -> list[Row]:
    """Images a second of ours and of the peers, in turns; how many times as fast ours is, where noise lets one say."""
    rows = []
    for load in plan.loads:
        closing: list[Callable[[], None]] = []
        runs: dict[str, Callable[[], Any]] = {}
        tables = {"depthwise": FRAMEWORK}
        if found := choices(load, plan.batch, device):
            tables["depthwise, Triton's convolutions"] = found
        for name, table in tables.items():
            ours = trainer(load, plan.batch, device, "bfloat16", table)
            closing.append(ours.close)
            runs[name] = ours.update
        runs[load.peer.title] = peer_training(load, plan.batch, device)
        rows += compared(load, "training", plan, runs, device)
        for close in closing:
            close()
        runs = {
            "depthwise": answering(placed(load.build(), device), noise(load, plan.batch, device), "bfloat16"),
            load.peer.title: peer_answering(load, plan.batch, device),
        }
        rows += compared(load, "inference", plan, runs, device)
    return rows


def choices(load: Load, batch: int, device: torch.device) -> Choices:
    """Which of the network's convolutions are Triton's, as a run would have it."""
    kinds = shapes(without_memory(load.build()), (3, load.size, load.size), "bfloat16")
    return chosen(kinds, batch, device, lambda text: print(text, file=sys.stderr))


def compared(
    load: Load, what: str, plan: Plan, runs: Mapping[str, Callable[[], Any]], device: torch.device
) -> list[Row]:
    times = in_turns({name: timer(run, plan.least, device) for name, run in runs.items()}, plan.rounds)
    rows = []
    for name, taken in times.items():
        faster = ratio(taken, times["depthwise"])
        rows.append(
            {
                "network": load.model,
                "what": what,
                "batch": plan.batch,
                "program": name,
                "images_per_second": plan.batch / median(taken),
                "depthwise_times_as_fast": faster.times,
                "lowest": faster.lowest,
                "highest": faster.highest,
            }
        )
    return rows


def timer(run: Callable[[], Any], least: float, device: torch.device) -> Callable[[], float]:
    """What gives the seconds of a `run`, warmed up, over so many of them that they take `least` together."""

    def several(count: int) -> None:
        for _ in range(count):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    several(3)
    count = max(1, round(least / seconds(partial(several, 1))))
    return lambda: seconds(partial(several, count)) / count


def sweep(plan: Plan, device: torch.device) -> list[Row]:
    """Of the first network, images a second and the peak of memory by batch size, until there is no memory."""
    load, rows = plan.loads[0], []
    for batch in plan.sweep:
        try:
            ours = trainer(load, batch, device, "bfloat16")
            training, taken = spent(ours.update, plan, device)
            ours.close()
            answer = answering(ours.module, noise(load, batch, device), "bfloat16")
            inference, held = spent(answer, plan, device)
        except torch.OutOfMemoryError:
            rows.append({"batch": batch, "training": "out of memory"})
            break
        rows.append(
            {
                "batch": batch,
                "training": batch / training,
                "training_bytes": taken,
                "inference": batch / inference,
                "inference_bytes": held,
            }
        )
    return rows


def spent(run: Callable[[], Any], plan: Plan, device: torch.device) -> tuple[float, int | None]:
    """The median of the seconds of a `run`, and the most bytes that were taken on the GPU meanwhile."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    time = timer(run, plan.least, device)
    taken = median(time() for _ in range(plan.rounds))
    return taken, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def kernels(plan: Plan, device: torch.device) -> list[Row]:
    """Triton's convolution against the framework's, each shape of each network, in both dtypes."""
    rows = []
    for load in plan.loads:
        module = without_memory(load.build())
        for dtype in ("bfloat16", "float32"):
            for shape in shapes(module, (3, load.size, load.size), dtype):
                found = asdict(measured(shape, plan.batch, device))
                rows.append({"network": load.model, "batch": plan.batch, **found.pop("shape"), **found})
    return rows


def document(plan: Plan, device: torch.device) -> dict[str, Any]:
    """All of it."""
    found = {"training parity": attempted("parity", partial(parity, plan, device))}
    both = found["training parity"]
    if "rows" in both:
        found["training parity"], found["inference parity"] = ({"rows": rows} for rows in both["rows"])
    for name, part in (("speed", speed), ("batch sizes", sweep), ("convolutions", kernels)):
        found[name] = attempted(name, partial(part, plan, device))
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": describe(device),
        "machine": machine(),
        "plan": asdict(plan),
        "parts": found,
    }


def attempted(name: str, run: Callable[[], Any]) -> dict[str, Any]:
    print(f"== {name}", file=sys.stderr)
    try:
        return {"rows": run()}
    except Exception as error:  # the other parts are worth having
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def describe(device: torch.device) -> Row:
    if device.type != "cuda":
        return {"name": device.type}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory": properties.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": version() if available() else None,
    }


def write(found: dict[str, Any], folder: Path) -> None:
    """gpu.json, and gpu.html made of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(found, indent=2) + "\n")
    template = page_environment("depthwise.evaluate").from_string(
        Path(__file__).with_suffix(".html").read_text()
    )
    (folder / "gpu.html").write_text(template.render(document=found, style=page_part("report.css")))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no CUDA device here, so nothing was measured: run this where PyTorch finds one.")
        return 0
    found = document(FULL, torch.device("cuda"))
    write(found, arguments.out)
    print(f"{arguments.out / 'gpu.json'} and {arguments.out / 'gpu.html'} have the results.")
    return int(any("error" in part for part in found["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
